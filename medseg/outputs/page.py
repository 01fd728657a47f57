"""What the page of a study tells."""

from __future__ import annotations

from medseg.outputs.making import Making
from medseg.quality import unchecked
from medseg.report.case import CasePage, Fact


def page_of(making: Making, *, with_pictures: bool) -> CasePage:
    """Return what the page of a study tells; all its other outputs are made already."""
    case = making.case
    there = {measured.label.name for measured in making.measurements}
    absent = [label.name for label in case.labels.labels if label.name not in there]
    return CasePage(
        case.name,
        making.measurements,
        channel=making.case.channel,
        absent=absent,
        pictures=(making.overview,) if with_pictures else (),
        flags=making.quality,
        held=making.held,
        unchecked=unchecked(
            case.labels, case.images, case.envelopes, case.confidence, settings=making.recipe.quality
        ),
        findings=(*case.findings, *making.findings),
        proofs=making.proofs,
        facts=_facts(making),
        provenance=_provenance(making),
    )


def _facts(making: Making) -> list[Fact]:
    case, grid = making.case, making.case.labels.grid
    modalities = [case.modality_of(channel) or "unknown" for channel in range(len(case.images))]
    by = " \N{MULTIPLICATION SIGN} "
    return [
        ("modality", ", ".join(modalities)),
        ("voxels", by.join(str(size) for size in grid.shape)),
        ("voxel size", by.join(f"{size:.3g}" for size in grid.spacing_mm) + " mm"),
        ("labels", f"{len(making.measurements)} of {len(making.case.labels.labels)} there"),
        ("outputs", ", ".join(dict.fromkeys(product.output for product in making.products))),
    ]


def _provenance(making: Making) -> list[Fact]:
    maker = making.case.maker
    return [
        ("pipeline", making.recipe.name),
        ("model", maker.model),
        ("SHA-256 of the model", maker.model_sha256),
        ("SHA-256 of the settings", maker.settings_sha256),
        ("run", making.case.labels.rung),
    ]
