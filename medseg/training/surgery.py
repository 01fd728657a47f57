"""Fitting a model's tensors to a network for other labels and other input channels.

Which tensors count classes, and which take in channels, is seen by building the network with one more of them, on
torch's meta device: so every network can be fitted.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from medseg.errors import ModelError, UsageError, listed
from medseg.labels import Label
from medseg.model import MODEL_FILE, ModelPackage, NetworkSpec
from medseg.networks.weights import adapt_stem

_MAY_DIFFER = ("dropout", "deep_supervision", "scales")  # fields that change no tensor but those of the head


@dataclass(frozen=True)
class Surgery:
    """Fits a model's tensors to a network for other labels and other input channels.

    Attributes:
        class_axes: {tensor of the network: its axes that count classes}.
        stems: Kernels of the network on its input.
        rows: Outputs of the network, and the outputs of the model that they are.
        channels: Image channels of the model and of the network.
        flags: Whether each of them sees a flag beside every channel, which says that it is there.
        masks: Labels of a first stage that each of them sees, behind channels and flags.
        outputs: {label or region of the network: that of the model that it is}.
        new: Those of the network that are none of the model's.
        left_out: Those of the model that are none of the network's.
    """

    class_axes: Mapping[str, Sequence[int]]
    stems: Collection[str]
    rows: tuple[Tensor, Tensor]
    channels: tuple[int, int]
    flags: tuple[bool, bool]
    masks: tuple[Sequence[int], Sequence[int]]
    outputs: Mapping[str, str]
    new: tuple[str, ...]
    left_out: tuple[str, ...]

    def fit(self, name: str, given: Tensor, fresh: Tensor) -> Tensor:
        """Return the value of one of the network's tensors, given the model's and its own fresh one."""
        if name in self.stems:
            return self._stem(given)
        return self._with_rows(given, fresh, self.class_axes.get(name, ()))

    def _stem(self, given: Tensor) -> Tensor:
        """Adapt the kernels on the images and their flags; those on flags or masks that the model has not are 0."""
        (have, want), (had_flags, has_flags) = self.channels, self.flags
        kinds = 2 if had_flags else 1
        had_masks, masks = self.masks
        kernels = given.reshape(len(given), kinds * have + len(had_masks), -1, *given.shape[2:])
        on_images, on_masks = kernels.tensor_split((kinds * have,), dim=1)  # (outputs, C, slices, *kernel)
        if had_masks != masks:
            on_masks = kernels.new_zeros((len(kernels), len(masks), *kernels.shape[2:]))
        parts = on_images.chunk(kinds, dim=1)
        adapted = [part if have == want else adapt_stem(part, want) for part in parts]
        if has_flags and not had_flags:
            adapted.append(torch.zeros_like(adapted[0]))
        return torch.cat((*(adapted if has_flags else adapted[:1]), on_masks), dim=1).flatten(1, 2)

    def _with_rows(self, given: Tensor, fresh: Tensor, axes: Sequence[int]) -> Tensor:
        """Return the fresh tensor with the model's rows of the classes that both have, along every axis."""
        if not axes:
            return given
        axis, here, there = axes[0], *self.rows
        part = self._with_rows(given.index_select(axis, there), fresh.index_select(axis, here), axes[1:])
        return fresh.index_copy(axis, here, part)


def match_labels(source: Sequence[Label], target: Sequence[Label]) -> dict[str, str]:
    """Return {name in target: name in source} of the labels that are the same.

    The same are labels with one name; then, of the others, with one name but for upper and lower case; then with
    one code and side. A name or code that several labels of a set share says nothing. Each label is matched once.
    """
    rules: tuple[Callable[[Label], object], ...] = (
        lambda label: label.name,
        lambda label: label.name.casefold(),
        lambda label: label.code and (label.code.scheme, label.code.value, label.laterality),
    )
    found: dict[str, str] = {}
    for rule in rules:
        theirs = _by_key(rule, (label for label in source if label.name not in found.values()))
        ours = _by_key(rule, (label for label in target if label.name not in found))
        found |= {name: theirs[key] for key, name in ours.items() if key in theirs}
    return {label.name: found[label.name] for label in target if label.name in found}


