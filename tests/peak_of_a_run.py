"""A process of its own: segments noise, prints for each case the bytes estimated and those taken at its peak."""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from medseg.crf import CRF
from medseg.inference.scope import RegionOfInterest, Scope
from medseg.labels import LabelSet
from medseg.segmenter import Segmenter
from medseg.volume import Volume
from tests.builders import tiny_package


def build(facts) -> Segmenter:
    tiny = tiny_package()
    classes = facts["classes"]
    labels = LabelSet.from_names({n: f"label {n}" for n in range(1, classes)})
    network = tiny.network.model_copy(
        update={"num_classes": classes, "fields": tiny.network.fields | {"channels": tuple(facts["channels"])}}
    )
    spacing = {"spacing_mm": (facts["spacing_mm"],) * 3}
    package = tiny.model_copy(
        update={
            "labels": labels,
            "network": type(network).model_validate(network.model_dump()),
            "preprocessing": tiny.preprocessing.model_copy(update=spacing),
            "inference": tiny.inference.model_copy(update={"tile_size": tuple(facts["tile"]), "overlap": 0.0}),
        }
    )
    if facts.get("crf"):
        crf = CRF(radius_mm=facts["spacing_mm"], iterations=1)
        cleaning = package.postprocessing.model_copy(update={"crf": crf})
        package = package.model_copy(update={"postprocessing": cleaning})
    torch.manual_seed(0)
    segmenter = Segmenter(package, [package.network.build().eval()], torch.device("cpu"))
    if coarse := facts.get("coarse_spacing_mm"):
        segmenter.scope = Scope(RegionOfInterest(build(facts | {"spacing_mm": coarse, "coarse_spacing_mm": None})))
    return segmenter


def noise(shape, *, sheared: bool = False) -> Volume:
    array = np.random.default_rng(0).standard_normal(shape[::-1], dtype=np.float32).T
    affine = np.eye(4)
    affine[1, 2] = 0.2 * sheared
    return Volume(array, affine, modality="MR")


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for facts in json.loads(sys.argv[1]):
        with TemporaryDirectory() as folder:
            target = Path(folder) / "a.h5" if facts.get("probabilities") else None
            print(json.dumps(measured(build(facts), facts, target)))


def resident(what: str) -> int:
    """Bytes; not ru_maxrss, which a process has from its parent."""
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith(what)) * 1024


def measured(segmenter: Segmenter, facts, target: Path | None) -> dict[str, int]:
    segmenter.segment(noise((24, 24, 24)), probabilities=target)  # what is loaded when it is first used
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # else the run begins in memory that the one before left behind
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    image = noise(facts["shape"], sheared=facts.get("sheared", False))
    segmenter.segment(image, probabilities=target)
    peak = resident("VmHWM")
    needs = segmenter.preflight(image.grid, probabilities=target is not None).needs
    return {"estimated": needs.host_bytes, "taken": peak - before}


if __name__ == "__main__":
    main()
