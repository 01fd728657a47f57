"""What a command line asks for -> the complete configuration, the data set and the run folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg.config import ExperimentConfig
from medseg.data.manifest import Case, Dataset, load_manifest
from medseg.errors import UsageError
from medseg.files import make_folder
from medseg.plan.draft import Draft
from medseg.plan.experiment import Planned
from medseg.plan.prepare import PlanOptions, prepare
from medseg.training.run import Observer
from medseg.training.setup import STORE_FOLDER
from medseg.training.world import current
from medseg.yamlfile import dump_yaml

PLANNED_CONFIG = "plan.yaml"


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

    def draft(self, file: Path | None = None) -> Draft:
        """Return what is set: by the configuration, or another file in its place, and by the command line.

        Raises:
            UsageError: There is no such file.
            ConfigError: It is not YAML.
            ModelError: The model to begin with is not there.
        """
        draft = Draft.read(self.config if file is None else str(file))
        for key, value in self.given.items():
            draft.set(key, value)
        draft.adopt()
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
    """Plan what a request leaves open; what was measured is kept in the run folder's store.

    Raises:
        MedsegError: As `medseg.plan.prepare.prepare` and `open_dataset`.
    """
    draft = request.draft()
    dataset = open_dataset(draft)
    store = run_folder(request, draft, dataset) / STORE_FOLDER
    return prepare(draft, dataset, request.cases(draft, dataset), store, observer, request.options)


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
        MedsegError: As `plan_request`.
    """
    draft = request.draft()
    dataset = open_dataset(draft)
    folder = run_folder(request, draft, dataset)
    if draft.is_complete:
        return draft.config(), dataset, folder
    kept, world = folder / PLANNED_CONFIG, current()
    if world.is_first and not (request.resume and kept.is_file()):
        planned = plan_request(request, observer)
        make_folder(folder)
        planned.save(folder)
        dump_yaml(kept, planned.config.model_dump(mode="json"))
        show(planned)
    world.wait()
    return request.draft(kept).config(), dataset, folder


def run_folder(request: Request, draft: Draft, dataset: Dataset) -> Path:
    """Return the folder that is asked for, or ``runs/NAME``."""
    return request.output or Path("runs") / str(draft.get("name") or dataset.name)
