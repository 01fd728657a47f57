"""The torso's parts: which shape, of which tissue, under which label; each torso different.

Coordinates are millimetres in the body: x to the patient's right, y to the front, z to the head, 0 in the middle.
Parts are painted in order, so that a later one lies on top of an earlier one. Measures are those of an adult.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import numpy as np

from medseg.phantom.labels import TORSO_LABELS
from medseg.phantom.shapes import Cut, Ellipsoid, Inset, Shape, Shell, Slabs, Tube, Union, Vector, Within, rotation

_INDEX = {label.name: label.index for label in TORSO_LABELS}
_RIGHT, _LEFT = 1, -1
_FAR_MM = 2000.0
_ENDS = (-400.0, 400.0)


class Tissue(Enum):
    """What a part is made of; liver, spleen and the heart's wall share one, and both kidneys."""

    AIR = "air"
    FOAM = "foam"
    SKIN = "skin"
    FAT = "fat"
    MUSCLE = "muscle"
    LUNG = "lung"
    PARENCHYMA = "parenchyma"
    LESION = "lesion"
    KIDNEY = "kidney"
    BLOOD = "blood"
    VEIN = "vein"
    FLUID = "fluid"
    BOWEL = "bowel"
    DISC = "disc"
    BONE = "bone"
    CORTEX = "cortex"


@dataclass(frozen=True)
class Part:
    """One painted part.

    Attributes:
        shape: Where it is.
        tissue: What it is made of.
        label: The label it gives to its voxels; None leaves the labels under it as they are.
    """

    shape: Shape
    tissue: Tissue
    label: int | None = 0


def torso_parts(rng: np.random.Generator) -> list[Part]:
    """Return the parts of one random torso, in the order in which they are painted."""
    body = Body(rng)
    sections = (body.wall, body.chest, body.spine, body.upper_abdomen, body.bowel, body.vessels, body.kidneys)
    return [part for section in sections for part in section()]


