"""What the files of each output are called, so that no two outputs of a recipe write the same one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import get_args

from medseg.recipe.outputs import NiftiOutput, Output, PicturesOutput, Plane, TablesOutput

TABLE_FILES = ("labels.json", "labels_itksnap.txt", "labels_slicer.ctbl")
"""What the values of a label map mean: as JSON, for ITK-SNAP, for 3D Slicer."""

_SUFFIXES = {
    "probabilities": ".probabilities.h5",
    "report": ".html",
    "seg": ".dcm",
    "rtstruct": ".dcm",
    "sr": ".dcm",
}
_USUAL_STEMS = {"nifti": "labels", "tables": "measurements", "probabilities": "labels"}


def names_of(name: str, output: Output) -> Iterator[str]:
    """Yield the names of the files and folders that an output may have in the folder of a study.

    Args:
        name: Of the output; the usual names of files are those of an output that has the name of its kind.
        output: Its options.
    """
    is_usual = name == output.kind
    stem = _USUAL_STEMS.get(output.kind, name) if is_usual else name
    if isinstance(output, NiftiOutput):
        folder = "organs" if is_usual else name
        yield folder if output.per_organ else f"{stem}.nii.gz"
        yield from (file if is_usual else f"{name}_{file}" for file in TABLE_FILES if output.tables)
    elif isinstance(output, TablesOutput):
        yield from (f"{stem}.{suffix}" for suffix in output.formats)
    elif isinstance(output, PicturesOutput):
        yield from (f"{name}_{plane}.png" for plane in output.planes)
    elif output.kind == "capture":
        yield from (f"{name}_{plane}.dcm" for plane in get_args(Plane))
    else:
        yield f"{stem}{_SUFFIXES[output.kind]}"


def name_clashes(outputs: Mapping[str, Output]) -> Iterator[tuple[str, str, str]]:
    """Yield outputs that write a file of an earlier one, also where case does not count.

    Args:
        outputs: By name.

    Yields:
        The output, the earlier one, the name of the file or folder.
    """
    owners: dict[str, str] = {}
    for name, output in outputs.items():
        for file in names_of(name, output):
            owner = owners.setdefault(file.casefold(), name)
            if owner != name:
                yield name, owner, file
                break
