"""nnU-Net v2's half of ``nnunet_import.py``: its own prediction, and the logits behind it.

    peer/bin/python benchmarks/nnunet_predict.py FOLDER OUT MIRROR CASE [CASE ...]

It runs in nnU-Net's environment (see requirements.txt). FOLDER is that of a trained model; MIRROR is 1 or 0; a CASE is
the files of its channels, joined by commas. OUT/CASE.npz then holds, indexed [i, j, k]: ``labels``, nnU-Net's label map;
``single``, what it would be if nnU-Net summed logits in 32 bits and not in 16; ``margin``, by how much the largest of
these logits is above the next one; ``seconds`` for the first of the two.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nnunetv2.inference.predict_from_raw_data as sliding
import numpy as np
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import convert_labelmap_to_one_hot
from numpy.typing import NDArray

TIMED = "TimedTrainer"  # of nnunet_side.py: nnU-Net's own, but for its schedule


class _InSingle:
    """Torch with single precision where half is asked for."""

    half = torch.float32

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@contextmanager
def in_single_precision() -> Iterator[None]:
    """Let nnU-Net sum logits in 32 bits."""
    sliding.torch = _InSingle()
    try:
        yield
    finally:
        sliding.torch = torch


def predictor_of(folder: Path, *, mirror: bool) -> nnUNetPredictor:
    """Load every fold of a trained model."""
    found = sliding.recursive_find_trainer_class_by_name
    sliding.recursive_find_trainer_class_by_name = lambda name: nnUNetTrainer if name == TIMED else found(name)
    predictor = nnUNetPredictor(
        use_mirroring=mirror,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        verbose=False,
        allow_tqdm=False,
    )
    predictor.initialize_from_trained_model_folder(str(folder), use_folds=None)
    return predictor


def prepare(
    predictor: nnUNetPredictor, files: list[str], first: NDArray[np.uint8] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.int8], dict[str, Any]]:
    """Prepare a case as nnU-Net does.

    Args:
        predictor: A trained model.
        files: One a channel.
        first: Labels [i, j, k] of the first stage, for the second of a cascade.

    Returns:
        What the network sees, the first stage's labels on that grid, and what nnU-Net notes of the case.
    """
    plans, chosen = predictor.plans_manager, predictor.configuration_manager
    image, facts = plans.image_reader_writer_class().read_images(files)
    given = None if first is None else first.transpose(2, 1, 0)[None].astype(np.int16)
    prepared, labels, facts = chosen.preprocessor_class(verbose=False).run_case_npy(
        image, given, facts, plans, chosen, predictor.dataset_json
    )
    if first is not None:
        values = predictor.label_manager.foreground_labels
        prepared = np.vstack((prepared, convert_labelmap_to_one_hot(labels[0], values, prepared.dtype)))
    return prepared, labels[0], facts


def predict(
    predictor: nnUNetPredictor, files: list[str], first: NDArray[np.uint8] | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Predict a case as nnU-Net does; see `prepare`.

    Returns:
        Labels [i, j, k], and float32 logits (K, i, j, k) on the same grid, infinite for all but the background
        outside the crop. (i, j, k) are the axes of the image that the reader returns, from the last to the first.
    """
    plans, chosen = predictor.plans_manager, predictor.configuration_manager
    prepared, _, facts = prepare(predictor, files, first)
    logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(prepared).float())
    labels = convert_predicted_logits_to_segmentation_with_correct_shape(
        logits, plans, chosen, predictor.label_manager, facts, num_threads_torch=torch.get_num_threads()
    )
    spacing = [facts["spacing"][axis] for axis in plans.transpose_forward]
    own = [*spacing[: 3 - len(chosen.spacing)], *chosen.spacing]
    cropped = facts["shape_after_cropping_and_before_resampling"]
    native = np.asarray(chosen.resampling_fn_probabilities(logits.float(), cropped, own, spacing))
    whole = np.full((len(native), *facts["shape_before_cropping"]), -np.inf, dtype=np.float32)
    whole[0] = np.inf
    whole[(slice(None), *(slice(*bounds) for bounds in facts["bbox_used_for_cropping"]))] = native
    whole = whole.transpose(0, *(1 + axis for axis in plans.transpose_backward))
    return labels.transpose(2, 1, 0), whole.transpose(0, 3, 2, 1)


def main(folder: str, out: str, mirror: str, *cases: str) -> None:
    predictor = predictor_of(Path(folder), mirror=mirror == "1")
    Path(out).mkdir(parents=True, exist_ok=True)
    for case in cases:
        files = case.split(",")
        started = time.perf_counter()
        labels, _ = predict(predictor, files)
        seconds = time.perf_counter() - started
        with in_single_precision():
            single, logits = predict(predictor, files)
        two = np.sort(logits, axis=0)[-2:]
        name = Path(files[0]).name.split(".")[0]
        maps = {"labels": labels, "single": single, "margin": two[1] - two[0]}
        np.savez(Path(out) / f"{name}.npz", seconds=seconds, **maps)
        print(f"{name}: {seconds:.1f} s", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