class Body:
    """Draws the sections of one torso.

    Args:
        rng: Source of every random measure.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.outside = Ellipsoid((0, 0, 0), (self._near(150, 8), self._near(100, 5), _FAR_MM), power=2.4)
        self.fat_mm = float(rng.uniform(8, 18))
        self.wall_mm = self.fat_mm + float(rng.uniform(10, 14))
        self.cavity = Inset(self.outside, self.wall_mm + 1)

    def wall(self) -> Iterator[Part]:
        """Yield skin, fat, muscles, ribs and the fat inside."""
        yield Part(self.outside, Tissue.SKIN)
        yield Part(Inset(self.outside, 2.5), Tissue.FAT)
        yield Part(Inset(self.outside, self.fat_mm), Tissue.MUSCLE)
        yield Part(Inset(self.outside, self.wall_mm), Tissue.FAT)
        cage = Tube((0.0,), (0.0,), (200.0, 200.0), (-60.0, 200.0))
        wall = Shell(self.outside, (self.fat_mm + self.wall_mm) / 2, 7.0)
        ribs = Slabs(Within(wall, cage), 29.0, 11.0, self._near(0, 8), slope=-0.45)
        yield Part(ribs, Tissue.BONE)
        for side in (_RIGHT, _LEFT):
            yield Part(Tube((side * 30.0,), (-74.0,), (22.0, 13.0), _ENDS), Tissue.MUSCLE)

    def chest(self) -> Iterator[Part]:
        """Yield lungs over the diaphragm, heart, airways and gullet."""
        for side, name in ((_RIGHT, "lung_right"), (_LEFT, "lung_left")):
            lung = self._organ((side * 66.0, 0.0, 76.0), (47.0, 62.0, 98.0), turn_deg=5, power=2.3)
            dome = self._organ((side * 62.0, 0.0, -85.0), (76.0, 88.0, 108.0 + 6 * side), turn_deg=4)
            yield Part(Within(Cut(lung, dome), self.cavity), Tissue.LUNG, _INDEX[name])
            yield from self._lung_vessels(side)
        heart = self._organ((-18.0, 26.0, 72.0), (46.0, 36.0, 44.0), turn_deg=20)
        yield Part(Within(heart, Inset(self.cavity, 3)), Tissue.PARENCHYMA)
        chamber = self._organ((-20.0, 26.0, 68.0), (32.0, 25.0, 32.0), turn_deg=20)
        yield Part(Within(chamber, Inset(self.cavity, 10)), Tissue.BLOOD)
        yield Part(Tube((self._near(2, 2),), (-12.0, -0.02), (9.0, 8.0), (105.0, 300.0)), Tissue.AIR)
        yield Part(Tube((-4.0,), (-20.0,), (7.0, 5.0), (20.0, 300.0)), Tissue.MUSCLE)

    def spine(self) -> Iterator[Part]:
        """Yield the psoas muscles, the discs and the vertebrae with the spinal canal."""
        bend_x, bend_y = self._near(0, 0.02), (-41.0, self._near(0, 0.03), self._near(0.0003, 0.0001))
        line_x = (self._near(0, 2), bend_x)
        for side in (_RIGHT, _LEFT):
            psoas = Tube((side * 34.0, bend_x), (-40.0,), (13.0, 14.0), (-400.0, -50.0))
            yield Part(psoas, Tissue.MUSCLE)
        radii = (self._near(21, 1.5), self._near(16.5, 1))
        body = Tube(line_x, bend_y, radii, _ENDS)
        arch = Tube(line_x, (bend_y[0] - 21, *bend_y[1:]), (17.0, 12.0), _ENDS)
        spine = Tube(line_x, (bend_y[0] - 38, *bend_y[1:]), (4.5, 13.0), _ENDS)
        canal = Tube(line_x, (bend_y[0] - 22, *bend_y[1:]), (9.0, 7.5), _ENDS)
        offset = self._near(0, 12)
        column = Slabs(Union(body, arch, 4.0), 32.0, 25.0, offset)
        processes = Slabs(spine, 32.0, 18.0, offset - 20, slope=0.15)
        vertebrae = Cut(Union(column, processes), canal)
        yield Part(body, Tissue.DISC)
        yield Part(vertebrae, Tissue.CORTEX, _INDEX["vertebrae"])
        marrow = Tube(line_x, bend_y, (radii[0] - 3, radii[1] - 3), _ENDS)
        yield Part(Slabs(marrow, 32.0, 20.0, offset), Tissue.BONE, None)
        yield Part(canal, Tissue.FLUID)

    def upper_abdomen(self) -> Iterator[Part]:
        """Yield stomach, spleen, liver and gall bladder."""
        stomach = self._organ((-46.0, 30.0, -6.0), (34.0, 28.0, 40.0), turn_deg=20)
        stomach_wall = Within(stomach, self.cavity)
        bubble = self._organ((-46.0, 48.0, 4.0), (24.0, 14.0, 22.0))
        yield Part(stomach_wall, Tissue.MUSCLE)
        yield Part(Inset(stomach_wall, 4), Tissue.BOWEL)
        yield Part(Within(bubble, Inset(stomach_wall, 5)), Tissue.AIR)
        spleen = self._organ((-84.0, -26.0, -8.0), (21.0, 34.0, 44.0), turn_deg=15)
        yield Part(Within(spleen, self.cavity), Tissue.PARENCHYMA, _INDEX["spleen"])
        right = self._organ((56.0, 2.0, -24.0), (56.0, 62.0, 64.0), turn_deg=10, power=2.2)
        left = self._organ((2.0, 34.0, 2.0), (54.0, 26.0, 26.0), turn_deg=12)
        liver = Within(Union(right, left, 20.0), self.cavity)
        yield Part(liver, Tissue.PARENCHYMA, _INDEX["liver"])
        yield from self._inside_liver(liver)
        yield Part(self._organ((40.0, 42.0, -62.0), (12.0, 12.0, 24.0), turn_deg=20), Tissue.FLUID)

    def bowel(self) -> Iterator[Part]:
        """Yield loops of bowel, some with gas."""
        for _ in range(int(self.rng.integers(14, 22))):
            center = tuple(self.rng.uniform((-85, -5, -160), (85, 55, -80)).tolist())
            radii = tuple(self.rng.uniform((10, 10, 10), (24, 18, 22)).tolist())
            loop = Within(Ellipsoid(center, radii, self._turn(40)), self.cavity)
            yield Part(loop, Tissue.MUSCLE)
            inner = Tissue.AIR if self.rng.random() < 0.3 else Tissue.BOWEL
            yield Part(Inset(loop, 3), inner)

    def vessels(self) -> Iterator[Part]:
        """Yield the vena cava and the aorta, which ends where the iliac arteries begin."""
        cava = Tube((self._near(17, 2), 0.02), (-13.0, 0.05), (self._near(11, 1.5), 9.0), (-400.0, 55.0))
        yield Part(cava, Tissue.VEIN)
        radius, fork = self._near(10.5, 1.2), self._near(-125, 8)
        line_x = (self._near(-16, 2), -0.05)
        line_y = (-15.0, -0.06, self._near(-0.0002, 0.00005))
        yield Part(Tube(line_x, line_y, (radius, radius), (fork, 400.0)), Tissue.BLOOD, _INDEX["aorta"])
        for side in (_RIGHT, _LEFT):
            start = line_x[0] + line_x[1] * fork
            lean = -0.45 * side
            iliac = Tube((start - lean * fork, lean), (-14.0,), (6.0, 6.0), (-400.0, fork))
            yield Part(Within(iliac, self.cavity), Tissue.BLOOD)

    def kidneys(self) -> Iterator[Part]:
        """Yield the kidneys, each in its fat, with the renal sinus left open."""
        for side, name, z in ((_RIGHT, "kidney_right", -88.0), (_LEFT, "kidney_left", -76.0)):
            center = (side * self._near(55, 3), self._near(-34, 3), self._near(z, 6))
            radii = (self._near(24, 2), self._near(21, 2), self._near(48, 4))
            turn = rotation((self._near(8, 5), side * self._near(-10, 5), 0.0))
            sinus = Ellipsoid((center[0] - side * 22, center[1] + 3, center[2]), (12.0, 8.0, 15.0))
            kidney = Cut(Ellipsoid(center, radii, turn), sinus)
            fat = Ellipsoid(center, (radii[0] + 4, radii[1] + 4, radii[2] + 4), turn)
            yield Part(Cut(fat, _SPINE_AND_VESSELS), Tissue.FAT)
            yield Part(kidney, Tissue.KIDNEY, _INDEX[name])

    def _lung_vessels(self, side: int) -> Iterator[Part]:
        for _ in range(4):
            start = (side * self._near(55, 18), self._near(0, 25))
            lean = (self._near(0, 0.2), self._near(0, 0.2))
            line_x, line_y = ((start[axis] - 80 * lean[axis], lean[axis]) for axis in (0, 1))
            yield Part(Tube(line_x, line_y, (2.5, 2.5), (45.0, 120.0)), Tissue.VEIN, None)

    def _inside_liver(self, liver: Shape) -> Iterator[Part]:
        for _ in range(4):
            lean = self._near(0, 0.5)
            vessel = Tube((self._near(55, 18) + 10 * lean, lean), (self._near(0, 15),), (4.0, 4.0), (-60.0, 30.0))
            yield Part(Within(vessel, Inset(liver, 6)), Tissue.VEIN, None)
        for _ in range(int(self.rng.integers(0, 4))):
            lesion = self._organ((55.0, 0.0, -25.0), (9.0, 9.0, 9.0), shift_mm=18)
            yield Part(Within(lesion, Inset(liver, 3)), Tissue.LESION, None)

    def _near(self, middle: float, spread: float) -> float:
        return float(middle + spread * self.rng.uniform(-1.5, 1.5))

    def _turn(self, most_deg: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        x, y, z = self.rng.uniform(-most_deg, most_deg, 3).tolist()
        return rotation((x, y, z))

    def _organ(
        self,
        center: Vector,
        radii: Vector,
        *,
        turn_deg: float = 0.0,
        power: float = 2.0,
        shift_mm: float = 5.0,
    ) -> Ellipsoid:
        x, y, z = (np.array(center) + self.rng.uniform(-shift_mm, shift_mm, 3)).tolist()
        a, b, c = (np.array(radii) * self.rng.uniform(0.88, 1.14, 3)).tolist()
        return Ellipsoid((x, y, z), (a, b, c), self._turn(turn_deg), power)


_SPINE_AND_VESSELS = Tube((0.0,), (-30.0,), (28.0, 34.0), _ENDS)
