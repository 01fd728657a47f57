"""`SeriesRules`: which series a recipe takes, typed and checked before any file is read."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)
from pydicom.datadict import keyword_dict
from pydicom.uid import UID_dictionary

from medseg.dicom.series_values import ACQUISITION_DATE_TIME
from medseg.dicom.tags import DESCRIBING, IDENTIFYING, tag_of
from medseg.dicom.values import numbers_of, vr_of

NUMBER_VRS = frozenset(["DS", "IS", "US", "SS", "UL", "SL", "UV", "SV", "FL", "FD"])
"""Value representations of numbers."""

SOP_CLASS_NAMES: dict[str, str] = {
    uid: entry[0] for uid, entry in UID_dictionary.items() if "Image Storage" in entry[0]
}
"""UID -> name of the SOP classes of images."""

_COMPARISON = re.compile(r"([<>=!]=|[<>](?!=))\s*(\S.*)")
_UID = re.compile(r"[0-9]+(\.[0-9]+)+")
_TAG = re.compile(r"([0-9A-Fa-f]{4}),([0-9A-Fa-f]{4})")
_ORDERED_VRS = NUMBER_VRS | {"DA", "TM"}
_BULKY_VRS = frozenset(["SQ", "OB", "OD", "OF", "OL", "OV", "OW", "UN"])
_NOT_MODALITIES = {"CAT": "CT", "MRI": "MR", "NMR": "MR", "PET": "PT", "SPECT": "NM"}
_MOST_REPEATS = 4  # on 64 equal letters each one more takes ten times as long: seconds for five
_ESCAPES_AND_SETS = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)


@lru_cache(maxsize=1024)
def tag_number(key: str) -> int:
    """Return the tag that a keyword of the data dictionary, or ``gggg,eeee``, stands for.

    Raises:
        ValueError: There is none; it can identify a patient; or it holds neither numbers nor short text.
    """
    pair = _TAG.fullmatch(key)
    tag = int(pair[1] + pair[2], 16) if pair else tag_of(_known(key, keyword_dict, "DICOM attribute"))
    vr = vr_of(tag)
    if tag in IDENTIFYING or vr == "PN":
        raise ValueError("this attribute can identify a patient; choose by another one")
    if vr in _BULKY_VRS and not is_private(tag):
        raise ValueError("no standard attribute with a number or a short text; choose by another one")
    return tag


def is_private(tag: int) -> bool:
    """Whether the standard leaves the meaning of a tag to the manufacturer (PS3.5 7.8)."""
    return bool(tag >> 16 & 1)


def split_comparison(text: str) -> tuple[str, str]:
    """Return the operator and the value of a comparison such as ``>= 100``.

    Raises:
        ValueError: It is none.
    """
    parts = _COMPARISON.fullmatch(text.strip())
    if parts is None:
        raise ValueError("expected one of < <= > >= == != and a value, such as '>= 100'")
    return parts[1], parts[2]


def _known(text: str, names: Iterable[str], what: str) -> str:
    """Return the one of `names` that a text is, in whatever case."""
    by_lower = {name.casefold(): name for name in names if name}
    low = text.casefold()
    if low in by_lower:
        return by_lower[low]
    near = difflib.get_close_matches(low, by_lower, n=1)
    hint = f" (did you mean '{by_lower[near[0]]}'?)" if near else ""
    raise ValueError(f"there is no such {what}{hint}")


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _modality(text: str) -> str:
    name = text.upper()
    if name in _NOT_MODALITIES:
        raise ValueError(f"DICOM calls this modality {_NOT_MODALITIES[name]}")
    return name


def _sop_class(text: str) -> str:
    if _UID.fullmatch(text):
        return SOP_CLASS_NAMES.get(text, text)
    return _known(text, SOP_CLASS_NAMES.values(), "SOP class of images")


def _regex(pattern: str) -> str:
    """Refuse what is no regular expression, and slips that make the search take forever on a hostile text."""
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"not a regular expression: {error}") from None
    bare = _ESCAPES_AND_SETS.sub("x", pattern)
    if re.search(r"\)[*+{]", bare):
        raise ValueError("a repeated group can take forever; repeat single characters or sets such as [a-z]")
    if len(re.findall(r"[*+{]", bare)) > _MOST_REPEATS:
        raise ValueError(f"more than {_MOST_REPEATS} repeats (* + {{}}) can take forever; use fewer")
    return pattern


def _with_keys(value: Any) -> Any:
    return {key: (key, text) for key, text in value.items()} if isinstance(value, dict) else value


def _comparison(pair: Any) -> Any:
    """Check the comparison of one key, given with it, and return the comparison alone."""
    key, text = pair
    if not isinstance(key, str) or not isinstance(text, str):
        return text
    vr = vr_of(tag_number(key))
    sign, value = split_comparison(text)
    if sign not in ("==", "!="):
        if numbers_of(value, 1) is None:
            raise ValueError(f"expected a number after {sign}, found '{value}'")
        if vr not in _ORDERED_VRS and vr != "UN":
            raise ValueError(f"this attribute holds no numbers (it is {vr}); compare it by == or !=")
    return f"{sign} {value}"


_Item = TypeVar("_Item")
_ListOf = Annotated[tuple[_Item, ...], BeforeValidator(_listed), Field(min_length=1)]
_Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
_Names = _ListOf[Annotated[_Text, AfterValidator(str.upper)]]
_Modalities = _ListOf[Annotated[_Text, AfterValidator(_modality)]]
_SopClasses = _ListOf[Annotated[_Text, AfterValidator(_sop_class)]]
_Regex = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_regex)]
_Comparisons = Annotated[dict[str, Annotated[str, BeforeValidator(_comparison)]], BeforeValidator(_with_keys)]


class Range(BaseModel):
    """Numbers from `min` to `max`, both of them taken."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min: float | None = Field(default=None, ge=0, allow_inf_nan=False, description="The least, if there is one.")
    max: float | None = Field(default=None, ge=0, allow_inf_nan=False, description="The most, if there is one.")

    @model_validator(mode="after")
    def _is_a_range(self) -> Range:
        if self.min is None and self.max is None:
            raise ValueError("min, max or both are needed")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} must not be above max {self.max:g}")
        return self

    def __str__(self) -> str:
        bounds = ((">=", self.min), ("<=", self.max))
        return " and ".join(f"{sign} {bound:.9g}" for sign, bound in bounds if bound is not None)

    def holds(self, text: str) -> bool:
        """Whether a text holds numbers, all of them within."""
        low, high = self.min or 0.0, math.inf if self.max is None else self.max
        return all(low <= number <= high for number in numbers_of(text) or [math.nan])


