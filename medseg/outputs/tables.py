"""What the values of a label map mean, for other programs: JSON, ITK-SNAP's labels, 3D Slicer's colour table."""

from __future__ import annotations

import json

from medseg.labels import Label, LabelSet
from medseg.recipe.filenames import TABLE_FILES

_ITK_SNAP_HEAD = """\
# ITK-SNAP label descriptions
# index, red, green, blue (0 to 255), opacity (0 to 1), visible, shown in 3-D, "name"
    0     0    0    0        0  0  0    "Clear Label"
"""
_SLICER_HEAD = """\
# Colour table of 3D Slicer
# index name red green blue alpha (0 to 255)
0 Background 0 0 0 0
"""


def label_tables(labels: LabelSet) -> dict[str, str]:
    """Return the text of each table, by file name."""
    texts = json_table(labels), itk_snap_table(labels), slicer_table(labels)
    return dict(zip(TABLE_FILES, texts, strict=True))


def json_table(labels: LabelSet) -> str:
    """Return the labels as JSON, with their codes; `medseg.label_files.load_labels` reads it."""
    listed = [label.model_dump(mode="json", exclude_none=True) | {"color": hex_color(label)} for label in labels]
    return json.dumps({"labels": listed}, indent=1, ensure_ascii=False) + "\n"


def itk_snap_table(labels: LabelSet) -> str:
    """Return ITK-SNAP's label descriptions (Segmentation > Import Label Descriptions)."""
    lines = []
    for label in labels:
        red, green, blue = rgb_bytes(label)
        name = label.name.replace('"', "'")
        lines.append(f'{label.index:5d}  {red:4d} {green:4d} {blue:4d}        1  1  1    "{name}"\n')
    return _ITK_SNAP_HEAD + "".join(lines)


def slicer_table(labels: LabelSet) -> str:
    """Return a colour table of 3D Slicer; spaces in names become underscores, as the format has no quotes."""
    lines = []
    for label in labels:
        red, green, blue = rgb_bytes(label)
        lines.append(f"{label.index} {'_'.join(label.name.split())} {red} {green} {blue} 255\n")
    return _SLICER_HEAD + "".join(lines)


def rgb_bytes(label: Label) -> tuple[int, int, int]:
    """Return the display colour of a label, each part from 0 to 255."""
    red, green, blue = (round(255 * part) for part in label.rgb)
    return red, green, blue


def hex_color(label: Label) -> str:
    """Return the display colour of a label as #rrggbb, also where none is set."""
    return "#{:02x}{:02x}{:02x}".format(*rgb_bytes(label))
