"""Networks of nnU-Net's, frozen by ``benchmarks/freeze_nnunet.py``, as the folders that nnU-Net leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from torch import Tensor

CASES = Path(__file__).parent / "cases"
NETWORKS = ("plain_2d", "plain_2d_batch_norm", "plain_3d_old", "plain_3d_uneven", "residual_2d", "residual_3d")

Change = Callable[[dict[str, Any]], object]


class Frozen:
    """A case: what nnU-Net wrote and what its network computes."""

    def __init__(self, name: str) -> None:
        self.facts: dict[str, Any] = json.loads((CASES / f"{name}.json").read_text(encoding="utf-8"))
        with safetensors.safe_open(CASES / f"{name}.safetensors", framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
            aliases = json.loads(file.metadata()["aliases"])
        self.image, self.logits = tensors.pop("image"), tensors.pop("logits")
        own = {key.removeprefix("weights/"): tensor for key, tensor in tensors.items()}
        self.weights: dict[str, Tensor] = own | {alias: own[key] for alias, key in aliases.items()}

    @property
    def configuration(self) -> str:
        return self.facts["configuration"]

    def checkpoint(self, fold: int | str = 0, **changes: Any) -> dict[str, Any]:
        """What nnU-Net 2.8 saves: losses and times are numpy's numbers."""
        return {
            "network_weights": self.weights,
            "optimizer_state": {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.01}]},
            "grad_scaler_state": None,
            "logging": {
                "mean_fg_dice": [np.float64(0.5), 0.25],
                "train_losses": [np.float32(-0.1)],
                "dice_per_class_or_region": [[np.float64(0.25), np.float64(0.75)]],
            },
            "_best_ema": np.float64(0.5),
            "current_epoch": 1000,
            "init_args": {
                "plans": self.facts["plans"],
                "configuration": self.configuration,
                "fold": fold,
                "dataset_json": self.facts["dataset"],
                "device": torch.device("cpu"),
            },
            "trainer_name": "nnUNetTrainer",
            "inference_allowed_mirroring_axes": (0, 1),
        } | changes

    def results(
        self,
        root: Path,
        *,
        folds: Sequence[int | str] = (0,),
        plans: Change | None = None,
        dataset: Change | None = None,
        **checkpoint: Any,
    ) -> Path:
        """Write the folder of a trained model below `root`; plans, data set and checkpoint may be changed."""
        configuration = checkpoint.get("init_args", {}).get("configuration", self.configuration)
        folder = root / f"nnUNetTrainer__nnUNetPlans__{configuration}"
        for name, change in (("plans", plans), ("dataset", dataset)):
            content = json.loads(json.dumps(self.facts[name]))
            if change is not None:
                change(content)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}.json").write_text(json.dumps(content))
        for fold in folds:
            (folder / f"fold_{fold}").mkdir()
            torch.save(self.checkpoint(fold, **checkpoint), folder / f"fold_{fold}" / "checkpoint_final.pth")
        return folder
