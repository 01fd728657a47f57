"""Drafts: configuration files that leave open what the plan fills in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from ruamel.yaml.comments import CommentedMap

from medseg.config import ExperimentConfig
from medseg.model import load_package
from medseg.networks import NETWORKS
from medseg.plan.fixed import Fixed, Resolution
from medseg.plan.reason import Reason, as_tree
from medseg.shipped import Shelf, find_yaml
from medseg.yamlfile import fit_tree, read_mapping

SET = "set in the configuration"
_ADOPTED = "as in the model of init_from"
_PATCH = "training.patch_size"
_CROP_NONZERO = "preprocessing.crop_nonzero"
_NOT_VALID = ("downsampling", "deep_supervision")  # fields that padding: valid does not go with
_STAGES = {"network.channels": 0, "network.kernel_sizes": 0, "network.strides": 1}  # fewer entries than stages
_PLANNED = ("preprocessing", "network", "loss", "training.patch_size", "name")


class Draft:
    """What a configuration file and the command line say; the rest is open.

    Args:
        path: The file, for messages.
        tree: Its keys and values.
    """

    def __init__(self, path: Path, tree: CommentedMap) -> None:
        self.path = path
        self.tree = tree
        self._adopted: set[str] = set()

    @classmethod
    def read(cls, name_or_path: str | None) -> Draft:
        """Read a file by its path or its name in ``configs/``; None leaves everything open.

        Raises:
            UsageError: There is no such file.
            ConfigError: It is not YAML.
        """
        if name_or_path is None:
            return cls(Path("the command line"), CommentedMap())
        path = find_yaml(name_or_path, Shelf.CONFIGS)
        return cls(path, read_mapping(path))

    def get(self, key: str) -> Any:
        """Return the value of a key such as ``training.patch_size``, None where it is open."""
        here: Any = self.tree
        for part in key.split("."):
            here = here.get(part) if isinstance(here, Mapping) else None
        return here

    def set(self, key: str, value: Any) -> None:
        """Set the value of a key; None changes nothing."""
        if value is None:
            return
        *parents, last = key.split(".")
        here = self.tree
        for part in parents:
            if not isinstance(here.get(part), dict):
                here[part] = CommentedMap()
            here = here[part]
        here[last] = value

    def adopt(self) -> None:
        """Take network, preprocessing and patch from the model of ``init_from``, where they are open.

        Raises:
            ModelError: The model is not there, or damaged.
        """
        model = self.get("init_from.model")
        if model is None:
            return
        package = load_package(Path(str(model)))
        own = {
            "network": {"name": package.network.name} | package.network.fields,
            "preprocessing": package.preprocessing.model_dump(mode="json"),
            _PATCH: list(package.inference.tile_size or ()),
        }
        for key, value in own.items():
            if self.get(key) is None:
                self.set(key, _plain(value) if isinstance(value, Mapping) else value)
                self._adopted.add(key)

    def differences(self, kept: Draft) -> tuple[str, ...]:
        """Return the keys whose values here are not those of a complete configuration; what is open agrees."""
        return tuple(_differences(self.tree, kept.tree))

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to plan."""
        return all(self.get(key) is not None for key in _PLANNED)

    def config(self) -> ExperimentConfig:
        """Return the configuration as it stands.

        Raises:
            ConfigError: It is not valid, or not complete; every problem is named with its line.
        """
        return fit_tree(self.path, self.tree, ExperimentConfig)

    def fixed(self, dims: int | None = None, resolution: Resolution = "full") -> Fixed:
        """Return what a plan has to leave as it is; values of a wrong kind count as open: `filled` names them."""
        patch, spacing = self.get(_PATCH), self.get("preprocessing.spacing_mm")
        flips, axes = self.get("training.augmentation.flip_axes"), self.get("preprocessing.axes")
        return Fixed(
            dims=dims,
            patch_size=tuple(patch) if _are_numbers(patch, int, (2, 3)) else None,
            patch_from="the model of init_from" if _PATCH in self._adopted else _PATCH,
            batch_size=self._count("training.batch_size"),
            accumulate=self._count("training.accumulate"),
            spacing_mm=(spacing[0], spacing[1], spacing[2]) if _are_numbers(spacing, (int, float), (3,)) else None,
            axes=(axes[0], axes[1], axes[2]) if _are_axes(axes) else (0, 1, 2),
            crops=self.get("preprocessing.crop_above") is not None or bool(self.get(_CROP_NONZERO)),
            depth=self._depth(),
            has_strides=self.get("network.strides") is not None,
            flip_axes=tuple(flips) if _are_numbers(flips, int, (0, 1, 2, 3)) else None,
            resolution=resolution,
            has_first_stage=self.get("data.coarse") is not None,
            optimizer=str(self.get("training.optimizer.name") or "adamw"),
        )

    def _count(self, key: str) -> int | None:
        value = self.get(key)
        return value if isinstance(value, int) and value > 0 else None

    def _depth(self) -> int | None:
        """Return the stages that the network's fields have entries for, where the plan has to fill others."""
        if not self._takes("network.strides"):
            return None
        lists = ((self.get(key), fewer) for key, fewer in _STAGES.items())
        return next((len(value) + fewer for value, fewer in lists if isinstance(value, list | tuple)), None)

    def filled(self, plan: Iterable[Reason]) -> tuple[ExperimentConfig, tuple[Reason, ...]]:
        """Fill what is open.

        Args:
            plan: The planned values. Fields of a network that the draft's own network does not take are left out,
                and so is what the model of ``init_from`` leaves to its network and preprocessing.

        Returns:
            The complete configuration, and its values with their reasons.

        Raises:
            ConfigError: It is not valid; every problem is named with its line.
        """
        kept = [reason for reason in plan if self._takes(reason.what)]
        tree = deepcopy(self.tree)
        _fill(tree, as_tree(kept))
        known = ((reason, self.get(reason.what)) for reason in kept)
        reasons = tuple(r if own is None else Reason(r.what, own, self._why(r.what)) for r, own in known)
        return fit_tree(self.path, tree, ExperimentConfig), reasons

    def _why(self, key: str) -> str:
        return _ADOPTED if {key, key.partition(".")[0]} & self._adopted else SET

    def _takes(self, key: str) -> bool:
        section, _, field = key.rpartition(".")
        if section in self._adopted:
            return self.get(key) is not None
        if key == "preprocessing.crop_above" and self.get(_CROP_NONZERO):
            return False
        if section != "network":
            return True
        if field in _NOT_VALID and self.get("network.padding") == "valid":
            return False
        name = self.get("network.name")
        names = {entry.name: entry.fields.model_fields for entry in NETWORKS}
        return not isinstance(name, str) or field in names.get(name, ())


