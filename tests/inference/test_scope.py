"""Where a model looks: the box of a coarse model, and the tiles that hold more than air."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation

from medseg.errors import ModelError, UsageError
from medseg.findings import Finding, FindingCode
from medseg.inference.scope import RegionOfInterest, Scope, cropped, filled_body
from medseg.inference.tiles import SlidingWindow
from medseg.labels import LabelMap, LabelSet
from medseg.loading import InferenceOptions, load_segmenter
from medseg.segmenter import Segmenter
from medseg.volume import Volume
from tests.builders import save_tiny_model, tiny_package

AFFINE = np.array([[0, -2.0, 0, 10], [1.0, 0, 0, -5], [0, 0, 4.0, 7], [0, 0, 0, 1.0]])
CPU = torch.device("cpu")


class Drawn:
    """A coarse model that draws what it is told to."""

    def __init__(self, array, findings=()) -> None:
        self.array, self.findings = array, findings

    def segment(self, image, advance=None):
        labels = LabelSet.from_names({1: "liver", 2: "spleen"})
        return LabelMap(Volume(self.array, image[0].affine, findings=self.findings), labels)


class Threshold(torch.nn.Module):
    """Label 1 above a value of the network's input; counts the tiles it sees."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value, self.tiles = value, 0

    def forward(self, x):
        self.tiles += len(x)
        return torch.cat((torch.zeros_like(x), x - self.value, torch.full_like(x, -9.0)), dim=1)


def ct(spacing=("keep",) * 3):
    """A model of CT that leaves HU / 1000 as they are."""
    tiny = tiny_package("CT")
    rule = {"kind": "ct", "clip_hu": (-1000, 1000), "mean_hu": 0.0, "std_hu": 1000.0}
    preprocessing = tiny.preprocessing.model_validate({"spacing_mm": spacing, "intensity": (rule,)})
    return tiny.model_copy(update={"preprocessing": preprocessing})


def scan(shape=(40, 36, 30)) -> Volume:
    """Air, and a body of water with two lungs and a bone in it."""
    array = np.full(shape, -1000, dtype=np.int16, order="F")
    array[12:26, 10:24, 8:20] = 0
    array[14:18, 12:20, 8:18] = -850
    array[20:24, 12:20, 8:18] = -850
    array[18:20, 14:16, 10:16] = 700
    return Volume(array, AFFINE, modality="CT")


def test_the_box_holds_what_is_found_and_the_margin():
    array = np.zeros((20, 22, 24), np.uint8)
    array[5:9, 20, 12] = 1
    array[15, 3, 3] = 2
    image = [Volume(array, AFFINE)]
    model = Drawn(array)
    assert RegionOfInterest(model, (1,), 3.0).box(image) == ((slice(2, 12), slice(18, 22), slice(11, 14)), ())
    assert RegionOfInterest(model, (), 0.0).box(image) == ((slice(5, 16), slice(3, 21), slice(3, 13)), ())
    assert RegionOfInterest(model, (7,), 3.0).box(image)[0] is None


def test_a_part_stays_where_it_is_in_the_patient():
    part = cropped(scan(), (slice(3, 9), slice(2, 30), slice(4, 5)))
    assert part.grid.shape == (6, 28, 1)
    np.testing.assert_allclose(part.grid.world([1, 2, 0]), scan().grid.world([4, 4, 4]))


def test_only_the_region_is_segmented_and_lies_where_it_was():
    image = scan()
    network = Threshold(0.5)
    model = Segmenter(ct(), [network], CPU)
    expected = model.segment(image).array
    assert expected.any()
    whole, network.tiles = network.tiles, 0
    model.scope = Scope(RegionOfInterest(Drawn((image.array > 500).astype(np.uint8)), margin_mm=4.0))
    got = model.segment(image)
    assert network.tiles < whole
    assert np.array_equal(got.array, expected)
    assert got.array.flags.f_contiguous
    assert got.array.dtype == expected.dtype
    assert np.array_equal(got.affine, image.affine)
    elsewhere = np.zeros(image.array.shape, np.uint8)
    elsewhere[1, 1, 1] = 1
    model.scope = Scope(RegionOfInterest(Drawn(elsewhere), margin_mm=4.0))
    assert not model.segment(image).array.any()


def test_nothing_found_segments_everything_and_says_so():
    image = scan()
    model = Segmenter(ct(), [Threshold(0.5)], CPU)
    expected = model.segment(image).array
    model.scope = Scope(RegionOfInterest(Drawn(np.zeros(image.array.shape, np.uint8))))
    got = model.segment(image)
    assert np.array_equal(got.array, expected)
    (finding,) = got.volume.findings
    assert finding.code == FindingCode.NO_REGION
    assert finding.where == ""  # no path of this machine: it goes into the ledger


