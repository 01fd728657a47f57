"""Drafts: configuration files that leave open what the plan fills in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from ruamel.yaml.comments import CommentedMap

from medseg.config import ExperimentConfig
from medseg.model import load_package
from medseg.networks import NETWORKS
from medseg.plan.candidates import Fixed, Resolution
from medseg.plan.reason import Reason, as_tree
from medseg.shipped import Shelf, find_yaml
from medseg.yamlfile import fit_tree, read_mapping

SET = "set in the configuration"
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
        if self.get("network") is None:
            self.tree["network"] = _plain({"name": package.network.name} | package.network.fields)
        if self.get("preprocessing") is None:
            self.tree["preprocessing"] = _plain(package.preprocessing.model_dump(mode="json"))
        if self.get("training.patch_size") is None:
            self.set("training.patch_size", list(package.inference.tile_size or ()))

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
        patch, batch = self.get("training.patch_size"), self.get("training.batch_size")
        spacing = self.get("preprocessing.spacing_mm")
        return Fixed(
            dims=dims,
            patch_size=tuple(patch) if _are_numbers(patch, int, (2, 3)) else None,
            batch_size=batch if isinstance(batch, int) else None,
            spacing_mm=(spacing[0], spacing[1], spacing[2]) if _are_numbers(spacing, (int, float), (3,)) else None,
            resolution=resolution,
            optimizer=str(self.get("training.optimizer.name") or "adamw"),
        )

    def filled(self, plan: Iterable[Reason]) -> tuple[ExperimentConfig, tuple[Reason, ...]]:
        """Fill what is open.

        Args:
            plan: The planned values. Fields of a network that the draft's own network does not take are left out.

        Returns:
            The complete configuration, and its values with their reasons.

        Raises:
            ConfigError: It is not valid; every problem is named with its line.
        """
        kept = [reason for reason in plan if self._takes(reason.what)]
        tree = deepcopy(self.tree)
        _fill(tree, as_tree(kept))
        known = ((reason, self.get(reason.what)) for reason in kept)
        reasons = tuple(r if own is None else Reason(r.what, own, SET) for r, own in known)
        return fit_tree(self.path, tree, ExperimentConfig), reasons

    def _takes(self, key: str) -> bool:
        section, _, field = key.rpartition(".")
        name = self.get("network.name")
        if section != "network" or not isinstance(name, str):
            return True
        names = {entry.name: entry.fields.model_fields for entry in NETWORKS}
        return field in names.get(name, ())


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


def _plain(tree: Mapping[str, Any]) -> CommentedMap:
    """Return what is set of a mapping, in the form that files have."""
    return CommentedMap({key: value for key, value in tree.items() if value is not None})


def _are_numbers(values: Any, kind: type | tuple[type, ...], lengths: tuple[int, ...]) -> bool:
    return isinstance(values, list | tuple) and len(values) in lengths and all(isinstance(v, kind) for v in values)
