"""`Proof`: what was compared when an object was read back, and `judge`: how near it must come to its mask."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import ProofError
from medseg.labels import LabelSet
from medseg.volume import Affine

_SMALL_FACTOR, _SMALL_DICE = 2.0, 0.5

REMEDY = "nothing was released: report it with the software's version; another type of output may do meanwhile"


@dataclass(frozen=True)
class LabelProof:
    """How one label came back.

    Attributes:
        name: Of the label.
        expected_voxels: In the mask.
        found_voxels: In the object.
        distance_mm: Between the two centres of mass.
        dice: Overlap, 0 to 1.
    """

    name: str
    expected_voxels: int
    found_voxels: int
    distance_mm: float
    dice: float


@dataclass(frozen=True)
class Proof:
    """That an object on disk is the mask that it was made from.

    Attributes:
        what: Name of the file.
        kind: Of the object, such as ``SEG``.
        labels: How each label came back, by its value; none for pictures and for reports, whose numbers are equal.
        seconds: What reading back and comparing took.
    """

    what: str
    kind: str
    labels: tuple[LabelProof, ...]
    seconds: float


@dataclass(frozen=True)
class Limits:
    """How far an object may be off its mask.

    Attributes:
        least_dice: Overlap.
        most_distance_mm: Between the centres of mass.
        most_voxels: Share of the voxels by which the counts may differ.
        small_voxels: Up to so many voxels a label is a small one: half to double the voxels, a Dice of a half, and
            its centre within `small_distance_mm` are enough.
        small_distance_mm: See there.
    """

    least_dice: float = 1.0
    most_distance_mm: float = 0.1
    most_voxels: float = 0.0
    small_voxels: int = 0
    small_distance_mm: float = 0.0


class Tally:
    """Voxels of every label, counted slice by slice: how many, and their centre of mass.

    Args:
        labels: What is counted.
    """

    def __init__(self, labels: LabelSet) -> None:
        self.labels = labels
        size = len(labels) + 1
        self.voxels = np.zeros(size, dtype=np.int64)
        self.mass = np.zeros(size)  # voxels too, but where an object outlines parts of these
        self._moments_mm = np.zeros((size, 3))
        self.over = np.zeros((size, size), dtype=np.int64)  # [label, what the mask has there]; 0 is background

    def add(self, number: int, voxels: int, moment_mm: NDArray[np.float64], mass: float | None = None) -> None:
        """Add voxels.

        Args:
            number: Class index of the label, from 1.
            voxels: How many.
            moment_mm: (3,) sum of their positions, RAS+.
            mass: That the sum of positions counts; `voxels` by default.
        """
        self.voxels[number] += voxels
        self.mass[number] += voxels if mass is None else mass
        self._moments_mm[number] += moment_mm

    def add_plane(
        self,
        classes: NDArray[np.intp],
        pixels: tuple[NDArray[np.intp], NDArray[np.intp]],
        place: float,
        affine: Affine,
    ) -> None:
        """Add voxels of a plane.

        Args:
            classes: (n,) class index of each.
            pixels: Columns (n,) and rows (n,): indices along i and j.
            place: Index along k.
            affine: 4x4, (i, j, k) to RAS+ mm.
        """
        size = len(self.voxels)
        counts = np.bincount(classes, minlength=size)
        columns, rows = (np.bincount(classes, weights=part, minlength=size) for part in pixels)
        for one in np.flatnonzero(counts).tolist():
            summed = affine @ np.array([columns[one], rows[one], place * counts[one], counts[one]])
            self.add(one, int(counts[one]), summed[:3])

    def centre_mm(self, number: int) -> NDArray[np.float64]:
        """Return the centre of mass (3,) of a label, RAS+; not finite where there is nothing."""
        with np.errstate(divide="ignore", invalid="ignore"):
            centre: NDArray[np.float64] = self._moments_mm[number] / self.mass[number]
        return centre


def pixels_of(plane: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return rows (n,) and columns (n,) of the pixels that are not 0, as `numpy.nonzero` does, but faster."""
    flat = np.flatnonzero(plane.ravel() != 0)
    rows = flat // plane.shape[1]
    return rows, flat - rows * plane.shape[1]


