"""Plans of nnU-Net's become preprocessing and window; what medseg would do otherwise is refused."""

from __future__ import annotations

from typing import Any

import pytest

from medseg.data.preprocessing import CTIntensity, Spline, ZScoreIntensity
from medseg.errors import ModelError
from medseg.nnunet.preprocessing import axes_of, preprocessing_of, window_of
from tests.nnunet.frozen import Frozen

THICK, PLANE = ("plain_3d_old", "3d_fullres"), ("plain_2d", "2d")


def facts_of(case: str, configuration: str, plans: dict[str, Any], **changes: Any) -> tuple[Any, str, Any]:
    facts = Frozen(case).facts
    facts["plans"] |= plans
    facts["plans"]["configurations"][configuration] |= changes
    return facts["plans"], configuration, facts["dataset"]


def test_what_the_plans_say():
    schemes = {"normalization_schemes": ["CTNormalization", "ZScoreNormalization"], "use_mask_for_norm": [True] * 2}
    found = preprocessing_of(*facts_of(*THICK, {}, **schemes))
    assert found.intensity == (
        CTIntensity(kind="ct", clip_hu=(10, 220), mean_hu=100, std_hu=20),
        ZScoreIntensity(kind="zscore", filled=True),
    )
    assert (found.orientation, found.axes, found.crop_nonzero) == ("stored", (2, 1, 0), True)
    assert (found.spacing_mm, found.spline) == ((2.5, 0.8, 0.8), Spline())
    reoriented = preprocessing_of(*facts_of(*THICK, {"image_reader_writer": "NibabelIOWithReorient"}))
    assert reoriented.orientation == "RAS"


def test_slices_of_a_2d_network_lie_along_the_last_axis():
    plans, configuration, dataset = facts_of(*PLANE, {"transpose_forward": [1, 2, 0]})
    found = preprocessing_of(plans, configuration, dataset)
    assert (found.axes, found.spacing_mm) == ((0, 2, 1), (0.8, 0.8, "keep"))
    assert axes_of(*facts_of(*THICK, {"transpose_forward": [1, 2, 0]})[:2]) == (1, 0, 2)


def test_the_window():
    window = window_of(*facts_of(*PLANE, {})[:2], mirror_axes=(1,))
    assert (window.tile_size, window.overlap, window.mirror_axes) == ((16, 24), 0.5, (1,))


def test_planes_apart_are_as_the_functions_default_says():
    """nnU-Net's own function does not separate planes where the plans say nothing of it."""
    named = {f"resampling_fn_{what}_kwargs": {"order": n} for what, n in (("data", 3), ("probabilities", 1))}
    assert preprocessing_of(*facts_of(*THICK, {}, **named)).spline == Spline(separate=False)


@pytest.mark.parametrize(
    ("plans", "changes", "found"),
    [
        ({"image_reader_writer": "Tiff3DIO"}, {}, "found Tiff3DIO"),
        ({}, {"preprocessor_name": "MyPreprocessor"}, "found MyPreprocessor"),
        ({}, {"resampling_fn_data": "resample_torch_fornnunet"}, "found resample_torch_fornnunet"),
        ({}, {"resampling_fn_probabilities": "no_resampling_hack"}, "found no_resampling_hack"),
        ({}, {"resampling_fn_data_kwargs": {"order": 1}}, "data_kwargs.order 3, found 1"),
        ({}, {"resampling_fn_data_kwargs": {"order_z": 1}}, "order_z 0, found 1"),
        ({}, {"resampling_fn_probabilities_kwargs": {}}, "probabilities_kwargs.order 1, found 3"),
        (
            {},
            {"resampling_fn_data_kwargs": {"force_separate_z": True}},
            "force_separate_z of probabilities True, found None",
        ),
        ({}, {"resampling_fn_data_kwargs": {"device": "cuda"}}, "found device"),
        ({}, {"normalization_schemes": ["ZScoreNormalization", "Mine"]}, "found Mine"),
        ({}, {"normalization_schemes": ["ZScoreNormalization"]}, "each of 2 channels, found 1"),
    ],
    ids=str,
)
def test_what_medseg_would_do_otherwise_is_refused(plans, changes, found):
    with pytest.raises(ModelError, match=rf"plans.json: expected .*{found}; predict with nnU-Net itself"):
        preprocessing_of(*facts_of(*THICK, plans, **changes))


def test_a_ct_without_measured_intensities_is_refused():
    schemes = {"normalization_schemes": ["CTNormalization"] * 2}
    measured = {"foreground_intensity_properties_per_channel": {}}
    with pytest.raises(ModelError, match="found no percentile_00_5"):
        preprocessing_of(*facts_of(*THICK, measured, **schemes))