@pytest.mark.parametrize("there", [True, False])
def test_how_the_coarse_model_ran_is_said(there):
    image, odd = scan(), Finding(FindingCode.NO_ORIENTATION, "of the image")
    tiles = Finding(FindingCode.SMALLER_TILES, "tiles of 4 x 4 x 4")
    model = Segmenter(ct(), [Threshold(0.5)], CPU)
    found = np.full(image.array.shape, there, np.uint8)
    model.scope = Scope(RegionOfInterest(Drawn(found, (odd, tiles))))
    told = model.segment(image).volume.findings
    assert told[0] == Finding(FindingCode.SMALLER_TILES, "the coarse model: tiles of 4 x 4 x 4")
    assert [finding.code for finding in told[1:]] == ([] if there else [FindingCode.NO_REGION])


def test_how_the_first_stage_ran_is_said():
    class Small(Threshold):
        def forward(self, x):
            if x[0, 0].numel() > 512:
                raise MemoryError
            return super().forward(x)

    class Second(Threshold):
        def forward(self, x):
            return super().forward(x[:, :1])

    package = ct()
    window = SlidingWindow(tile_size=(16, 8, 8))
    cascade = package.model_copy(
        update={
            "coarse": True,
            "preprocessing": package.preprocessing.model_copy(update={"coarse_labels": (1, 3)}),
        }
    )
    model = Segmenter(cascade, [Second(0.5)], CPU, coarse=Segmenter(package, [Small(0.5)], CPU, window=window))
    (finding,) = model.segment(scan()).volume.findings
    assert finding.code == FindingCode.SMALLER_TILES
    assert finding.message.startswith("the first stage: not enough memory: tiles of 8 x 8 x 8")


@pytest.mark.parametrize("given", [{"roi_labels": ("liver",)}, {"roi_margin_mm": 5.0}])
def test_a_region_needs_a_coarse_model(given, tmp_path):
    save_tiny_model(tmp_path)
    with pytest.raises(UsageError, match="expected --roi-from with it"):
        load_segmenter(tmp_path, InferenceOptions("cpu", **given))


@pytest.mark.parametrize("spacing", [("keep",) * 3, (1.5, 1.5, 3.0)])
def test_skipping_air_leaves_every_label_of_the_body(spacing):
    image = scan()
    network = Threshold(-0.9)  # lungs and body
    model = Segmenter(ct(spacing), [network], CPU, window=SlidingWindow(tile_size=(8, 8, 8)))
    expected = model.segment(image).array
    whole, network.tiles = network.tiles, 0
    model.scope = Scope(skip_air=True)
    got = model.segment(image).array
    assert network.tiles < 0.7 * whole
    assert np.array_equal(got, expected)
    assert (got[15, 15, 12], got[22, 15, 12], got[0, 0, 0]) == (1, 1, 0)  # the lungs, and the air


def test_the_body_is_filled_and_one_voxel_wider():
    mask = torch.zeros(12, 11, 10)
    mask[3:9, 3:9, 2:8] = 1
    mask[5:7, 5:7, 2:8] = 0  # a tube of air from end to end
    solid = np.zeros((12, 11, 10), bool)
    solid[3:9, 3:9, 2:8] = True
    np.testing.assert_array_equal(filled_body(mask).numpy(), binary_dilation(solid, np.ones((3, 3, 3))))


def test_air_is_skipped_in_ct_only(tmp_path):
    save_tiny_model(tmp_path)
    with pytest.raises(UsageError, match="--skip-air: expected a model of CT"):
        load_segmenter(tmp_path, InferenceOptions("cpu", skip_air=True))


def test_a_coarse_model_is_loaded_with_the_model(tmp_path):
    save_tiny_model(tmp_path / "model")
    save_tiny_model(tmp_path / "coarse")
    save_tiny_model(tmp_path / "ct", modality="CT")
    options = InferenceOptions(
        "cpu", overlap=0.25, memory="2GB", roi_from=tmp_path / "coarse", roi_labels=("box",), roi_margin_mm=5.0
    )
    model = load_segmenter(tmp_path / "model", options)
    assert model.scope.memory_bytes == 2 * 10**9
    region = model.scope.roi
    assert (region.values, region.margin_mm, region.model.scope.roi) == ((3,), 5.0, None)
    assert (model.window.overlap, region.model.window.overlap) == (0.25, 0.5)
    with pytest.raises(UsageError, match="--roi-labels: expected ball, box, found liver"):
        load_segmenter(tmp_path / "model", InferenceOptions(roi_from=tmp_path / "coarse", roi_labels=("liver",)))
    with pytest.raises(ModelError, match="a coarse model of MR, as the model, found one of CT"):
        load_segmenter(tmp_path / "model", InferenceOptions(roi_from=tmp_path / "ct"))
    with pytest.raises(UsageError, match="--memory"):
        load_segmenter(tmp_path / "model", InferenceOptions(memory="much"))
