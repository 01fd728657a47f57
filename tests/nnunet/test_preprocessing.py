"""Plans of nnU-Net's become preprocessing and window; what medseg would do otherwise is refused."""

from __future__ import annotations

from typing import Any

import pytest

from medseg.data.preprocessing import CTIntensity, Spline, ZScoreIntensity
from medseg.errors import ModelError, UsageError
from medseg.nnunet.preprocessing import axes_of, preprocessing_of, turned, window_of
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


def test_images_are_turned_as_the_training_files_lay():
    """Axes i, j, k of the files to ends of the patient; the network's axes stay nnU-Net's k, j, i."""
    stored = preprocessing_of(*facts_of(*THICK, {}))
    assert stored.axes == (2, 1, 0)
    for letters, orientation, axes in (("LPS", "LPS", (2, 1, 0)), ("PIR", "RPI", (0, 2, 1))):
        found = turned(stored, letters)
        assert (found.orientation, found.axes, found.spacing_mm) == (orientation, axes, stored.spacing_mm)
    for wrong in ("LRS", "LP", "LPSX", "stored"):
        with pytest.raises(UsageError, match=f"--orientation: expected three letters.*found {wrong}"):
            turned(stored, wrong)
    with pytest.raises(UsageError, match="found one that turns images to RAS itself"):
        turned(preprocessing_of(*facts_of(*THICK, {"image_reader_writer": "NibabelIOWithReorient"})), "LPS")


def test_a_ct_of_one_intensity_is_refused():
    plans, configuration, dataset = facts_of(*THICK, {}, normalization_schemes=["CTNormalization"] * 2)
    plans["foreground_intensity_properties_per_channel"]["0"] |= {"percentile_00_5": 5, "percentile_99_5": 5}
    with pytest.raises(ModelError, match="clip_hu must rise"):
        preprocessing_of(plans, configuration, dataset)


@pytest.mark.parametrize(
    ("lacking", "found"), [("use_mask_for_norm", "no use_mask_for_norm"), ("spacing", "no spacing")], ids=str
)
def test_plans_that_lack_something_are_refused(lacking, found):
    plans, configuration, dataset = facts_of(*THICK, {})
    del plans["configurations"][configuration][lacking]
    with pytest.raises(ModelError, match=rf"plans.json: expected what nnU-Net writes there, found {found}"):
        preprocessing_of(plans, configuration, dataset)
    plans["configurations"][configuration] = {"patch_size": 5}
    with pytest.raises(ModelError, match=r"plans.json: expected what nnU-Net writes there"):
        window_of(plans, configuration)
    del plans["transpose_forward"]
    with pytest.raises(ModelError, match="found no transpose_forward"):
        axes_of(plans, configuration)


def test_labels_of_a_first_stage_are_resampled_as_nnunet_does_by_default():
    other = {"resampling_fn_seg_kwargs": {"is_seg": True, "order": 0}}
    preprocessing_of(*facts_of(*THICK, {}, **other))
    with pytest.raises(ModelError, match="seg_kwargs.order 1, found 0"):
        preprocessing_of(*facts_of(*THICK, {}, previous_stage="3d_lowres", **other))


@pytest.mark.parametrize(
    ("plans", "changes", "found"),
    [
        ({"image_reader_writer": "Tiff3DIO"}, {}, "found Tiff3DIO"),
        ({"label_manager": "MyLabels"}, {}, "found MyLabels"),
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
