"""`Making`: the outputs of one study while they are made: what several of them need is computed once."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from medseg.dicom.identity import Identity
from medseg.dicom.origin import Origin
from medseg.dicom.seg import MadeSegmentation
from medseg.dicom.seg_frames import ProbabilityReader
from medseg.dicom.sr_groups import unit_of
from medseg.errors import InputError, UsageError
from medseg.findings import Finding, FindingCode
from medseg.inference.saved import read_probabilities
from medseg.measurements import HOUNSFIELD, LabelMeasurement, measure
from medseg.outputs.case import DrawnCase
from medseg.proof import Proof
from medseg.recipe import Recipe
from medseg.report.overview import Picture, overview, plane_pictures
from medseg.volume import require_same_grid


@dataclass(frozen=True)
class Product:
    """One file of an output.

    Attributes:
        output: Name of the output in the recipe.
        name: Of the file within the folder of the study; may hold a folder.
        path: Where it lies until it is released.
    """

    output: str
    name: str
    path: Path


@dataclass(eq=False)
class Making:
    """The outputs of one study while they are made.

    Attributes:
        case: The study and its mask.
        recipe: What is made of it.
        folder: Where files are written.
        quality: What is odd about the mask.
        held: Why the study is held back; empty where it is not.
        products: Files that are written.
        findings: What was odd when objects were made.
        proofs: What was read back.
        segmentations: DICOM SEGs by name of the output, which measurement reports refer to.
    """

    case: DrawnCase
    recipe: Recipe
    folder: Path
    quality: tuple[Finding, ...] = ()
    held: tuple[str, ...] = ()
    products: list[Product] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    proofs: list[Proof] = field(default_factory=list)
    segmentations: dict[str, MadeSegmentation] = field(default_factory=dict)

    def add(self, output: str, name: str) -> Path:
        """Enter a file of an output; return where it is to be written.

        Raises:
            UsageError: There is one of its name, which it would replace.
        """
        if name.casefold() in {product.name.casefold() for product in self.products}:
            remedy = "give one of the outputs another name"
            raise UsageError(output, expected="names of files that differ", found=f"{name} twice", remedy=remedy)
        path = self.folder / name
        self.products.append(Product(output, name, path))
        return path

    @cached_property
    def measurements(self) -> tuple[LabelMeasurement, ...]:
        """Of every label that has a voxel."""
        return measure(self.case.labels, self.case.measured, self.unit)

    @property
    def unit(self) -> str:
        """Of the measured values, alike in every output: what the DICOM images say, else ``HU`` for CT."""
        if self.case.origin is not None:
            return unit_of(self.case.origin)
        is_stored = any(finding.code is FindingCode.NO_RESCALE for finding in self.case.findings)
        return HOUNSFIELD if self.case.modality_of(0) == "CT" and not is_stored else ""

    @cached_property
    def overview(self) -> Picture:
        """Axial, coronal and sagittal slices side by side."""
        return overview(self.case.image, self.case.labels, self.case.maker.model)

    @cached_property
    def planes(self) -> tuple[Picture, ...]:
        """The same slices, a larger picture each."""
        return plane_pictures(self.case.image, self.case.labels, self.case.maker.model)

    @property
    def origin(self) -> Origin:
        """The DICOM images that the mask was drawn on.

        Raises:
            InputError: The study is not DICOM.
        """
        if self.case.origin is None:
            raise not_dicom(self.case.name)
        return self.case.origin

    def identity(self, output: str) -> Identity:
        """Return the UIDs of an output."""
        return Identity(self.origin, self.case.maker, output)

    def path_of(self, output: str) -> Path:
        """Return the first file that was written of an output."""
        return next(product.path for product in self.products if product.output == output)

    def probability_of(self) -> ProbabilityReader | None:
        """Return what reads the probabilities (i, j, k) of a label, by the name that the recipe gives it.

        Raises:
            GridError: They lie on another grid than the image.
            InputError: They are those of regions, not of labels.
        """
        if self.case.probabilities is None:
            return None
        found, image = read_probabilities(self.case.probabilities), self.case.image
        require_same_grid(image.grid, found.grid, owner="the image", where=str(found.path))
        if found.regions:
            remedy = "leave FRACTIONAL out: a region is several labels"
            raise InputError(self.case.name, expected="probabilities of labels", found="of regions", remedy=remedy)
        return found.read

    def is_empty(self, output: str) -> bool:
        """Whether nothing was drawn, so that an object of it would be none: it is left out, and that is said."""
        if self.measurements:
            return False
        message = f"nothing was drawn: there is no {output}"
        self.findings.append(Finding(FindingCode.EMPTY_MASK, message, self.case.name))
        return True


def not_dicom(where: object) -> InputError:
    """Return the error of a study that is no DICOM, of which objects are wanted."""
    return InputError(
        where,
        expected="a DICOM series, as DICOM objects are wanted of it",
        found="NIfTI, which names no patient, study or slices",
        remedy="give the DICOM series, or leave seg, rtstruct, sr and capture out",
    )
