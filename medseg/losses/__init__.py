"""Losses by name: ``loss(logits, target, image=None)``, on logits (B, K, *spatial) and class indices (B, *spatial).

All compute in float32 outside autocast (float64 logits stay float64), and hold neither one-hot truth nor a second
copy of the logits. The image (B, C, *spatial), as the network saw it, is needed by the CRF losses only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from medseg.losses.compound import CrossEntropyDiceLoss, CrossEntropyLogDiceLoss, DiceFocalLoss
from medseg.losses.deep_supervision import DeepSupervision
from medseg.losses.pairwise import cross_entropy_crf, cross_entropy_dice_crf
from medseg.losses.regions import IGNORED, RegionLoss
from medseg.losses.single import CrossEntropyLoss, DiceLoss, GeneralizedDiceLoss, TverskyLoss
from medseg.registry import Registry

__all__ = ["LOSSES", "DeepSupervision", "RegionLoss", "build_loss", "build_region_loss"]

LOSSES: Registry[nn.Module] = Registry(
    "loss",
    {
        "ce": (CrossEntropyLoss, "cross entropy"),
        "dice": (DiceLoss, "Milletari et al. 2016, arXiv:1606.04797; Drozdzal et al. 2016, arXiv:1608.04117"),
        "ce_dice": (CrossEntropyDiceLoss, "Isensee et al. 2021, doi:10.1038/s41592-020-01008-z"),
        "ce_logdice": (CrossEntropyLogDiceLoss, "Wong et al. 2018, arXiv:1809.00076"),
        "ce_crf": (cross_entropy_crf, "Obukhov et al. 2019, arXiv:1906.04651; Marin et al. 2019, arXiv:1809.02322"),
        "ce_dice_crf": (cross_entropy_dice_crf, "ce_dice with the CRF loss of ce_crf"),
        "dice_focal": (DiceFocalLoss, "Zhu et al. 2019, arXiv:1808.05238; Lin et al. 2017, arXiv:1708.02002"),
        "tversky": (TverskyLoss, "Salehi et al. 2017, arXiv:1706.05721"),
        "generalized_dice": (GeneralizedDiceLoss, "Sudre et al. 2017, arXiv:1707.03237"),
    },
)


def build_loss(name: str, **fields: Any) -> nn.Module:
    """Build a loss by its name.

    Args:
        name: A name of `LOSSES`.
        fields: The loss's own arguments; see ``medseg list``.

    Raises:
        UsageError: There is no such loss, or a value is out of its range.
    """
    return LOSSES.build(name, **fields)


def build_region_loss(
    name: str, members: Sequence[Sequence[int]], ignore_index: int | None = None, **fields: Any
) -> RegionLoss:
    """Build a loss of regions, one logit each, by the name of the loss that each of them has.

    Args:
        name: A name of `LOSSES`.
        members: Class indices that each region is made of.
        ignore_index: Voxels with this class index take no part.
        fields: The loss's own arguments but for ``ignore_index``; class weights are those of outside and inside.

    Raises:
        UsageError: There is no such loss, a value is out of its range, or a region has no class.
    """
    ignored = None if ignore_index is None else IGNORED
    return RegionLoss(build_loss(name, **fields, ignore_index=ignored), members, ignore_index)
