"""All values of a planned configuration, each with its reason; pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from medseg.data.fingerprint import Fingerprint
from medseg.data.sampler import foreground_patches
from medseg.data.schema import Modality
from medseg.plan.candidates import Candidate
from medseg.plan.ground import SMALL_COVER, Ground
from medseg.plan.reason import Reason
from medseg.plan.topology import topology

_MUCH_CROPPED = 0.75
_FOREGROUND_SHARE = 1 / 3
_CASCADE = (
    "train --fold all --cascade, or plan --resolution low -o low.yaml, train low.yaml --fold all -o LOW and "
    "train --coarse LOW"
)
_BATCH_NORM_FROM = 4  # patches that go through the network at once


@dataclass(frozen=True)
class Facts:
    """What a data set is, beside its measurements.

    Attributes:
        name: Of the data set, as a configuration may be called.
        modalities: Of each channel.
        sided: Labels tell left from right.
        incomplete: Some cases lack a channel.
    """

    name: str
    modalities: Sequence[Modality]
    sided: bool = False
    incomplete: bool = False


def values(place: Ground, chosen: Candidate, fingerprint: Fingerprint, facts: Facts) -> Iterator[Reason]:
    """Yield every planned value.

    Args:
        place: What the candidate stands on.
        chosen: Patch and batch.
        fingerprint: Of the training cases.
        facts: Of the data set.
    """
    low = "_low" if place.fixed.resolution == "low" else ""
    yield Reason("name", f"{facts.name}_{place.dims}d{low}", "the data set and the kind of network")
    yield place.spacing
    yield from _preprocessing(fingerprint, facts)
    yield from _network(place, chosen)
    yield Reason("loss.name", "ce_dice", "cross entropy for every voxel, Dice for small structures")
    yield from _step(place, chosen, facts)
    yield from _optimizer(place)
    yield from _inference(place, facts)


def is_mostly_empty(fingerprint: Fingerprint, facts: Facts) -> bool:
    """Whether the plan crops: images without air that means something, of which a crop removes over a quarter."""
    return fingerprint.kept_by_crop < _MUCH_CROPPED and Modality.CT not in facts.modalities


def _preprocessing(fingerprint: Fingerprint, facts: Facts) -> Iterator[Reason]:
    masked = is_mostly_empty(fingerprint, facts)
    if masked:
        why = f"cropping to non-zero voxels removes {1 - fingerprint.kept_by_crop:.0%} of the images"
        yield Reason("preprocessing.crop_above", 0.0, why)
    rules: list[dict[str, Any]] = [
        {"kind": "ct"} if modality is Modality.CT else {"kind": "zscore", "nonzero": masked}
        for modality in facts.modalities
    ]
    why = "CT: 0.5 to 99.5 percentile of the foreground, its mean and deviation; others: each image by its own"
    yield Reason("preprocessing.intensity", rules, why)
    if facts.incomplete:
        yield Reason("preprocessing.channel_flags", True, "some cases lack a channel")


def _network(place: Ground, chosen: Candidate) -> Iterator[Reason]:
    depth, compute = place.fixed.depth, place.compute
    shape = topology(chosen.patch_size, place.spacing_mm).of_depth(depth)
    at_once, base = _at_once(place, chosen), compute.base_channels
    yield Reason("network.name", "unet", "as accurate as any for its time in benchmarks/results/networks.md")
    channels = shape.channels(base, compute.most_channels(place.dims))
    yield Reason("network.channels", channels, f"{base}, doubled a stage: what a {compute.kind} has time for")
    why = "axes are halved while 4 voxels are left and voxels are alike"
    yield Reason("network.strides", shape.strides, why if depth is None else f"{why}, in {depth} stages")
    yield Reason("network.kernel_sizes", shape.kernels, "1 along axes that are twice as coarse as the finest")
    yield Reason("network.downsampling", "strided_conv", "as nnU-Net")
    if at_once >= _BATCH_NORM_FROM:
        yield Reason("network.norm", "batch", f"{at_once} patches at once give steady statistics")
    else:
        yield Reason("network.norm", "instance", f"{at_once} patches at once are too few for batch statistics")
    yield Reason("network.act", "leaky_relu", "as nnU-Net")
    yield Reason("network.deep_supervision", len(shape.strides) > 1, "coarse stages learn from the start")


def _at_once(place: Ground, chosen: Candidate) -> int:
    """Return the patches that batch normalisation measures: of one process on CPUs, of all of them on GPUs."""
    shared = 1 if place.compute.kind == "cpu" else place.compute.processes
    return shared * chosen.batch_size // chosen.parts // place.compute.processes


def _why_share(batch_size: int) -> str:
    number = foreground_patches(batch_size, _FOREGROUND_SHARE)
    centred = "a third of the patches" if batch_size == 1 else f"{number} of each {batch_size} patches"
    return f"{centred} centred on a label, as nnU-Net"


def _step(place: Ground, chosen: Candidate, facts: Facts) -> Iterator[Reason]:
    cover = place.cover(chosen.patch_size)
    cube, shape = "square" if place.dims == 2 else "cube", list(place.shape[: place.dims])
    why = f"a {cube} in mm within the median {place.whole} {shape}, of which it covers {cover:.0%}"
    alone = place.fixed.resolution == "full" and not place.fixed.has_first_stage
    if cover < SMALL_COVER and alone:
        why += f"; a low-resolution stage would see more: {_CASCADE}"
    yield Reason("training.patch_size", chosen.patch_size, why)
    yield Reason("training.batch_size", chosen.batch_size, _why_batch(place))
    if chosen.parts > 1:
        yield Reason("training.accumulate", chosen.parts, "parts of a batch that does not fit as a whole")
    yield Reason("training.foreground_share", _FOREGROUND_SHARE, _why_share(chosen.batch_size))
    slow = place.compute.kind == "cpu"
    yield Reason("training.epochs", 60 if slow else 250, "unless --budget or --epochs says otherwise")
    yield Reason("training.steps_per_epoch", 50 if slow else 100, "between two lines of the log")
    yield Reason("training.validate_every", 10, "epochs: whole volumes take their time")
    decay = 0.99 if slow else 0.999
    yield Reason("training.ema_decay", decay, "the running mean of the weights is validated and saved")
    why = "labels tell left from right" if facts.sided else "left and right look alike"
    yield Reason("training.augmentation.flip_axes", _mirrored(place, facts), why)
    yield Reason("training.augmentation.preset", "default", "nnU-Net's transforms and probabilities")
    if facts.incomplete:
        yield Reason("training.channel_dropout", 0.2, "some cases lack a channel")


def _why_batch(place: Ground) -> str:
    compute = place.compute
    why = "what memory is left for, at most 5 % of the training voxels a step"
    if compute.voxels_a_step is not None:
        why = f"about {compute.voxels_a_step // 1000} thousand voxels a step, which a CPU computes in seconds"
    if compute.processes > 1:
        why += f"; as many in each of {compute.processes} processes"
    if compute.unmeasured:
        why += f"; estimated, not measured: {compute.unmeasured}"
    return why


def _mirrored(place: Ground, facts: Facts) -> list[int]:
    sideways = place.fixed.axes.index(0)  # the network's axis from right to left
    return [] if facts.sided or sideways >= place.dims else [sideways]


def _optimizer(place: Ground) -> Iterator[Reason]:
    slow = place.compute.kind == "cpu"
    if place.fixed.optimizer == "sgd":
        for key, value in (("learning_rate", 1e-2), ("schedule", "poly"), ("weight_decay", 3e-5), ("warmup", 0.0)):
            yield Reason(f"training.optimizer.{key}", value, "as nnU-Net, for SGD")
        return
    yield Reason("training.optimizer.name", "adamw", "fewer steps than SGD needs")
    why = "small networks bear it" if slow else "usual for networks of this width"
    yield Reason("training.optimizer.learning_rate", 6e-3 if slow else 1e-3, why)
    yield Reason("training.optimizer.schedule", "cosine", "after a short warm-up, to zero at the end")
    yield Reason("training.optimizer.warmup", 0.03, "share of the training")


def _inference(place: Ground, facts: Facts) -> Iterator[Reason]:
    yield Reason("inference.overlap", 0.5, "as nnU-Net")
    yield Reason("inference.batch_size", 2 if place.compute.kind == "cpu" else 4, "tiles at once")
    own = place.fixed.flip_axes
    yield Reason("inference.mirror_axes", _mirrored(place, facts) if own is None else list(own), "as in training")
