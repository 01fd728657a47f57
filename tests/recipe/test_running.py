"""What a recipe knows of its models' training."""

from __future__ import annotations

import pytest

from medseg.provenance import ImportedNetwork
from medseg.recipe.running import envelope_of
from tests.builders import tiny_package

IMPORTED = ImportedNetwork(
    software="nnU-Net", trainer="t", plans="p", configuration="3d_fullres", fold="0", epoch=1, checkpoint_sha256="a"
)


def test_an_older_package_tells_the_modalities_of_its_training():
    package = tiny_package("CT")
    assert package.envelope.modalities == ()
    assert envelope_of(package).modalities == ("CT",)
    known = package.envelope.model_copy(update={"modalities": ("PT",)})
    assert envelope_of(package.model_copy(update={"envelope": known})).modalities == ("PT",)


@pytest.mark.parametrize(
    ("orientation", "imported", "is_stored"),
    [("stored", True, True), ("LPS", True, False), ("stored", False, False)],
)
def test_an_older_import_counts_axes_as_they_are_stored(orientation, imported, is_stored):
    package = tiny_package()
    changes = {
        "preprocessing": package.preprocessing.model_copy(update={"orientation": orientation}),
        "provenance": package.provenance.model_copy(update={"imported": (IMPORTED,) if imported else ()}),
    }
    assert envelope_of(package.model_copy(update=changes)).is_stored_order == is_stored
