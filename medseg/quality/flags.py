"""The quality flags of a study, from its mask, its images and what its models learnt from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set

from medseg.data.fingerprint import Fingerprint
from medseg.data.label_statistics import LabelStatistics
from medseg.findings import Finding, FindingCode
from medseg.labels import LabelMap
from medseg.quality.envelope import Images, envelope_findings, unknown_of
from medseg.quality.settings import QualitySettings
from medseg.quality.shapes import LabelShape, shapes_of
from medseg.quality.sides import side_findings
from medseg.quality.wording import figure, figures

Envelopes = Sequence[tuple[Fingerprint, Sequence[str]]]
"""Of each model, what its training images were like, and the names of the labels that it drew."""

_Statistics = Mapping[str, LabelStatistics]
_AS_TRAINING = QualitySettings()
_MOST_NAMES = 6


def quality_findings(
    labels: LabelMap,
    images: Images,
    envelopes: Envelopes = (),
    confidence: Mapping[str, float] | None = None,
    *,
    settings: QualitySettings = _AS_TRAINING,
) -> list[Finding]:
    """Compare a mask and its images with what is expected of them.

    What the models' packages do not tell is not flagged; see `unchecked`.

    Args:
        labels: The mask.
        images: One a channel, on the mask's grid; None for one that is missing.
        envelopes: Of each model, what its training images were like, and the names of the labels it drew: those of
            the mask, with the envelope's labels named like them (`Fingerprint.renamed`).
        confidence: By label name, mean probability at the boundary; see `medseg.inference.confidence`.
        settings: What is asked.

    Returns:
        Findings of the flags that are held or marked, in the order of `FLAGS`.
    """
    shapes = shapes_of(labels)
    known = _statistics(envelopes)
    found = [
        *_absent(labels, shapes, known, settings),
        *_truncated(shapes, known, settings),
        *_apart(shapes, known, settings),
        *_volumes(shapes, known, settings),
        *side_findings(shapes, settings.left_of),
        *(
            finding
            for envelope, names in envelopes
            for finding in envelope_findings(labels, images, envelope, names, settings)
        ),
        *_unsure(shapes, confidence or {}, settings),
    ]
    return [finding for finding in dict.fromkeys(found) if finding.code in settings.watched]


def unchecked(
    labels: LabelMap,
    images: Images,
    envelopes: Envelopes = (),
    confidence: Mapping[str, float] | None = None,
    *,
    settings: QualitySettings = _AS_TRAINING,
) -> tuple[str, ...]:
    """Return what could not be checked, for want of something to compare with: one phrase a flag.

    Args:
        labels: The mask.
        images: One a channel.
        envelopes: As for `quality_findings`.
        confidence: As for `quality_findings`.
        settings: What is asked.
    """
    missing = _unknown_labels([label.name for label in labels.labels], envelopes, settings) | {
        FindingCode.OUTSIDE_ENVELOPE: list(
            dict.fromkeys(what for envelope, _ in envelopes for what in unknown_of(images, envelope))
        )
        if envelopes
        else ["the images"],
        FindingCode.LOW_CONFIDENCE: [] if confidence else ["not measured"],
    }
    return tuple(_listed(missing, settings.watched))


def unchecked_findings(
    labels: LabelMap,
    images: Images,
    envelopes: Envelopes = (),
    confidence: Mapping[str, float] | None = None,
    *,
    settings: QualitySettings = _AS_TRAINING,
) -> list[Finding]:
    """Return a finding for each flag of `hold` that could not be checked: nothing is held back for that alone.

    Args:
        labels: The mask.
        images: One a channel.
        envelopes: As for `quality_findings`.
        confidence: As for `quality_findings`.
        settings: What is asked.
    """
    held = settings.model_copy(update={"mark": ()})
    sentences = unchecked(labels, images, envelopes, confidence, settings=held)
    return [Finding(FindingCode.UNCHECKED, f"not held back for, as not checked: {text}") for text in sentences]


def uncheckable(envelopes: Envelopes, settings: QualitySettings) -> tuple[str, ...]:
    """Return which flags of `hold` can be checked in no study, as the models' packages do not tell what is usual.

    Args:
        envelopes: As for `quality_findings`.
        settings: What is asked.
    """
    names = [name for _, of_model in envelopes for name in of_model]
    return tuple(
        _listed(_unknown_labels(names, envelopes, settings), {FindingCode(flag) for flag in settings.hold})
    )


def _unknown_labels(
    names: Sequence[str], envelopes: Envelopes, settings: QualitySettings
) -> dict[FindingCode, list[str]]:
    known = _statistics(envelopes)
    return {
        FindingCode.ORGAN_ABSENT: [] if settings.expected is not None else _without(names, known),
        FindingCode.TRUNCATED: [name for name in _without(names, known) if name not in settings.may_touch_border],
        FindingCode.SEVERAL_COMPONENTS: _without(names, known, settings.components),
        FindingCode.UNUSUAL_VOLUME: _without(names, known, settings.volume_ml),
    }


def _listed(missing: Mapping[FindingCode, Sequence[str]], asked: Set[FindingCode]) -> Iterator[str]:
    for code, what in missing.items():
        if what and code in asked:
            others = f" and {len(what) - _MOST_NAMES} others" if len(what) > _MOST_NAMES else ""
            yield f"{code.value}: {', '.join(what[:_MOST_NAMES])}{others}"


def _statistics(envelopes: Envelopes) -> dict[str, LabelStatistics]:
    return {name: found.labels[name] for found, names in envelopes for name in names if name in found.labels}


def _without(names: Sequence[str], *known: Mapping[str, object]) -> list[str]:
    return [name for name in names if not any(name in one for one in known)]


def _absent(
    labels: LabelMap, shapes: Mapping[str, LabelShape], known: _Statistics, settings: QualitySettings
) -> Iterator[Finding]:
    expected = settings.expected
    if expected is None:
        usual = [name for name, found in known.items() if found.share_of_cases >= settings.expected_share]
        expected = tuple(label.name for label in labels.labels if label.name in usual)
    absent = [name for name in expected if name not in shapes]
    if absent:
        yield Finding(FindingCode.ORGAN_ABSENT, f"expected and not drawn: {', '.join(absent)}")


def _truncated(
    shapes: Mapping[str, LabelShape], known: _Statistics, settings: QualitySettings
) -> Iterator[Finding]:
    for name, shape in shapes.items():
        if name not in known or name in settings.may_touch_border:
            continue
        sides = {side: n for side, n in shape.at_faces.items() if n >= settings.least_border_voxels}
        if not sides or known[name].share_at_border >= settings.usual_border_share:
            continue
        faces = ", ".join(f"{side} ({count} voxels)" for side, count in sides.items())
        yield Finding(FindingCode.TRUNCATED, f"{name} touches the border of the volume at its {faces}")


def _apart(shapes: Mapping[str, LabelShape], known: _Statistics, settings: QualitySettings) -> Iterator[Finding]:
    for name, shape in shapes.items():
        first, *others = shape.component_ml
        others = [ml for ml in others if ml >= settings.component_ml]
        most = settings.components.get(name)
        if most is not None:
            is_odd, usual = 1 + len(others) > most, f"at most {most} expected"
        elif name in known and others:
            share, in_training = sum(others) / shape.volume_ml, known[name].usual_share_apart
            is_odd = share > max(in_training, settings.component_share)
            usual = f"{share:.0%} of it; in training usually at most {in_training:.0%}"
        else:
            continue
        if is_odd:
            message = (
                f"{name} has {1 + len(others)} components: beside one of {figure(first)} ml "
                f"{figures(others)} ml ({usual})"
            )
            yield Finding(FindingCode.SEVERAL_COMPONENTS, message)


def _volumes(shapes: Mapping[str, LabelShape], known: _Statistics, settings: QualitySettings) -> Iterator[Finding]:
    for name, shape in shapes.items():
        if name in settings.volume_ml:
            asked = settings.volume_ml[name]
            low, high, usual = asked.min, asked.max, _range(asked.min, asked.max, "expected")
        elif name in known:
            least, most = _usual_ml(shape, known[name])
            low, high = least / (1 + settings.volume_tolerance), most * (1 + settings.volume_tolerance)
            usual = _range(least, most, "in training")
        else:
            continue
        if shape.volume_ml < low or (high is not None and shape.volume_ml > high):
            yield Finding(FindingCode.UNUSUAL_VOLUME, f"{name} measures {figure(shape.volume_ml)} ml; {usual}")


def _usual_ml(shape: LabelShape, known: LabelStatistics) -> tuple[float, float]:
    """Return the least and the largest volume in training; of a label that is whole, among those that were whole.

    One slice of an organ at the border of one training case would else make every volume a usual one.
    """
    least = known.smallest_ml if shape.at_faces or known.smallest_whole_ml is None else known.smallest_whole_ml
    return least, known.largest_ml


def _range(low: float, high: float | None, whose: str) -> str:
    return f"{whose} {figure(low)} ml or more" if high is None else f"{whose} {figure(low)} to {figure(high)} ml"


def _unsure(
    shapes: Mapping[str, LabelShape], confidence: Mapping[str, float], settings: QualitySettings
) -> Iterator[Finding]:
    for name in shapes:
        if name in confidence and confidence[name] < settings.least_confidence:
            message = (
                f"{name} has a mean probability of {confidence[name]:.2f} at its boundary, "
                f"below {settings.least_confidence:g}"
            )
            yield Finding(FindingCode.LOW_CONFIDENCE, message)
