"""The labels of the torso phantom, with their SNOMED CT codes as in DICOM PS3.16."""

from __future__ import annotations

from medseg.labels import CodedConcept, Label, LabelSet, Laterality


def _label(index: int, name: str, color: str, code: tuple[str, str], side: Laterality | None = None) -> Label:
    value, meaning = code
    concept = CodedConcept(value=value, meaning=meaning)
    return Label(index=index, name=name, color=color, code=concept, laterality=side)


_LUNG = ("39607008", "Lung")
_KIDNEY = ("64033007", "Kidney")

TORSO_LABELS = LabelSet(
    (
        _label(1, "lung_right", "#6fb8d2", _LUNG, Laterality.RIGHT),
        _label(2, "lung_left", "#3f8fb5", _LUNG, Laterality.LEFT),
        _label(3, "liver", "#dd8265", ("10200004", "Liver")),
        _label(4, "spleen", "#9d6ca2", ("78961009", "Spleen")),
        _label(5, "kidney_right", "#e8b04a", _KIDNEY, Laterality.RIGHT),
        _label(6, "kidney_left", "#b9852f", _KIDNEY, Laterality.LEFT),
        _label(7, "vertebrae", "#f1d691", ("51282000", "Vertebra")),
        _label(8, "aorta", "#e0463c", ("15825003", "Aorta")),
    )
)
"""What the values of a torso label map mean."""
