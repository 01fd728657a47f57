"""nnU-Net's networks compute the same as packages: plain and residual, 2-D and 3-D, plans of both forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from medseg.errors import ModelError, UsageError
from medseg.model import load_networks, load_package
from medseg.nnunet.package import import_nnunet
from medseg.nnunet.plans import architecture_of, configuration_of
from tests.nnunet.frozen import NETWORKS, Frozen

WHERE = Path("plans.json")


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_nnunets(name, tmp_path):
    frozen = Frozen(name)
    import_nnunet(frozen.results(tmp_path), tmp_path / "model")
    (network,) = load_networks(tmp_path / "model", load_package(tmp_path / "model"))
    with torch.inference_mode():
        found = network(frozen.image)
    assert frozen.logits.std() > 0.3
    torch.testing.assert_close(found, frozen.logits, rtol=1e-5, atol=1e-5)


def test_every_number_of_the_weights_is_taken_over(tmp_path):
    """But for what nnU-Net has under two names, the tensors are the same ones, counted."""
    frozen = Frozen("residual_3d")
    package = import_nnunet(frozen.results(tmp_path), tmp_path / "model")
    (network,) = load_networks(tmp_path / "model", package)
    own = {tensor.data_ptr(): tensor for tensor in frozen.weights.values()}
    assert sum(t.numel() for t in network.state_dict().values()) == sum(t.numel() for t in own.values())
    found = torch.cat([t.flatten() for t in network.state_dict().values()]).sort()[0]
    assert torch.equal(found, torch.cat([t.flatten() for t in own.values()]).sort()[0])


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_weights_of_networks_that_were_wrapped(prefix, tmp_path):
    frozen = Frozen("plain_2d")
    wrapped = {f"{prefix}{name}": tensor for name, tensor in frozen.weights.items()}
    import_nnunet(frozen.results(tmp_path / "plain"), tmp_path / "a")
    import_nnunet(frozen.results(tmp_path / "wrapped", network_weights=wrapped), tmp_path / "b")
    assert load_package(tmp_path / "a").weights_sha256 == load_package(tmp_path / "b").weights_sha256


def test_batch_normalisation_that_a_trainer_put_in_place_of_what_was_planned(tmp_path):
    frozen = Frozen("plain_2d_batch_norm")

    def as_planned(plans: dict[str, Any]) -> None:
        arguments = plans["configurations"]["2d"]["architecture"]["arch_kwargs"]
        arguments["norm_op"] = "torch.nn.modules.instancenorm.InstanceNorm2d"

    folder = frozen.results(tmp_path, plans=as_planned, trainer_name="nnUNetTrainerBN")
    package = import_nnunet(folder, tmp_path / "model")
    (network,) = load_networks(tmp_path / "model", package)
    with torch.inference_mode():
        torch.testing.assert_close(network(frozen.image), frozen.logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"network_class_name": "primus.PrimusM"}, "primus.PrimusM"),
        ({"nonlin_first": True}, "nonlin_first"),
        ({"squeeze_excitation": True}, "squeeze_excitation"),
        ({"norm_op_kwargs": {"eps": 1e-3, "affine": True}}, "eps"),
        ({"norm_op_kwargs": {"eps": 1e-5}}, "affine"),
        ({"norm_op": "torch.nn.GroupNorm"}, "GroupNorm"),
        ({"nonlin": "torch.nn.PReLU"}, "PReLU"),
        ({"nonlin_kwargs": {"negative_slope": 0.2}}, "negative_slope"),
        ({"features_per_stage": [4, 6]}, r"kernel sizes, strides and convolutions for \[3, 3, 3, 3\] stages"),
        ({"strides": [[2, 2], [2, 2], [2, 2]]}, "the first stride must be 1"),
        ({"n_conv_per_stage": None}, "n_conv_per_stage is missing"),
        ({"conv_op": "torch.nn.modules.conv.Conv1d"}, "conv_op"),
    ],
    ids=str,
)
def test_networks_that_medseg_does_not_have_are_refused(change, found):
    configuration = configuration_of(WHERE, Frozen("plain_2d").facts["plans"], "2d")
    described = configuration["architecture"]
    for key, value in change.items():
        (described if key in described else described["arch_kwargs"])[key] = value
    with pytest.raises(ModelError, match=rf"plans.json: expected .*{found}.*; predict with nnU-Net itself"):
        architecture_of(WHERE, configuration)


def test_a_class_of_the_older_form_is_refused():
    configuration = configuration_of(WHERE, Frozen("plain_3d_old").facts["plans"], "3d_fullres")
    with pytest.raises(ModelError, match="found MedNeXt"):
        architecture_of(WHERE, configuration | {"UNet_class_name": "MedNeXt"})
    del configuration["conv_kernel_sizes"]
    with pytest.raises(ModelError, match="found no conv_kernel_sizes"):
        architecture_of(WHERE, configuration)


def test_weights_of_another_network_are_refused(tmp_path):
    frozen = Frozen("plain_2d")
    wider = frozen.results(tmp_path / "wider")
    (wider / "plans.json").write_text((wider / "plans.json").read_text().replace("[4, 6, 8]", "[4, 6, 10]"))
    with pytest.raises(
        ModelError, match=r"others for encoder.stages.2.1.0.weight.*\(8, 6, 3, 3\) for \(10, 6, 3, 3\)"
    ):
        import_nnunet(wider, tmp_path / "model")
    more = frozen.weights | {"decoder.extra.conv.weight": torch.zeros(1)}
    with pytest.raises(ModelError, match=r"decoder.extra.0.weight \(\(1,\) for none\)"):
        import_nnunet(frozen.results(tmp_path / "more", network_weights=more), tmp_path / "model")


def test_configurations_inherit():
    small, bigger = {"batch_size": 2, "spacing": [1]}, {"inherits_from": "small", "batch_size": 4}
    plans = {"configurations": {"small": small, "bigger": bigger, "biggest": {"inherits_from": "bigger"}}}
    found = configuration_of(WHERE, plans, "biggest")
    assert (found["batch_size"], found["spacing"]) == (4, [1])
    with pytest.raises(UsageError, match="expected the configuration 2d, found small, bigger, biggest"):
        configuration_of(WHERE, plans, "2d")
    small["inherits_from"] = "biggest"
    with pytest.raises(ModelError, match="small -> biggest -> bigger -> small"):
        configuration_of(WHERE, plans, "small")
