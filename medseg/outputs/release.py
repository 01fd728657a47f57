"""A mask -> files: made, read back and proved; then, and only then, released or held back."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from medseg.dicom.series import Series
from medseg.files import storage_error
from medseg.findings import Finding
from medseg.outputs.case import DrawnCase
from medseg.outputs.makers import MAKERS
from medseg.outputs.making import Making, Product
from medseg.quality import is_held, quality_findings, unchecked_findings
from medseg.recipe import Recipe
from medseg.recipe.deliver import HELD_FOLDER


@dataclass(frozen=True)
class Released:
    """What was made of a study.

    Attributes:
        files: Where each file lies, and where it goes: relative to the folder of outputs, or absolute.
        volumes_ml: Volume of every label, by name; 0 for one that is absent.
        findings: What is odd about the mask, and what was odd when its outputs were made.
        held: Codes of the flags for which it is held back; empty where it is released.
        timings_s: Seconds by name of the output, ``quality`` among them.
    """

    files: tuple[tuple[Path, str], ...]
    volumes_ml: Mapping[str, float]
    findings: tuple[Finding, ...] = ()
    held: tuple[str, ...] = ()
    timings_s: Mapping[str, float] = field(default_factory=dict)


def release(case: DrawnCase, recipe: Recipe, folder: Path) -> Released:
    """Make every output of a study and prove it.

    Args:
        case: The study and its mask.
        recipe: What is made of it, what is asked of it, where it goes.
        folder: Where files are written: on the file system of the outputs, the study's own.

    Raises:
        ProofError: An object that was read back is not the mask: nothing may be released.
        InputError: An object cannot be made of the study.
        StorageError: A file cannot be written.
    """
    case = replace(case, maker=replace(case.maker, mask_sha256=case.labels.sha256()))
    timings: dict[str, float] = {}
    begin = time.perf_counter()
    judged = case.envelopes, case.confidence
    quality = tuple(quality_findings(case.labels, case.images, *judged, settings=recipe.quality))
    timings["quality"] = time.perf_counter() - begin
    making = Making(case, recipe, folder, quality, is_held(quality, recipe.quality))
    making.findings += unchecked_findings(case.labels, case.images, *judged, settings=recipe.quality)
    for name, options in sorted(recipe.outputs.items(), key=lambda pair: list(MAKERS).index(pair[1].kind)):
        begin = time.perf_counter()
        MAKERS[options.kind](making, name, options)
        timings[name] = time.perf_counter() - begin
    volumes = {label.name: 0.0 for label in case.labels.labels}
    volumes |= {measured.label.name: measured.volume_ml for measured in making.measurements}
    findings = tuple(dict.fromkeys([*quality, *making.findings]))
    return Released(tuple(_placed(making)), volumes, findings, making.held, timings)


def _placed(making: Making) -> Iterable[tuple[Path, str]]:
    """Yield where each file lies and where it goes; one that goes to several places is copied."""
    known: set[Path] = set()
    places: set[Path] = set()  # of one that is held back, several deliveries have the same
    names = place_names(making.case)
    for number, delivery in enumerate(making.recipe.deliver):
        folder = delivery.folder(names)
        if making.held:
            folder = Path(HELD_FOLDER) / (folder if not folder.is_absolute() else names["case"])
        for product in making.products:
            if delivery.takes(product.output) and folder / product.name not in places:
                places.add(folder / product.name)
                source = (
                    _copied(product, making.folder / f".copy_{number}") if product.path in known else product.path
                )
                known.add(product.path)
                yield source, str(folder / product.name)


def _copied(product: Product, folder: Path) -> Path:
    target = folder / product.name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copyfile(product.path, target))
    except OSError as error:
        raise storage_error(target, error) from error


def place_names(case: DrawnCase) -> dict[str, str]:
    """Return what stands for {case}, {study} and {series} in the path of a delivery; free of patient data."""
    return names_of(case.name, case.origin.stack.series if case.origin else None)


def names_of(case: str, series: Series | None) -> dict[str, str]:
    """Return the same of a case that is known by its name, and by its series where it is of DICOM."""
    if series is None:
        return {"case": case, "study": case, "series": case}
    return {"case": case, "study": f"study_{series.study_name}", "series": f"series_{series.name}"}
