"""Fine-tuning: a network begins with a model's weights, learns other labels, and learns slower the deeper it is.

The head's rows (the kernels and biases of one class) are copied by label; all else is copied as it is, or refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from medseg.errors import ModelError, listed
from medseg.model import ModelPackage, find_package, load_networks, load_package
from medseg.training.surgery import plan_surgery, require_same_network

Freeze = Literal["none", "encoder", "all_but_head"]

_BATCH_NORMS = (nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class InitFrom(BaseModel):
    """The model whose weights a training begins with, and how they are learnt on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Path = Field(description="A model package, or a run folder that holds one.")
    fold: int | None = Field(
        default=None, ge=0, description="Whose weights, of a model that holds several folds; the first if unset."
    )
    layer_decay: float = Field(
        default=1.0, gt=0, le=1, description="Factor on the learning rate with each part away from the head."
    )
    freeze: Freeze = Field(
        default="none", description="What is not trained: nothing, the encoder, or all but the head."
    )


@dataclass(frozen=True)
class InitReport:
    """What a network was given, for the log.

    Attributes:
        weights: Name of the file that the weights are from.
        sha256: Of the file.
        tensors: Number of tensors that are from it, whole or by rows.
        classes: {label or region: the model's that its rows of the head are from}.
        new_classes: Those whose rows are fresh.
        left_out: The model's that the network has not.
        channels: Image channels of the model and of the network; where they differ, the first kernels were adapted.
        fresh: Names of the tensors that the model has not: heads of deep supervision.
    """

    weights: str
    sha256: str
    tensors: int
    classes: Mapping[str, str]
    new_classes: tuple[str, ...]
    left_out: tuple[str, ...]
    channels: tuple[int, int]
    fresh: tuple[str, ...]

    def __str__(self) -> str:
        sentences = [f"{self.tensors} tensors from {self.weights}"]
        sentences += [f"labels {listed(list(self.classes))}"] if self.classes else []
        sentences += [f"new labels {listed(self.new_classes)}"] if self.new_classes else []
        sentences += [f"left out {listed(self.left_out)}"] if self.left_out else []
        have, want = self.channels
        sentences += [f"first kernels adapted from {have} channels to {want}"] if have != want else []
        sentences += [f"fresh {listed(self.fresh)}"] if self.fresh else []
        return "; ".join(sentences)


def initialise(network: nn.Module, target: ModelPackage, init: InitFrom) -> InitReport:
    """Fill a fresh network with a model's weights, in place.

    Every tensor is copied. In those that count classes (scores, and what works on scores) the rows of background
    and of each label or region that both have (`medseg.training.surgery.match_labels`) are copied, and new ones
    keep their fresh rows. The kernels on the image are adapted to another number of channels by
    `medseg.networks.weights.adapt_stem`; those on flags of channels are 0 where the model has none.

    Args:
        network: Built by `target.network`.
        target: What is to be trained, as far as it is known before.
        init: The model, and which of its folds.

    Raises:
        ModelError: The model is not there, is damaged, lacks the fold, or is of another architecture.
    """
    package = load_package(init.model)
    name = _weights_name(package, init)
    package = package.model_copy(update={"weights_sha256": {name: package.weights_sha256[name]}})
    require_same_network(init.model, package.networks.get(name, package.network), target.network)
    (source,) = load_networks(init.model, package)
    given, state = source.state_dict(), network.state_dict()
    surgery = plan_surgery(package, target)
    filled = {key: surgery.fit(key, given[key], tensor.cpu()) for key, tensor in state.items() if key in given}
    network.load_state_dict(state | filled)
    return InitReport(
        weights=name,
        sha256=package.weights_sha256[name],
        tensors=len(filled),
        classes=surgery.outputs,
        new_classes=surgery.new,
        left_out=surgery.left_out,
        channels=surgery.channels,
        fresh=tuple(key for key in state if key not in given),
    )


def parameter_groups(network: nn.Module, learning_rate: float, init: InitFrom) -> list[dict[str, Any]]:
    """Freeze what is not to be trained, and give each part of the rest its learning rate, for a torch optimizer.

    The rate of a part is the learning rate times ``layer_decay ** n``, where n is its distance from the head. The
    parts are the stages of the encoder, those of the decoder or what stands there, and the head (``parts()``).

    Args:
        network: Before it is wrapped or compiled; its frozen parameters no longer require gradients.
        learning_rate: Of the head.
        init: What to freeze, and the decay.

    Returns:
        Groups with ``params``, ``lr`` and ``lr_scale``, the head's last; of parts with one rate there is one group.

    Source: Clark et al. 2020 (arXiv:2003.10555); Bao et al. 2022 (arXiv:2106.08254).
    """
    parts = _parts(network)
    trained = _trained(network, init.freeze, parts[-1])
    groups: dict[float, list[nn.Parameter]] = {}
    for number, part in enumerate(parts):
        for parameter in part:
            parameter.requires_grad_(id(parameter) in trained)
        scale = init.layer_decay ** (len(parts) - 1 - number)
        groups.setdefault(scale, []).extend(parameter for parameter in part if parameter.requires_grad)
    return [
        {"params": members, "lr": learning_rate * scale, "lr_scale": scale}
        for scale, members in groups.items()
        if members
    ]


def hold_frozen(network: nn.Module) -> None:
    """Keep the running statistics of frozen batch normalisations as they are; to be called after ``train()``."""
    for module in network.modules():
        if isinstance(module, _BATCH_NORMS) and not any(p.requires_grad for p in module.parameters()):
            module.eval()


def _weights_name(package: ModelPackage, init: InitFrom) -> str:
    """Return the name of the file of the fold asked for, or of the first."""
    names = list(package.weights_sha256)
    found = [name for name in names if init.fold is None or name.startswith(f"fold_{init.fold}-")]
    if not found:
        raise ModelError(
            find_package(init.model),
            expected=f"weights of fold {init.fold}",
            found=listed(names),
            remedy="correct init_from.fold, or leave it out",
        )
    return found[0]


def _parts(network: nn.Module) -> list[list[nn.Parameter]]:
    """Return the parameters of each part, from the image to the head; of parts that have some."""
    parts = cast(Callable[[], list[list[nn.Module]]], network.parts)()
    found = [[p for module in part for p in module.parameters()] for part in parts]
    return [part for part in found if part]


def _trained(network: nn.Module, freeze: Freeze, head: Sequence[nn.Parameter]) -> set[int]:
    """Return the identities of the parameters that are not frozen."""
    if freeze == "all_but_head":
        return {id(parameter) for parameter in head}
    frozen = cast(nn.Module, network.encoder).parameters() if freeze == "encoder" else ()
    return {id(parameter) for parameter in network.parameters()} - {id(parameter) for parameter in frozen}
