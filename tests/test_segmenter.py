"""What a model does with regions and with missing channels, against its network called by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from medseg.errors import InputError
from medseg.model import ModelPackage, NetworkSpec
from medseg.segmenter import Segmenter
from medseg.volume import Volume
from tests.builders import tiny_package

SHAPE = (16, 16, 16)  # one tile at the network's own spacing
AFFINE = np.diag([1.5, 1.5, 2.0, 1.0])
REGIONS = ({"name": "both", "labels": (1, 3)}, {"name": "box", "labels": (3,)})


def package(channels: int = 1, flags: bool = False, regions: tuple = ()) -> ModelPackage:
    tiny = tiny_package()
    network = NetworkSpec(
        name="unet",
        spatial_dims=3,
        in_channels=channels * (1 + flags),
        num_classes=len(regions) or 3,
        fields={"channels": (4, 8)},
    )
    facts = tiny.model_dump() | {"network": network, "modalities": ("MR",) * channels, "regions": regions}
    facts["preprocessing"] |= {"channel_flags": flags}
    return ModelPackage.model_validate(facts)


def segmenter(made: ModelPackage) -> Segmenter:
    torch.manual_seed(0)
    return Segmenter(made, [made.network.build().eval()], torch.device("cpu"))


def volume(seed: int) -> Volume:
    array = np.random.default_rng(seed).normal(50, 20, SHAPE).astype(np.float32)
    return Volume(np.asfortranarray(array), AFFINE, modality="MR")


def z_scores(image: Volume) -> torch.Tensor:
    return torch.from_numpy((image.array - image.array.mean()) / image.array.std())


@pytest.mark.parametrize("missing", [None, 0, 1])
def test_a_network_with_flags_sees_zeros_and_which_channels_are_there(missing):
    model = segmenter(package(channels=2, flags=True))
    images = [volume(1), volume(2)]
    seen = torch.zeros(1, 4, *SHAPE)
    for channel, image in enumerate(images):
        if channel != missing:
            seen[0, channel], seen[0, 2 + channel] = z_scores(image), 1
    with torch.inference_mode():
        expected = np.array([0, 1, 3])[model.networks[0](seen)[0].argmax(0).numpy()]
    given = [None if channel == missing else image for channel, image in enumerate(images)]
    found = model.segment(given)
    assert len(np.unique(expected)) > 1
    assert (found.array == expected).mean() > 0.999  # but for ties that rounding decides
    assert found.grid.difference(images[0].grid) is None


def test_channels_that_a_model_needs():
    with pytest.raises(InputError, match=r"found 1 of 2; .* preprocessing.channel_flags"):
        segmenter(package(channels=2)).segment([None, volume(1)])
    flagged = segmenter(package(channels=2, flags=True))
    with pytest.raises(InputError, match="at least one channel, found 0 of 2"):
        flagged.segment([None, None])
    with pytest.raises(InputError, match="found 1 volume"):
        flagged.segment([volume(1)])
    wrong = Volume(volume(1).array, AFFINE, modality="CT")
    with pytest.raises(InputError, match="a MR image"):
        flagged.segment([None, wrong])


def test_regions_are_painted_over_one_another():
    model = segmenter(package(regions=REGIONS))
    with torch.inference_mode():
        logits = model.networks[0](z_scores(volume(1))[None, None])[0]
    both, box = (torch.sigmoid(logits) > 0.5).numpy()
    expected = np.where(box, 3, np.where(both, 1, 0))
    found = model.segment(volume(1)).array
    assert set(np.unique(expected)) == {0, 1, 3}
    assert (found == expected).mean() > 0.999


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"regions": REGIONS}, "num_classes 3 for 2 regions"),
        ({"regions": ({"name": "all", "labels": (1, 2)},)}, "regions: no label has the value 2"),
        (
            {"preprocessing": {"intensity": ({"kind": "zscore"},), "channel_flags": True}},
            "1 modalities and their flags",
        ),
    ],
)
def test_packages_that_do_not_fit_together(changes, found):
    with pytest.raises(ValidationError, match=found):
        ModelPackage.model_validate(tiny_package().model_dump() | changes)