def match_labels(items: Iterable[tuple[int, str]], names: Sequence[str], where: str) -> dict[int, int]:
    """Find the labels that the parts of an object are, by their names.

    Args:
        items: Number and name of each segment or region.
        names: What each label of the mask is called in objects, in their order.
        where: The object, for messages.

    Returns:
        Number -> class index of the label, from 1.

    Raises:
        ProofError: A part is no label, or two are the same one.
    """
    classes = {name: index for index, name in enumerate(names, start=1)}
    found: dict[int, int] = {}
    for number, name in items:
        if name not in classes:
            raise proof_error(where, "labels of the mask", f"number {number}, whose name is none of them")
        if number in found or classes[name] in found.values():
            raise proof_error(where, "every label once", f"several of {name}")
        found[number] = classes[name]
    return found


def judge(where: str, expected: Tally, found: Tally, limits: Limits) -> tuple[LabelProof, ...]:
    """Compare what a mask has with what its object has.

    Args:
        where: The object, for messages.
        expected: Of the mask.
        found: Of the object, with `Tally.over` filled.
        limits: How far the two may differ.

    Returns:
        One for each label that is present.

    Raises:
        ProofError: A label is missing or one too many, lies elsewhere, or has another size.
    """
    proofs = []
    for number, label in enumerate(expected.labels, start=1):
        want, got = int(expected.voxels[number]), int(found.voxels[number])
        if not want and not got:
            continue
        distance = float(np.linalg.norm(found.centre_mm(number) - expected.centre_mm(number)))
        dice = 2 * int(found.over[number, number]) / (want + got)
        proofs.append(LabelProof(label.name, want, got, distance, dice))
    for proof in sorted(proofs, key=lambda proof: proof.dice):
        if problem := next(_problems(proof, limits), None):
            lies = _instead(proof, found)
            raise proof_error(f"{where}, label {proof.name}", problem[0], problem[1] + lies)
    return tuple(proofs)


def proof_error(where: str, expected: str, found: str) -> ProofError:
    """Return the error that says how an object is not its mask."""
    return ProofError(where, expected=expected, found=found, remedy=REMEDY)


def _problems(proof: LabelProof, limits: Limits) -> Iterator[tuple[str, str]]:
    """Say what is wrong with a label: what was expected, what was found."""
    want, got = proof.expected_voxels, proof.found_voxels
    voxels = f"{got} voxels for {want}, Dice {_cut(proof.dice)}, centre {proof.distance_mm:.3g} mm off"
    if not want or not got:
        yield f"{want} voxels", f"{got}"
    if want <= limits.small_voxels:
        if not want / _SMALL_FACTOR <= got <= want * _SMALL_FACTOR:
            yield f"{want / _SMALL_FACTOR:g} to {want * _SMALL_FACTOR:g} voxels", voxels
        if proof.dice < _SMALL_DICE:
            yield f"a Dice of at least {_SMALL_DICE:g}", voxels
        if not proof.distance_mm <= limits.small_distance_mm:
            yield f"its centre within {limits.small_distance_mm:.3g} mm of the mask's", voxels
        return
    if proof.dice < limits.least_dice:
        yield f"a Dice of at least {limits.least_dice:g}", voxels
    if abs(got - want) > limits.most_voxels * want:
        yield f"{want} voxels", voxels
    if not proof.distance_mm <= limits.most_distance_mm:
        yield f"its centre within {limits.most_distance_mm:g} mm of the mask's", voxels


def _cut(dice: float) -> str:
    """Return a Dice that is never rounded up to 1."""
    return f"{np.floor(dice * 1e4) / 1e4:g}"


def _instead(proof: LabelProof, found: Tally) -> str:
    """Name the label that a wrong one lies on, where it is mostly another one: the two may be swapped."""
    names: Sequence[str] = ["", *(label.name for label in found.labels)]
    number = names.index(proof.name)
    over = found.over[number].copy()
    over[[0, number]] = 0
    other = int(over.argmax())
    if 2 * over[other] <= found.voxels[number]:
        return ""
    return f"; {int(over[other])} of its voxels are those of {names[other]}"
