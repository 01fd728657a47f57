"""Where a recipe's outputs go."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from string import Formatter
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

PLACEHOLDERS = ("case", "study", "series")
HELD_FOLDER = "held"
"""Of studies that are held back, below the folder of outputs."""

_OF_ONE_CASE = frozenset(["case", "series"])


def _folder(text: str) -> str:
    """Refuse a folder that two cases would share, or that lies outside the folder of outputs unasked."""
    try:
        parts = list(Formatter().parse(text))
    except ValueError as error:
        raise ValueError(f"not a path with placeholders: {error}") from None
    names = [name for _, name, _, _ in parts if name is not None]
    for name in names:
        if name not in PLACEHOLDERS:
            near = difflib.get_close_matches(name, PLACEHOLDERS, n=1)
            hint = f"did you mean '{{{near[0]}}}'?" if near else f"there are {_listed(PLACEHOLDERS)}"
            raise ValueError(f"there is no placeholder '{{{name}}}'; {hint}")
    if any(spec or conversion for _, _, spec, conversion in parts):
        raise ValueError("a placeholder is a name in braces and no more")
    if not _OF_ONE_CASE & set(names):
        raise ValueError(f"two cases would share this folder; put {_listed(sorted(_OF_ONE_CASE), ' or ')} into it")
    folders = PurePath(text).parts
    if ".." in folders:
        raise ValueError("a path without '..'; an absolute one where it lies elsewhere")
    if folders[0].startswith("~"):
        raise ValueError("an absolute path: '~' is another folder for each user")
    if folders[0].casefold() == HELD_FOLDER:
        raise ValueError(f"another folder: '{HELD_FOLDER}' is that of studies that are held back")
    return text


class FolderDelivery(BaseModel):
    """Files in a folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    to: Literal["folder"] = Field(description="A folder.")
    path: Annotated[str, Field(min_length=1), AfterValidator(_folder)] = Field(
        default="{case}",
        description="The folder of a case, below the one given as -o, or absolute. {case}, {study} and {series} "
        "stand for hashed names, free of patient data.",
    )
    outputs: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="Names of the outputs that go there; all by default."
    )

    @property
    def root(self) -> Path | None:
        """The folder above all cases that is to be there, of an absolute path; None below the folder of outputs."""
        path = Path(self.path)
        fixed = [part for part in path.parts if "{" not in part]
        named = next(number for number, part in enumerate(path.parts) if "{" in part)
        return Path(*fixed[:named]) if path.is_absolute() else None

    @property
    def place(self) -> PurePath:
        """By which two deliveries to one folder are known, as {case} and {series} may be one name."""
        return PurePath(self.path.replace("{series}", "{case}"))

    def takes(self, output: str) -> bool:
        """Whether an output goes there."""
        return self.outputs is None or output in self.outputs

    def folder(self, names: Mapping[str, str]) -> Path:
        """Return the folder of a case, relative to the folder of outputs where it is not absolute.

        Args:
            names: What stands for each of `PLACEHOLDERS`; each is the name of a file, with no folder in it.

        Raises:
            ValueError: One is missing, or no name of a file.
        """
        for placeholder in PLACEHOLDERS:
            name = names.get(placeholder, "")
            if name in ("", ".", "..") or PurePath(name).name != name:
                raise ValueError(f"{placeholder}: expected the name of a file, found '{name}'")
        return Path(self.path.format_map({key: names[key] for key in PLACEHOLDERS}))


def _listed(names: Iterable[str], by: str = ", ") -> str:
    return by.join(f"{{{name}}}" for name in names)
