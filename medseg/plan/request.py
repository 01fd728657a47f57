"""What a command line asks for -> the complete configuration, the data set and the run folder."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medseg.config import ExperimentConfig
from medseg.data.manifest import Case, Dataset, load_manifest
from medseg.device import pick_device
from medseg.errors import UsageError, listed
from medseg.files import make_folder
from medseg.plan.draft import Draft
from medseg.plan.experiment import Planned, plain_name
from medseg.plan.ground import check_dims
from medseg.plan.prepare import PlanOptions, prepare
from medseg.training.occupied import has_run, require_place
from medseg.training.run import Observer
from medseg.training.setup import STORE_FOLDER
from medseg.training.tracking import Tracking, require
from medseg.training.world import current, local_device
from medseg.yamlfile import dump_yaml

PLANNED_CONFIG = "plan.yaml"
FIRST_STAGE_FOLDER = "low"
_COARSE, _SPACING = "data.coarse", "preprocessing.spacing_mm"


@dataclass(frozen=True)
class Request:
    """What the command line asks for.

    Attributes:
        config: A file, a name in configs/, or None.
        given: Values that come before the file's, by key; those that are None were not given.
        output: Run folder, or None.
        all_folds: Every fold is trained.
        resume: The run folder holds an earlier run.
        options: What a plan is made for.
    """

    config: str | None
    given: Mapping[str, Any] = field(default_factory=dict)
    output: Path | None = None
    all_folds: bool = False
    resume: bool = False
    options: PlanOptions = field(default_factory=PlanOptions)

    def draft(self) -> Draft:
        """Return what is set by the configuration and by the command line.

        Raises:
            UsageError: There is no such file.
            ConfigError: It is not YAML.
        """
        draft = Draft.read(self.config)
        for key, value in self.given.items():
            draft.set(key, value)
        return draft

    def cases(self, draft: Draft, dataset: Dataset) -> tuple[Case, ...]:
        """Return the cases that a plan is made from: the training cases, or all labelled ones for all folds.

        Raises:
            ManifestError: The data set lacks the fold.
        """
        if self.all_folds:
            return tuple(case for case in dataset.cases if case.label is not None)
        fold = draft.get("data.fold")
        return dataset.fold(fold if isinstance(fold, int) else 0)[0]


def open_dataset(draft: Draft) -> Dataset:
    """Return the data set of a draft.

    Raises:
        UsageError: The draft names no manifest, or one that is not there.
        ConfigError: The manifest is not valid.
        ManifestError: Its files are not there.
    """
    manifest, root = draft.get("data.manifest"), draft.get("data.root")
    if manifest is None:
        raise UsageError(
            "the data set",
            expected="a manifest, or a configuration that names one",
            found="neither",
            remedy="pass --manifest; `medseg dataset import` makes one from a folder",
        )
    return load_manifest(str(manifest), Path(root) if root is not None else None)


def plan_request(request: Request, observer: Observer) -> Planned:
    """Plan what a request leaves open; what was measured is kept in the store of the data, or of the run folder.

    Raises:
        ModelError: The model to begin with is not there, or damaged.
        MedsegError: As `medseg.plan.prepare.prepare` and `open_dataset`.
    """
    draft = request.draft()
    return _plan(request, draft, open_dataset(draft), observer)


def _plan(request: Request, draft: Draft, dataset: Dataset, observer: Observer) -> Planned:
    draft.adopt()
    store = draft.get("data.store")
    place = run_folder(request, draft, dataset) / STORE_FOLDER if store is None else Path(str(store))
    return prepare(draft, dataset, request.cases(draft, dataset), place, observer, request.options)


def open_request(
    request: Request, observer: Observer, show: Callable[[Planned], None]
) -> tuple[ExperimentConfig, Dataset, Path]:
    """Return the complete configuration, the data set and the run folder.

    What the configuration leaves open is planned by the first process of a training, and left in the run folder as
    ``plan.yaml`` and, with the reasons, ``plan.json``. A run that is resumed keeps its plan.

    Args:
        request: What is asked for.
        observer: Is told how the measuring goes.
        show: Called with a new plan.

    Raises:
        UsageError: The folder holds another run, the configuration is not that of the run to resume, or a library
            of its tracker is not installed.
        DeviceError: The device is not there.
        MedsegError: As `plan_request`.

    Warns:
        UserWarning: An option says how to plan, and nothing is planned.
    """
    draft, world = request.draft(), current()
    pick_device(local_device(request.options.device))
    if draft.get("training.track") == Tracking.MLFLOW.value:
        require({Tracking.MLFLOW})
    config = draft.config() if draft.is_complete else None  # says what is wrong before the data is sought
    dataset = open_dataset(draft)
    folder = run_folder(request, draft, dataset)
    require_place(folder, all_folds=request.all_folds, resume=request.resume)
    if config is not None:
        check_dims(draft.fixed(request.options.dims))
        if world.is_first and not request.resume:
            given = {"--memory": request.options.memory is not None, "--no-dry-run": not request.options.dry_run}
            _warn_of_unused(given, f"{draft.path} leaves nothing to plan")
        return config, dataset, folder
    kept = folder / PLANNED_CONFIG
    if request.resume and kept.is_file():
        _require_same_plan(request, draft, kept)
        _warn_of_unused({"--memory": request.options.memory is not None}, "the run keeps its plan")
    elif request.resume and has_run(folder):
        raise _other_plan(folder, "one that leaves something open")
    elif world.is_first:
        planned = _plan(request, draft, dataset, observer)
        make_folder(folder)
        planned.save(folder)
        dump_yaml(kept, planned.config.model_dump(mode="json"))
        show(planned)
    world.wait()
    return Draft.read(str(kept)).config(), dataset, folder


def _warn_of_unused(given: Mapping[str, bool], why: str) -> None:
    unused = [name for name, is_given in given.items() if is_given]
    if unused:
        warnings.warn(f"{' and '.join(unused)}: not used, as {why}", stacklevel=3)


def _require_same_plan(request: Request, draft: Draft, kept: Path) -> None:
    """Refuse to resume a run whose configuration was changed since it was planned."""
    planned = Draft.read(str(kept))
    check_dims(planned.fixed(request.options.dims))
    changed = draft.differences(planned)
    if changed:
        raise _other_plan(kept.parent, f"another value of {listed(changed)}")


def _other_plan(folder: Path, found: str) -> UsageError:
    return UsageError(
        folder,
        expected="the configuration that the run was started with",
        found=found,
        remedy="pass that one, or start a new run in another folder",
    )


def cascade_of(request: Request) -> tuple[Request, Request]:
    """Return the two requests of a cascade: its first stage in ``low/`` in the run folder, then its second.

    Raises:
        UsageError: Not all folds are asked for, what the stages differ in is set already, or a folder holds a run.
        MedsegError: As `Request.draft` and `open_dataset`.
    """
    if not request.all_folds:
        raise UsageError(
            "--cascade",
            expected="--fold all",
            found="one fold",
            remedy="add it: the second stage learns from label maps of networks that did not see the case",
        )
    draft = request.draft()
    if not request.resume:
        draft.adopt()
    if draft.get(_COARSE) is not None or draft.get(_SPACING) is not None or draft.is_complete:
        raise UsageError(
            "--cascade",
            expected=f"a plan of both stages, {_SPACING} and {_COARSE} open",
            found="a configuration that sets them",
            remedy="leave them out, or train one stage after the other: --fold all, then --coarse RUN",
        )
    folder = run_folder(request, draft, open_dataset(draft))
    low = folder / FIRST_STAGE_FOLDER
    for place in (folder, low):
        require_place(place, all_folds=True, resume=request.resume)
    first = replace(request, output=low, options=replace(request.options, resolution="low"))
    return first, replace(request, output=folder, given={**request.given, _COARSE: str(low)})


def run_folder(request: Request, draft: Draft, dataset: Dataset) -> Path:
    """Return the folder that is asked for, or ``runs/NAME``."""
    return request.output or Path("runs") / str(draft.get("name") or plain_name(dataset.name))
