"""The page of one study: pictures, measurements, what is odd, where it comes from; HTML with nothing beside it.

No patient is named: a study has its hashed name, and nothing of its header is on the page.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from medseg import __version__
from medseg.findings import Finding
from medseg.labels import Label
from medseg.measurements import LabelMeasurement
from medseg.proof import LabelProof, Proof
from medseg.report.overview import NOTICE, Picture
from medseg.report.pages import templates
from medseg.report.text import NOTHING, figure, thousands

Fact = tuple[str, str]


@dataclass(frozen=True)
class CasePage:
    """What the page tells.

    Attributes:
        name: Of the study; free of patient data.
        measurements: Of every label that has a voxel.
        channel: Of the image, whose values were measured; nothing where it has one only.
        absent: Names of labels that have none.
        pictures: Stand in the page.
        flags: What is odd about the mask.
        held: Codes of the flags for which the study is held back.
        unchecked: What could not be checked, a sentence each.
        findings: What was odd about the images, and when outputs were made.
        proofs: What was read back and compared.
        facts: What stands on top: name and value.
        provenance: Model, version, hashes: name and value.
    """

    name: str
    measurements: Sequence[LabelMeasurement]
    channel: str = ""
    absent: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    flags: Sequence[Finding] = ()
    held: Sequence[str] = ()
    unchecked: Sequence[str] = ()
    findings: Sequence[Finding] = ()
    proofs: Sequence[Proof] = ()
    facts: Sequence[Fact] = ()
    provenance: Sequence[Fact] = ()

    @property
    def unit(self) -> str:
        """Of the image's values; nothing where they have none."""
        return next((one.unit for one in self.measurements if one.unit), "")

    @property
    def has_values(self) -> bool:
        """Whether the image's values were measured."""
        return any(one.mean is not None for one in self.measurements)


def case_page(facts: CasePage) -> str:
    """Return the page as HTML that needs nothing but itself; the same facts give the same text."""
    environment = templates(figure=figure, thousands=thousands, color=_color, png=_png, worst=_worst, dice=_dice)
    template = environment.get_template("case.html")
    return template.render(page=facts, version=__version__, nothing=NOTHING, notice=NOTICE)


def _color(label: Label) -> str:
    return "#{:02x}{:02x}{:02x}".format(*(round(255 * part) for part in label.rgb))


def _png(picture: Picture) -> Markup:
    """Return a picture as the address of itself."""
    return Markup("data:image/png;base64,") + base64.b64encode(picture.png).decode("ascii")


def _dice(value: float) -> str:
    """Return a Dice that is never rounded up to 1."""
    return figure(math.floor(value * 1e4) / 1e4, 4)


def _worst(proof: Proof) -> LabelProof | None:
    """Return the label that came back worst; None for pictures and reports."""
    return min(proof.labels, key=lambda label: (label.dice, -label.distance_mm), default=None)