def plan_surgery(source: ModelPackage, target: ModelPackage) -> Surgery:
    """Return what fits a model's tensors to the network of another.

    Args:
        source: The model.
        target: What is to be trained; the weights that it names, if any, are not looked at.
    """
    theirs, ours = _outputs(source), _outputs(target)
    alike = bool(source.regions) == bool(target.regions)  # softmax, or a sigmoid each
    same = match_labels(theirs, ours) if alike else {}
    first = 0 if target.regions else 1  # after the background
    class_of = {label.name: number for number, label in enumerate(theirs, first)}
    pairs = [(number, class_of[same[label.name]]) for number, label in enumerate(ours, first) if label.name in same]
    background = [(0, 0)] if alike and not target.regions else []
    here, there = torch.tensor(background + pairs, dtype=torch.int64).reshape(-1, 2).T
    return Surgery(
        class_axes=_growing_axes(target.network, "num_classes"),
        stems=_growing_axes(target.network, "in_channels"),
        rows=(here, there),
        channels=(len(source.modalities), len(target.modalities)),
        flags=(source.preprocessing.channel_flags, target.preprocessing.channel_flags),
        masks=(source.preprocessing.coarse_labels, target.preprocessing.coarse_labels),
        outputs=same,
        new=tuple(label.name for label in ours if label.name not in same),
        left_out=tuple(label.name for label in theirs if label.name not in same.values()),
    )


def _outputs(package: ModelPackage) -> list[Label]:
    """Return what a network's outputs mean, but for the background; regions as labels without a code."""
    if package.regions:
        return [Label(index=n, name=region.name) for n, region in enumerate(package.regions, 1)]
    return list(package.labels)


def _growing_axes(spec: NetworkSpec, number: str) -> dict[str, tuple[int, ...]]:
    """Return, of each tensor whose size follows a number of the spec, the axes that do."""
    larger = _shapes(_sketch(spec.model_copy(update={number: getattr(spec, number) + 1})))
    axes = {
        name: tuple(axis for axis, size in enumerate(shape) if size != larger[name][axis])
        for name, shape in _shapes(_sketch(spec)).items()
    }
    return {name: found for name, found in axes.items() if found}


def require_same_network(path: Path, source: NetworkSpec, target: NetworkSpec) -> None:
    """Refuse a network that differs from the model's in more than its head, channels or what has no weights.

    Args:
        path: Of the model.
        source: Its network.
        target: The network.

    Raises:
        ModelError: It differs.
    """
    have, want = ({"name": spec.name, "spatial_dims": spec.spatial_dims} | spec.fields for spec in (source, target))
    keys = ("name", "spatial_dims")
    if all(have[key] == want[key] for key in keys):
        if _same_modules(source, target):
            return
        keys = tuple(key for key in have if have[key] != want.get(key) and key not in _MAY_DIFFER)
    raise ModelError(
        path,
        expected="the network of the model, " + listed([f"{key} {have[key]}" for key in keys]),
        found=listed([f"{key} {want.get(key)}" for key in keys]),
        remedy=f"write network as it stands in the model's {MODEL_FILE}, or leave out init_from",
    )


def _same_modules(source: NetworkSpec, target: NetworkSpec) -> bool:
    """Whether two networks of one name would be the same with one head and one number of input channels."""
    fields = target.fields | {key: source.fields[key] for key in _MAY_DIFFER if key in source.fields}
    numbers = {"in_channels": source.in_channels, "num_classes": source.num_classes}
    try:
        ours = _sketch(target.model_copy(update=numbers | {"fields": fields}))
    except UsageError:  # the other's deep supervision does not go with this one's other fields
        return False
    theirs = _sketch(source)
    return repr(ours) == repr(theirs) and _shapes(ours) == _shapes(theirs)


def _sketch(spec: NetworkSpec) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the config warns of its own network
        return spec.sketch()


def _shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in network.state_dict().items()}


def _by_key(rule: Callable[[Label], object], labels: Iterable[Label]) -> dict[object, str]:
    """Return {key: name} of the labels whose key no other has."""
    keyed = [(rule(label), label.name) for label in labels]
    keys = [key for key, _ in keyed]
    return {key: name for key, name in keyed if key is not None and keys.count(key) == 1}
