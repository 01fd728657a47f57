"""`StructureMap`: which structures of clinical label objects become which label, by names and codes."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from medseg.dicom.structure import Structure
from medseg.errors import UsageError, listed
from medseg.labels import CodedConcept, Label, LabelSet, Laterality

_SPACES = re.compile(r"[\s_]+")


def _regex(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"not a regular expression ({error})") from error
    return text


Regex = Annotated[str, Field(min_length=1), AfterValidator(_regex)]
Code = Annotated[str, Field(pattern=r"^[^:\s]+:\S+$")]
Missing = Literal["refuse", "empty", "ignore"]


class MappedLabel(BaseModel):
    """One label, and the structures that it is made of."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    index: int = Field(ge=1, lt=2**32, description="Value in the label map; 0 is background.")
    name: str = Field(min_length=1, description="Short unique name.")
    match: tuple[Regex, ...] = Field(
        default=(),
        description="Regular expressions for the whole name of a structure, in whatever case; a space or an "
        "underscore stands for any run of these.",
    )
    codes: tuple[Code, ...] = Field(
        default=(),
        description="Coded concepts, such as SCT:10200004; they count where no label matches the name.",
    )
    code: CodedConcept | None = Field(
        default=None, description="What is written down for the label; the first of codes where unset."
    )
    laterality: Laterality | None = Field(
        default=None, description="Side; a structure that matches by code must say the same side."
    )
    color: Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")] | None = Field(
        default=None, description="Display colour as #rrggbb."
    )
    merge: bool = Field(
        default=False, description="Whether several structures of a study may match: the label is their union."
    )
    missing: Missing | None = Field(
        default=None,
        description="A study without it: refuse the study; take it, the structure is not there (empty); or take "
        "it and let nobody learn from its unlabelled voxels (ignore).",
    )
    priority: int = Field(
        default=0, description="A voxel of several labels gets the highest; of equal ones, the last in the list."
    )

    @model_validator(mode="after")
    def _check(self) -> MappedLabel:
        if not self.match and not self.codes:
            raise ValueError("expected match or codes: nothing would become this label")
        return self

    def has_name(self, name: str) -> bool:
        """Whether a structure's whole name matches."""
        forms = (_SPACES.sub(" ", name).strip(), _SPACES.sub("_", name).strip("_"))
        return any(re.fullmatch(pattern, form, re.IGNORECASE) for pattern in self.match for form in forms)

    def has_code(self, structure: Structure) -> bool:
        """Whether a structure's concept, and its side where this label has one, matches."""
        code = structure.code
        is_side = self.laterality is None or structure.laterality is self.laterality
        return code is not None and is_side and f"{code.scheme}:{code.value}" in self.codes

    @property
    def label(self) -> Label:
        """The label as manifests have it."""
        code = self.code
        if code is None and self.codes:
            scheme, _, value = self.codes[0].partition(":")
            code = CodedConcept(value=value, scheme=scheme, meaning=self.name)
        return Label(index=self.index, name=self.name, color=self.color, code=code, laterality=self.laterality)


class StructureMap(BaseModel):
    """The labels of a data set and the structures that they are made of."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    missing: Missing = Field(default="refuse", description="For labels that do not say it themselves.")
    labels: tuple[MappedLabel, ...] = Field(min_length=1, description="The labels.")

    @model_validator(mode="after")
    def _check(self) -> StructureMap:
        _ = self.label_set
        return self

    @property
    def label_set(self) -> LabelSet:
        """The labels as manifests have them."""
        return LabelSet(tuple(mapped.label for mapped in self.labels))

    @property
    def ignore_value(self) -> int | None:
        """Value of voxels that nobody judged; None where every label is refused or known to be absent."""
        has_any = any(self.missing_of(mapped) == "ignore" for mapped in self.labels)
        return self.label_set.largest + 1 if has_any else None

    @property
    def painted(self) -> tuple[MappedLabel, ...]:
        """The labels in the order in which they are painted: later ones over earlier ones."""
        return tuple(sorted(self.labels, key=lambda mapped: mapped.priority))

    def missing_of(self, mapped: MappedLabel) -> Missing:
        """Return what to do about a study without a label."""
        return mapped.missing or self.missing

    def match(self, structure: Structure) -> tuple[MappedLabel, ...]:
        """Return the labels that a structure matches: by its name, or where none does, by its code."""
        by_name = tuple(mapped for mapped in self.labels if mapped.has_name(structure.name))
        return by_name or tuple(mapped for mapped in self.labels if mapped.has_code(structure))


@dataclass(frozen=True)
class StructureCount:
    """A name that structures have.

    Attributes:
        shown: The name, free of patient data.
        series: How many series have it.
        codes: The concepts that come with it, such as ``SCT:10200004 Liver (left)``.
    """

    shown: str
    series: int
    codes: tuple[str, ...]


def count_structures(groups: Iterable[Sequence[Structure]]) -> list[StructureCount]:
    """Count the names of structures; those that differ in case, spaces or underscores only count as one.

    Args:
        groups: The structures of each series.

    Returns:
        The names, most frequent first.
    """
    found: defaultdict[str, list[tuple[int, Structure]]] = defaultdict(list)
    for number, group in enumerate(groups):
        for structure in group:
            found[_key(structure)].append((number, structure))
    counts = [
        StructureCount(
            same[0][1].shown,
            len({number for number, _ in same}),
            tuple(sorted({_code_text(one) for _, one in same} - {""})),
        )
        for same in found.values()
    ]
    return sorted(counts, key=lambda count: (-count.series, count.shown.casefold()))


def automatic_map(groups: Sequence[Sequence[Structure]]) -> StructureMap:
    """Make labels of the structures' own names, which must be the same in all series.

    Names that differ in case, spaces or underscores are the same. Values follow the alphabet. A code is kept where
    all series have the same one.

    Raises:
        UsageError: There is no structure, the names differ, or one stands twice in a series.
    """
    keys = [sorted(_key(structure) for structure in group) for group in groups]
    names = set(keys[0]) if keys else set()
    odd = sorted({structure.shown for group in groups for structure in group if _key(structure) not in names})
    odd += sorted(name for name in names if any(name not in own for own in keys))
    odd += sorted({name for own in keys for name in own if own.count(name) > 1})
    if not names or odd:
        raise UsageError(
            "--map auto",
            expected=f"the same names in all of {len(groups)} series",
            found=f"not in all, or several times in one: {listed(odd)}" if odd else "no structure",
            remedy="write a map; --list shows all names",
        )
    labels = []
    for index, key in enumerate(sorted(names), start=1):
        same = [structure for group in groups for structure in group if _key(structure) == key]
        codes = {structure.code for structure in same}
        sides = {structure.laterality for structure in same}
        labels.append(
            MappedLabel(
                index=index,
                name=_SPACES.sub("_", same[0].shown.strip()),
                match=(re.escape(_SPACES.sub(" ", same[0].name).strip()),),
                code=codes.pop() if len(codes) == 1 else None,
                laterality=sides.pop() if len(sides) == 1 else None,
            )
        )
    return StructureMap(labels=tuple(labels))


def _key(structure: Structure) -> str:
    return _SPACES.sub(" ", structure.name).strip().casefold()


def _code_text(structure: Structure) -> str:
    if structure.code is None:
        return ""
    side = f" ({structure.laterality.value})" if structure.laterality else ""
    return f"{structure.code.scheme}:{structure.code.value} {structure.code.meaning}{side}"
