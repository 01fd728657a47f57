"""The second stage of a batch: a model on a device, and which hash it and its settings have."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

import torch

from medseg.batch.job import Job
from medseg.batch.scratch import study_folder
from medseg.batch.worker import LABELS_FILE, Advance, Images, Segmented
from medseg.device import pick_device
from medseg.dicom.policy import Policies
from medseg.findings import FindingCode
from medseg.inference.saved import probabilities_path
from medseg.loading import InferenceOptions, load_segmenter
from medseg.merged import MergedSegmenter, load_merged
from medseg.packages import model_hash
from medseg.recipe import Recipe
from medseg.recipe.packages import recipe_hash
from medseg.segmenter import Segmenter

_ANY_DEVICE = ("auto", "cuda")
_WITHOUT_EFFECT = ("device", "batch_size", "memory")  # on the label map, but for rounding


class StudyNetwork:
    """A model, or the models of a recipe, that segments the studies of a batch.

    Args:
        model: A package, or a run folder that holds one; or a recipe from `medseg.recipe.packages.find_models`.
        options: How it is run.
        device: Where; in place of that of `options`.
        scratch: Where probabilities are written, in the study's folder.
        sharers: Network workers that share this machine's processors.

    Raises:
        ModelError: The package is missing or damaged.
        DeviceError: The device is not there.
    """

    def __init__(
        self,
        model: Path | Recipe,
        options: InferenceOptions,
        device: str = "auto",
        *,
        scratch: Path | None = None,
        sharers: int = 1,
    ) -> None:
        if sharers > 1:
            torch.set_num_threads(max(1, torch.get_num_threads() // sharers))
        of_recipe = isinstance(model, Recipe) and model.needs_probabilities
        self._scratch = scratch if options.save_probabilities or of_recipe else None
        self._segmenter = load_drawing(model, replace(options, device=device))

    def __call__(self, job: Job, images: Images, advance: Advance | None = None) -> Segmented:
        """See `medseg.batch.worker.Network`."""
        file = probabilities_path(study_folder(self._scratch, job.key) / LABELS_FILE) if self._scratch else None
        labels = self._segmenter.segment(images, advance, probabilities=file)
        extra = (file,) if file else ()
        return Segmented(labels, labels.rung, str(self._segmenter.device), extra, file)


def load_drawing(model: Path | Recipe, options: InferenceOptions) -> Segmenter | MergedSegmenter:
    """Load a model, or the models of a recipe; their confidence is measured where the recipe asks for it.

    Raises:
        ModelError: A package is missing or damaged.
        ConfigError: The recipe does not fit its models.
        DeviceError: The device is not there.
    """
    if not isinstance(model, Recipe):
        return load_segmenter(model, options)
    merged = load_merged(model, options)
    merged.measures_confidence = FindingCode.LOW_CONFIDENCE in model.quality.watched
    return merged


def devices_for(name: str) -> list[str]:
    """Return the devices of a batch: all CUDA devices for ``auto`` and ``cuda`` where there are any, else the one.

    Raises:
        DeviceError: The device is not there, or is no name of a device.
    """
    picked = pick_device(name)
    if name in _ANY_DEVICE and picked.type == "cuda":
        return [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return [str(picked)]


def settings_hash(options: InferenceOptions, policies: Policies, recipe: Recipe | None = None) -> str:
    """Return the SHA-256 of what changes a label map beside model and input, then a colon and the memory.

    That a study may take: it changes a label map only where tiles have to be made smaller.

    Raises:
        ModelError: The coarse model of a region of interest cannot be read.
    """
    chosen = {name: value for name, value in asdict(options).items() if name not in _WITHOUT_EFFECT}
    chosen |= {"roi_from": model_hash(options.roi_from)} if options.roi_from else {}
    chosen |= {"recipe": recipe_hash(recipe)} if recipe else {}
    text = json.dumps([chosen, policies.model_dump()], sort_keys=True, default=str)
    return f"{hashlib.sha256(text.encode()).hexdigest()}:{options.memory or ''}"
