"""`Candidate`: a run, or several whose logits are averaged, with its scores on all validation cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import torch

from medseg.data.manifest import Case, Dataset
from medseg.data.store import read_case
from medseg.ensemble import combine, difference
from medseg.errors import ManifestError, listed
from medseg.evaluation import Evaluation, Row
from medseg.files import sha256_of
from medseg.model import load_networks
from medseg.nifti import read_nifti
from medseg.scores import metrics_of
from medseg.segmenter import Segmenter
from medseg.selection.runs import FinishedRun, FoldRun
from medseg.selection.scoring import LargestEffect, LargestTally, label_values
from medseg.training.folder import data_digest
from medseg.volume import require_same_grid

Advance = Callable[[int, int], None]


@dataclass(frozen=True)
class Candidate:
    """What can be chosen.

    Attributes:
        runs: One, or those whose networks are averaged.
        evaluation: Scores of every validation case, each predicted by the networks that did not learn from it.
        largest: What keeping the largest component of each label does, where that is known already.
    """

    runs: tuple[FinishedRun, ...]
    evaluation: Evaluation
    largest: tuple[LargestEffect, ...] | None = None

    @property
    def name(self) -> str:
        """Names of the runs, joined by a plus sign."""
        return "+".join(run.name for run in self.runs)

    @property
    def models(self) -> list[Path]:
        """Folders of the packages of all folds."""
        return [fold.model for run in self.runs for fold in run.folds]


def ensembles(runs: Sequence[FinishedRun]) -> Iterator[tuple[tuple[FinishedRun, FinishedRun], str | None]]:
    """Yield every pair of runs, and what keeps its networks from being averaged, if anything.

    Cascades are averaged with nothing.
    """
    for one, other in combinations(runs, 2):
        if one.folds[0].package.coarse:
            yield (one, other), f"{one.name} is a cascade"
            continue
        pairs = zip(one.folds, other.folds, strict=True)
        yield (one, other), next((text for a, b in pairs if (text := difference(a.package, b.package))), None)


def validation_cases(run: FinishedRun, dataset: Dataset) -> dict[str, Case]:
    """Return the validation cases of a run by their ids.

    Raises:
        ManifestError: The data set lacks one of them or a fold of a cross-validation lacks a run; or the cases that
            trained a fold are not those of the data set.
    """
    cases = {case.id: case for case in dataset.cases if case.label is not None}
    wanted = [case for fold in run.folds for case in fold.cases]
    if unknown := [case for case in wanted if case not in cases]:
        raise _other_data(dataset, f"no labelled case {listed(unknown)}")
    numbers = {fold.number for fold in run.folds}
    if run.is_cross_validation and (missing := set(dataset.folds) - numbers):
        raise ManifestError(
            run.folder,
            expected="a finished run of every fold of the manifest",
            found=f"none of fold {listed([str(number) for number in sorted(missing)])}",
            remedy="finish it with `medseg train --fold all --resume`",
        )
    hashed = {name: _with_checksums(case) for name, case in cases.items()}
    for fold in run.folds:
        training = [case for name, case in hashed.items() if name not in fold.cases]
        if data_digest(training, dataset.scheme) != fold.package.provenance.data_sha256:
            raise _other_data(dataset, f"other cases, files or labels than fold {fold.number} learnt from")
    return {name: cases[name] for name in wanted}


def cross_validate(
    runs: Sequence[FinishedRun],
    dataset: Dataset,
    *,
    device: torch.device,
    advance: Advance | None = None,
) -> Candidate:
    """Predict each fold's validation cases with the fold's own networks of several runs, and score them.

    Args:
        runs: That can be averaged; see `ensembles`.
        dataset: Of the validation cases.
        device: Where to compute.
        advance: Called with (cases done, cases in all).

    Raises:
        InputError: A case cannot be read.
        ModelError: The weights of a fold are damaged.
    """
    cases = cases_by_id(dataset)
    scheme = runs[0].scheme
    tally, rows, done = LargestTally(scheme), list[Row](), 0
    tolerance_mm, total = runs[0].evaluation.tolerance_mm, len(runs[0].evaluation.cases)
    for folds in zip(*(run.folds for run in runs), strict=True):
        segmenter = _segmenter(folds, device)
        for name in folds[0].cases:
            images, label = read_case(cases[name])
            predicted, reference = segmenter.segment(images).array, label_values(label)
            tally.add(predicted, reference)
            metrics = metrics_of(predicted, reference, scheme, label.grid.spacing_mm, tolerance_mm)
            rows += [Row(name, value, target, metrics[value]) for value, target in scheme.names.items()]
            done += 1
            if advance:
                advance(done, total)
    return Candidate(tuple(runs), Evaluation(tuple(rows), (), tolerance_mm), tally.effects())


def largest_effects(
    candidate: Candidate, dataset: Dataset, advance: Advance | None = None
) -> tuple[LargestEffect, ...]:
    """Return what keeping the largest component of each label does to a candidate's label maps.

    Args:
        candidate: A run whose label maps lie in its folder; an ensemble knows its effects already.
        dataset: Of the references.
        advance: Called with (cases done, cases in all).

    Raises:
        InputError: A label map or a reference cannot be read, or they do not lie on one grid.
    """
    if candidate.largest is not None:
        return candidate.largest
    cases = cases_by_id(dataset)
    tally = LargestTally(candidate.runs[0].scheme)
    wanted = [(fold, name) for fold in candidate.runs[0].folds for name in fold.cases]
    for done, (fold, name) in enumerate(wanted, start=1):
        prediction = read_nifti(fold.prediction(name))
        _, label = read_case(cases[name])
        require_same_grid(label.grid, prediction.grid, owner="its reference", where=str(fold.prediction(name)))
        tally.add(label_values(prediction), label_values(label))
        if advance:
            advance(done, len(wanted))
    return tally.effects()


def cases_by_id(dataset: Dataset) -> dict[str, Case]:
    """Return the cases of a data set by their ids."""
    return {case.id: case for case in dataset.cases}


def _segmenter(folds: Sequence[FoldRun], device: torch.device) -> Segmenter:
    packages = [fold.package for fold in folds]
    networks = [network for fold in folds for network in load_networks(fold.model, fold.package)]
    return Segmenter(combine(packages), networks, device)


def _with_checksums(case: Case) -> Case:
    """Return a case with the checksums that its manifest does not give, so that they are computed once."""
    images = case.image_sha256 or tuple(_checksum(path) if path else None for path in case.images)
    label = case.label_sha256 or (_checksum(case.label) if case.label else None)
    return replace(case, image_sha256=images, label_sha256=label)


def _checksum(file: Path) -> str:
    try:
        return sha256_of(file)
    except OSError:  # a file that is gone is not what a run learnt from
        return "0"


def _other_data(dataset: Dataset, found: str) -> ManifestError:
    return ManifestError(
        dataset.name,
        expected="the data that the runs were trained on",
        found=found,
        remedy="give the manifest of the runs as --manifest, and its folder as --data-root",
    )
