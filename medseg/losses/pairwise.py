"""Losses with a CRF term: cross entropy, or cross entropy and Dice, plus the CRF loss."""

from __future__ import annotations

from pydantic import ValidationError
from torch import Tensor, nn

from medseg.crf import CRF, check_window
from medseg.errors import UsageError
from medseg.losses.compound import CrossEntropyDiceLoss
from medseg.losses.counting import check_weight
from medseg.losses.energy import crf_loss
from medseg.losses.single import CrossEntropyLoss


class PairwiseLoss(nn.Module):
    """A loss of voxels and regions, plus a weight times `crf_loss`.

    Args:
        unary: The loss without the CRF.
        crf_weight: Weight of the CRF loss.
        crf: Its kernels.
        spacing_mm: Voxel spacing along the spatial axes of the logits; 1 mm by default.
        ignore_index: Voxels with this target take no part in the CRF loss.

    Raises:
        UsageError: The weight is negative, or the window holds no neighbour.
    """

    def __init__(
        self,
        unary: nn.Module,
        crf_weight: float,
        crf: CRF,
        *,
        spacing_mm: tuple[float, ...] | None = None,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__()
        check_weight("crf_weight", crf_weight)
        if spacing_mm is not None:
            check_window(crf, spacing_mm)
        self.unary, self.crf_weight, self.crf = unary, crf_weight, crf
        self.spacing_mm, self.ignore_index = spacing_mm, ignore_index

    def forward(self, logits: Tensor, target: Tensor, image: Tensor | None = None) -> Tensor:
        """Return the loss of logits (B, K, *spatial), class indices (B, *spatial) and the image (B, C, *spatial).

        Raises:
            UsageError: There is no image, or the shapes do not belong together.
        """
        if image is None:
            raise UsageError(
                "image",
                expected="the image that the network saw, which the CRF loss compares voxels by",
                found="none",
                remedy="call the loss with (logits, target, image), or choose one without crf in its name",
            )
        unary: Tensor = self.unary(logits, target)
        valid = None if self.ignore_index is None else target != self.ignore_index
        return unary + self.crf_weight * crf_loss(logits, image, self.crf, spacing_mm=self.spacing_mm, valid=valid)


def cross_entropy_crf(  # noqa: PLR0913 - what a config may set is flat
    crf_weight: float = 0.1,
    class_weights: tuple[float, ...] | None = None,
    ignore_index: int | None = None,
    *,
    spacing_mm: tuple[float, ...] | None = None,
    bilateral_weight: float = 1.0,
    bilateral_sigma_mm: float = 3.0,
    intensity_sigma: float = 0.2,
    spatial_weight: float = 0.3,
    spatial_sigma_mm: float = 1.0,
    radius_mm: float = 3.0,
    normalize: bool = True,
) -> PairwiseLoss:
    """Return cross entropy + `crf_weight` times the CRF loss.

    Args:
        crf_weight: Lambda, the weight of the CRF loss.
        class_weights: Weight of the voxels of each class in the cross entropy, the background first; 1 by default.
        ignore_index: Voxels with this target take no part.
        spacing_mm: Voxel spacing along the spatial axes of the logits; 1 mm by default.
        bilateral_weight: Of neighbours that look alike.
        bilateral_sigma_mm: Reach of the bilateral kernel.
        intensity_sigma: Difference, in units of the normalised image, that tells tissues apart.
        spatial_weight: Of neighbours whatever they look like.
        spatial_sigma_mm: Reach of the spatial kernel.
        radius_mm: Half the window's width along each axis. The time grows with its cube.
        normalize: Whether the spatial Gaussians sum to 1 over the window; else they peak at 1, as in the papers.

    Raises:
        UsageError: A weight is negative, no class weight is positive, or a width is not.
    """
    return PairwiseLoss(
        CrossEntropyLoss(class_weights, ignore_index),
        crf_weight,
        _kernels(
            bilateral_weight=bilateral_weight,
            bilateral_sigma_mm=bilateral_sigma_mm,
            intensity_sigma=intensity_sigma,
            spatial_weight=spatial_weight,
            spatial_sigma_mm=spatial_sigma_mm,
            radius_mm=radius_mm,
            normalize=normalize,
        ),
        spacing_mm=spacing_mm,
        ignore_index=ignore_index,
    )


def cross_entropy_dice_crf(  # noqa: PLR0913 - what a config may set is flat
    ce_weight: float = 1.0,
    dice_weight: float = 1.0,
    crf_weight: float = 0.1,
    *,
    class_weights: tuple[float, ...] | None = None,
    ignore_index: int | None = None,
    batch: bool = True,
    background: bool = False,
    smooth: float = 1e-5,
    spacing_mm: tuple[float, ...] | None = None,
    bilateral_weight: float = 1.0,
    bilateral_sigma_mm: float = 3.0,
    intensity_sigma: float = 0.2,
    spatial_weight: float = 0.3,
    spatial_sigma_mm: float = 1.0,
    radius_mm: float = 3.0,
    normalize: bool = True,
) -> PairwiseLoss:
    """Return `CrossEntropyDiceLoss` + `crf_weight` times the CRF loss.

    Args:
        ce_weight: As in `CrossEntropyDiceLoss`.
        dice_weight: As in `CrossEntropyDiceLoss`.
        crf_weight: As in `cross_entropy_crf`, and so are the widths and weights of the kernels.
        class_weights: As in `CrossEntropyDiceLoss`.
        ignore_index: Voxels with this target take no part.
        batch: As in `CrossEntropyDiceLoss`.
        background: As in `CrossEntropyDiceLoss`.
        smooth: As in `CrossEntropyDiceLoss`.
        spacing_mm: As in `cross_entropy_crf`.
        bilateral_weight: As in `cross_entropy_crf`.
        bilateral_sigma_mm: As in `cross_entropy_crf`.
        intensity_sigma: As in `cross_entropy_crf`.
        spatial_weight: As in `cross_entropy_crf`.
        spatial_sigma_mm: As in `cross_entropy_crf`.
        radius_mm: As in `cross_entropy_crf`.
        normalize: As in `cross_entropy_crf`.

    Raises:
        UsageError: A weight or `smooth` is negative, no class weight is positive, or a width is not.
    """
    return PairwiseLoss(
        CrossEntropyDiceLoss(ce_weight, dice_weight, class_weights, ignore_index, batch, background, smooth),
        crf_weight,
        _kernels(
            bilateral_weight=bilateral_weight,
            bilateral_sigma_mm=bilateral_sigma_mm,
            intensity_sigma=intensity_sigma,
            spatial_weight=spatial_weight,
            spatial_sigma_mm=spatial_sigma_mm,
            radius_mm=radius_mm,
            normalize=normalize,
        ),
        spacing_mm=spacing_mm,
        ignore_index=ignore_index,
    )


def _kernels(**settings: float) -> CRF:
    try:
        return CRF.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(
            f"loss.{first['loc'][0]}", expected=first["msg"], found=str(first["input"]), remedy="correct it"
        ) from error
