"""How a model of a recipe is run, and what its labels are called."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from medseg.data.fingerprint import Fingerprint
from medseg.data.preprocessing import STORED
from medseg.labels import LabelSet
from medseg.loading import InferenceOptions
from medseg.model import ModelPackage
from medseg.recipe.labels import described, is_taken
from medseg.recipe.models import ModelEntry
from medseg.recipe.recipe import Recipe


def options_of(entry: ModelEntry, given: InferenceOptions) -> InferenceOptions:
    """Return how a model of a recipe is run.

    Args:
        entry: What the recipe says; its coarse model has been found.
        given: On the command line, which goes before it.
    """
    usual = InferenceOptions()
    options = replace(given, skip_air=given.skip_air or entry.skip_air)
    if given.overlap is None:
        options = replace(options, overlap=entry.overlap)
    if given.mirror_axes is None and entry.mirror is False:
        options = replace(options, mirror_axes=())
    if given.roi_from is None and entry.roi_from is not None:
        margin_mm = usual.roi_margin_mm if entry.roi_margin_mm is None else entry.roi_margin_mm
        options = replace(options, roi_from=Path(entry.roi_from))
        if given.roi_labels == usual.roi_labels:
            options = replace(options, roi_labels=entry.roi_labels)
        if given.roi_margin_mm == usual.roi_margin_mm:
            options = replace(options, roi_margin_mm=margin_mm)
    return options


def envelope_of(package: ModelPackage) -> Fingerprint:
    """Return what a model's training images were like, with what earlier versions put into the package alone.

    These are the modalities, and whether axes are those of the files, as what is imported from nnU-Net counts them
    where it does not turn images.
    """
    known, is_imported = package.envelope, bool(package.provenance.imported)
    is_stored = known.is_stored_order or (is_imported and package.preprocessing.orientation == STORED)
    modalities = known.modalities or package.modalities
    return known.model_copy(update={"modalities": modalities, "is_stored_order": is_stored})


def relabelled(package: ModelPackage, recipe: Recipe, entry: ModelEntry) -> ModelPackage:
    """Return a package whose labels are called and described as a recipe does; their values stay.

    All that names labels follows: regions of the same name, the envelope, and what postprocessing keeps the largest
    component of. A label that is not taken has a name that none of those taken has.
    """
    told = {label.name: described(recipe, label, entry) for label in package.labels if is_taken(label, entry)}
    taken = {label.name for label in told.values()}
    for label in package.labels:
        name = f"{label.name} (not taken)" if label.name in taken else label.name
        told.setdefault(label.name, label.model_copy(update={"name": name}))
    names = {name: label.name for name, label in told.items()}
    regions = [
        region.model_copy(update={"name": names.get(region.name, region.name)}) for region in package.regions
    ]
    largest = tuple(names[name] for name in package.postprocessing.keep_largest)
    return package.model_copy(
        update={
            "labels": LabelSet(tuple(told.values())),
            "regions": tuple(regions),
            "envelope": package.envelope.renamed(names),
            "postprocessing": package.postprocessing.model_copy(update={"keep_largest": largest}),
        }
    )