def _fill(tree: CommentedMap, planned: Mapping[str, Any]) -> None:
    """Add the keys that are not there."""
    for key, value in planned.items():
        if isinstance(value, Mapping):
            if key not in tree or tree[key] is None:
                tree[key] = CommentedMap()
            if isinstance(tree[key], CommentedMap):
                _fill(tree[key], value)
        elif tree.get(key) is None:
            tree[key] = value


def _differences(own: Mapping[str, Any], kept: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in own.items():
        there = kept.get(key)
        if isinstance(value, Mapping) and isinstance(there, Mapping):
            yield from _differences(value, there, f"{prefix}{key}.")
        elif not _agree(value, there):
            yield f"{prefix}{key}"


def _agree(own: Any, kept: Any) -> bool:
    """Whether a value is that of a complete configuration, which says more and writes paths its own way."""
    if own is None:
        return True
    if isinstance(own, Mapping):
        return isinstance(kept, Mapping) and all(_agree(value, kept.get(key)) for key, value in own.items())
    if isinstance(own, list | tuple):
        return (
            isinstance(kept, list | tuple)
            and len(own) == len(kept)
            and all(_agree(one, other) for one, other in zip(own, kept, strict=True))
        )
    if isinstance(own, str) and isinstance(kept, str):
        return own == kept or Path(own) == Path(kept)
    return bool(own == kept)


def _plain(tree: Mapping[str, Any]) -> CommentedMap:
    """Return what is set of a mapping, in the form that files have."""
    return CommentedMap({key: value for key, value in tree.items() if value is not None})


def _are_axes(values: Any) -> bool:
    return _are_numbers(values, int, (3,)) and sorted(values) == [0, 1, 2]


def _are_numbers(values: Any, kind: type | tuple[type, ...], lengths: tuple[int, ...]) -> bool:
    return isinstance(values, list | tuple) and len(values) in lengths and all(isinstance(v, kind) for v in values)