class ImageTypes(BaseModel):
    """Values that ImageType has to hold and must not hold."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    include: _Names | None = Field(default=None, description="All of these have to be there, such as ORIGINAL.")
    exclude: _Names | None = Field(default=None, description="None of these may be there, such as DERIVED.")

    @model_validator(mode="after")
    def _can_hold(self) -> ImageTypes:
        if not self.include and not self.exclude:
            raise ValueError("include, exclude or both are needed")
        both = set(self.include or ()) & set(self.exclude or ())
        if both:
            raise ValueError(f"{', '.join(sorted(both))} cannot be both included and excluded")
        return self

    def __str__(self) -> str:
        sides = (("with", self.include), ("without", self.exclude))
        return ", ".join(f"{word} {', '.join(names)}" for word, names in sides if names)

    def holds(self, text: str) -> bool:
        """Whether the values of an ImageType fit."""
        values = set(text.upper().split("\\"))
        return values.issuperset(self.include or ()) and values.isdisjoint(self.exclude or ())


class SeriesRules(BaseModel):
    """Which series to take; a rule that is left out leaves out nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    modality: _Modalities | None = Field(default=None, description="Modality is one of these: CT, MR, PT, ...")
    sop_class: _SopClasses | None = Field(
        default=None, description="The SOP class is one of these, by UID or by name, such as CT Image Storage."
    )
    body_part: _Names | None = Field(
        default=None, description="BodyPartExamined is one of these, in whatever case."
    )
    description: _Regex | None = Field(
        default=None, description="Regular expression found in SeriesDescription, in whatever case."
    )
    protocol: _Regex | None = Field(default=None, description="Regular expression found in ProtocolName.")
    kernel: _Regex | None = Field(default=None, description="Regular expression found in ConvolutionKernel.")
    image_type: ImageTypes | None = Field(default=None, description="What ImageType has to hold and must not hold.")
    slices: Range | None = Field(default=None, description="Number of slices.")
    slice_thickness_mm: Range | None = Field(default=None, description="SliceThickness.")
    slice_spacing_mm: Range | None = Field(
        default=None, description="Median distance between slices, by their positions; a single slice has none."
    )
    pixel_spacing_mm: Range | None = Field(default=None, description="Both values of PixelSpacing.")
    orientation: Literal["axial", "coronal", "sagittal"] | None = Field(
        default=None, description="Plane of the slices."
    )
    orientation_tolerance_deg: float = Field(
        default=20.0, ge=0, le=90, description="Largest angle between the slices and the plane of orientation."
    )
    contrast: bool | None = Field(default=None, description="Whether ContrastBolusAgent names an agent.")
    tags: _Comparisons | None = Field(
        default=None,
        description="Keyword or gggg,eeee: a comparison such as '>= 100' that every value of every slice fits.",
    )
    prefer: _ListOf[Literal["most_slices", "thinnest", "latest"]] | None = Field(
        default=None,
        description="Take one series of a study, the best by the first criterion, then the next, then by its name.",
    )

    @property
    def extra_tags(self) -> frozenset[int]:
        """The tags to read from every header beside the usual ones."""
        asked = {tag_number(key) for key in self.tags or ()}
        if "latest" in (self.prefer or ()):
            asked.add(ACQUISITION_DATE_TIME)
        return frozenset(asked - set(DESCRIBING.values()))
