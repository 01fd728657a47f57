"""Which images a model takes."""

from __future__ import annotations

from collections.abc import Sequence

from medseg.data.preprocessing import STORED
from medseg.errors import InputError
from medseg.findings import Finding, FindingCode
from medseg.model import ModelPackage
from medseg.volume import Volume

ANY_MODALITY = "OT"  # DICOM's "other": what an import writes for a channel whose name tells nothing


def check_images(images: Sequence[Volume | None], package: ModelPackage) -> None:
    """Refuse images that a model was not trained on.

    Args:
        images: One a channel; None for one that is missing.
        package: The model.

    Raises:
        InputError: The number of channels or a modality is not the model's, a channel is missing that it needs, or
            it needs more than one slice.
    """
    given = [volume for volume in images if volume is not None]
    source = given[0].source if given else "input"
    if len(images) != len(package.modalities):
        raise InputError(
            source,
            expected=f"{len(package.modalities)} channel(s): {', '.join(package.modalities)}",
            found=f"{len(images)} volume(s)",
            remedy="give one volume for each channel of the model",
        )
    if not given or (len(given) < len(images) and not package.preprocessing.channel_flags):
        raise InputError(
            source,
            expected="every channel that the model was trained on" if given else "at least one channel",
            found=f"{len(given)} of {len(images)}",
            remedy="give the missing ones, or train a model with preprocessing.channel_flags",
        )
    if package.network.spatial_dims == 3 and min(given[0].grid.shape) == 1:
        raise InputError(
            source,
            expected="a volume, as this 3-D model needs",
            found="a single slice",
            remedy="choose a 2-D model, or a series with more slices",
        )
    for volume, modality in zip(images, package.modalities, strict=True):
        if volume is not None and modality != ANY_MODALITY and volume.modality not in (None, modality):
            raise InputError(
                volume.source,
                expected=f"a {modality} image, as the model was trained on",
                found=str(volume.modality),
                remedy="choose a model for this modality",
            )


def orientation_findings(image: Volume, package: ModelPackage) -> tuple[Finding, ...]:
    """Return what is to be said of how an image lies, for a model that takes axes as they are stored.

    DICOM's slices are stacked by rules of their own: the files that the model was trained on may lie otherwise, and
    then the model sees a mirrored patient.

    Args:
        image: The first channel.
        package: The model.
    """
    if package.preprocessing.orientation != STORED or not image.slices:
        return ()
    message = (
        f"the model takes axes as they are stored, here {image.grid.orientation}: if its training files were "
        "stored otherwise, it sees the image mirrored; import it again with --orientation"
    )
    return (Finding(FindingCode.STORED_ORIENTATION, message, image.source),)
