"""Fine-tuning: every tensor is where it belongs, by brute force and by the logits; rates in closed form."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from medseg.errors import ModelError
from medseg.labels import CodedConcept, Label, LabelSet, Laterality
from medseg.model import ModelPackage, NetworkSpec
from medseg.training.finetune import InitFrom, InitReport, hold_frozen, initialise, parameter_groups
from medseg.training.schedule import make_optimizer, set_rate
from medseg.training.surgery import match_labels
from tests.builders import tiny_package
from tests.networks.probes import EIGHTH, NAMES, scrambled
from tests.networks.test_every_network import EACH, WITHOUT_SKIPS

UNETS = ("unet", "attention_unet", "resunet")
ORGANS = LabelSet.from_names({1: "liver", 2: "spleen", 3: "kidney"})
OTHERS = LabelSet.from_names({1: "Kidney", 2: "tumour", 4: "pancreas", 7: "liver"})
SHALLOW = {"resunet": {"blocks": (1,) * 6}} | {
    name: {"backbone": "resnet18"} for name in ("deeplabv2", "deeplabv3", "deeplabv3plus")
}
SUPERVISED = {"deep_supervision": True}
SIZE = {2: (33, 20), 3: (18, 12, 4)}
both = pytest.mark.parametrize("dims", [2, 3])
every = pytest.mark.parametrize("name", NAMES)


def names(values: object) -> str:
    shown = "-".join(str(value) for value in values.values()) if isinstance(values, dict) else str(values)
    return shown or "default"


def spec_of(name: str, dims: int = 2, *, in_channels: int = 1, labels: LabelSet = ORGANS, **fields) -> NetworkSpec:
    return NetworkSpec(
        name=name,
        spatial_dims=dims,
        in_channels=in_channels,
        num_classes=len(labels) + 1,
        fields={"width_multiplier": EIGHTH} | SHALLOW.get(name, {}) | fields,
    )


def package_of(spec: NetworkSpec, labels: LabelSet = ORGANS, **fields) -> ModelPackage:
    package = {"network": spec, "labels": labels, "modalities": ("MR",) * spec.in_channels} | fields
    return ModelPackage.model_validate(tiny_package(dims=spec.spatial_dims).model_dump() | package)


def saved(folder: Path, package: ModelPackage, *folds: int) -> nn.Module:
    """Write a package whose weights hide nothing; return the network, in eval, of the last of its folds."""
    weights = {}
    for fold in folds or (0,):
        torch.manual_seed(fold)
        network = scrambled(package.network.build())
        weights[f"fold_{fold}"] = network.state_dict()
    package.save(folder, weights)
    return network


def tuned(folder: Path, package: ModelPackage, **init) -> tuple[nn.Module, dict[str, Tensor], InitReport]:
    """Return a network that began with the weights in a folder, what it was before, and the report."""
    torch.manual_seed(99)
    network = package.network.build()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    report = initialise(network, package, InitFrom(model=folder, **init))
    return network.eval(), before, report


def logits(network: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return network.double().eval()(x.double())


def image(dims: int, channels: int = 1) -> Tensor:
    return torch.randn(2, channels, *SIZE[dims], generator=torch.Generator().manual_seed(5))


# --- weights


@both
@every
def test_with_the_same_labels_the_network_is_the_model_before_the_first_step(tmp_path, name, dims):
    package = package_of(spec_of(name, dims))
    source = saved(tmp_path, package)
    network, before, report = tuned(tmp_path, package)
    state = source.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in network.state_dict().items())
    assert not all(torch.equal(tensor, state[key]) for key, tensor in before.items())
    x = image(dims)
    with torch.no_grad():
        assert torch.equal(network(x), source(x))
    assert report.tensors == len(state)
    assert report.classes == {"liver": "liver", "spleen": "spleen", "kidney": "kidney"}
    assert (report.new_classes, report.left_out, report.fresh, report.channels) == ((), (), (), (1, 1))


@both
@every
def test_permuted_labels_give_permuted_logits(tmp_path, name, dims):
    permuted = LabelSet.from_names({1: "kidney", 2: "liver", 3: "spleen"})
    source = saved(tmp_path, package_of(spec_of(name, dims)))
    network, _, _ = tuned(tmp_path, package_of(spec_of(name, dims), permuted))
    found, expected = logits(network, image(dims)), logits(source, image(dims))[:, [0, 3, 1, 2]]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert (expected[:, 1:] - expected[:, :1]).abs().max() > 1e-3  # the classes differ


@both
@pytest.mark.parametrize(
    ("name", "fields"),
    [(name, {}) for name in NAMES]
    + [("fcn8s", {"attention": "gate"}), ("fcn8s", {"upsampling": "fixed"})]
    + [(name, SUPERVISED) for name in UNETS],
    ids=names,
)
def test_rows_are_copied_by_label_and_new_ones_are_fresh(tmp_path, name, fields, dims):
    source = saved(tmp_path, package_of(spec_of(name, dims, **fields))).state_dict()
    network, fresh, report = tuned(tmp_path, package_of(spec_of(name, dims, labels=OTHERS, **fields), OTHERS))
    here = {0: 0, 1: 3, 4: 1}  # background, Kidney, liver, by channel
    counted = 0
    for key, tensor in network.state_dict().items():
        given = source[key]
        axes = [n for n in range(tensor.ndim) if tensor.shape[n] != given.shape[n]]
        counted += bool(axes)
        expected = fresh[key].clone() if axes else given
        for rows in product(here, repeat=len(axes)) if axes else ():
            to, of = [slice(None)] * tensor.ndim, [slice(None)] * tensor.ndim
            for axis, row in zip(axes, rows, strict=True):
                to[axis], of[axis] = row, here[row]
            expected[tuple(to)] = given[tuple(of)]
        assert torch.equal(tensor, expected), key
    heads = len(network.decoder.stages) if "deep_supervision" in fields else 1
    assert counted >= 2 * heads
    assert report.classes == {"Kidney": "kidney", "liver": "liver"}
    assert (report.new_classes, report.left_out) == (("tumour", "pancreas"), ("spleen",))


@both
@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("fcn")])
def test_logits_of_known_classes_are_the_models_beside_new_ones(tmp_path, name, dims):
    """Not so of FCN, where learned upsampling mixes the scores of all classes."""
    source = saved(tmp_path, package_of(spec_of(name, dims)))
    network, _, _ = tuned(tmp_path, package_of(spec_of(name, dims, labels=OTHERS), OTHERS))
    x = image(dims)
    found, expected = logits(network, x), logits(source, x)
    torch.testing.assert_close(found[:, [0, 1, 4]], expected[:, [0, 3, 1]], rtol=1e-9, atol=1e-9)
    assert (found[:, 2:4] - expected[:, 2:4]).abs().max() > 1e-3


@pytest.mark.parametrize("name", UNETS)
@pytest.mark.parametrize(("had", "has"), [(False, True), (True, False)])
def test_deep_supervision_and_dropout_may_differ(tmp_path, name, had, has):
    source = saved(tmp_path, package_of(spec_of(name, deep_supervision=had, dropout=0.1)))
    network, before, report = tuned(tmp_path, package_of(spec_of(name, deep_supervision=has, dropout=0.0)))
    given, state = source.state_dict(), network.state_dict()
    assert report.fresh == tuple(key for key in state if key not in given)
    assert bool(report.fresh) == has
    assert all(key.startswith("decoder.heads.") for key in report.fresh)
    assert all(torch.equal(state[key], given.get(key, before[key])) for key in state)


# --- input channels


def assert_like(found: Tensor, expected: Tensor) -> None:
    """Sums and shares of kernels are rounded to float32."""
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


@every
def test_more_channels_see_one_image_repeated_as_the_model_saw_it(tmp_path, name):
    source = saved(tmp_path, package_of(spec_of(name)))
    network, _, report = tuned(tmp_path, package_of(spec_of(name, in_channels=3)))
    x = image(2)
    assert_like(logits(network, x.repeat(1, 3, 1, 1)), logits(source, x))
    assert report.channels == (1, 3)
    assert "adapted from 1 channels to 3" in str(report)


@every
@pytest.mark.parametrize("slices", [1, 3])
def test_one_channel_has_the_sum_of_the_models_kernels_slice_by_slice(tmp_path, name, slices):
    source = saved(tmp_path, package_of(spec_of(name, in_channels=2, slices=slices)))
    network, _, _ = tuned(tmp_path, package_of(spec_of(name, slices=slices)))
    x = image(2, slices)  # slices of one channel lie side by side
    assert_like(logits(network, x), logits(source, torch.cat((x, x), dim=1)))


FLAGS = {"intensity": ({"kind": "zscore"},), "channel_flags": True}


@pytest.mark.parametrize("slices", [1, 3])
def test_flags_of_channels_say_nothing_at_first_where_the_model_had_none(tmp_path, slices):
    source = saved(tmp_path, package_of(spec_of("unet", slices=slices)))
    spec = spec_of("unet", in_channels=2, slices=slices)
    network, _, _ = tuned(tmp_path, package_of(spec, modalities=("MR",), preprocessing=FLAGS))
    x, flags = image(2, slices), torch.ones(2, slices, *SIZE[2])
    expected = logits(source, x)
    for flag in (flags, 0 * flags):
        assert_like(logits(network, torch.cat((x, flag), dim=1)), expected)


def test_flags_are_copied_left_out_and_adapted_apart_from_the_images(tmp_path):
    flagged = package_of(spec_of("unet", in_channels=4), modalities=("MR",) * 2, preprocessing=FLAGS)
    kernel = saved(tmp_path, flagged).encoder.stages[0][1][0].weight
    found = [
        tuned(tmp_path, package)[0].encoder.stages[0][1][0].weight
        for package in (
            flagged,
            package_of(spec_of("unet", in_channels=2)),
            package_of(spec_of("unet", in_channels=2), modalities=("MR",), preprocessing=FLAGS),
        )
    ]
    assert torch.equal(found[0], kernel)
    assert torch.equal(found[1], kernel[:, :2])
    assert torch.equal(found[2], torch.stack((kernel[:, :2].sum(1), kernel[:, 2:].sum(1)), dim=1))


# --- labels and regions


def label(index: int, name: str, code: str | None = None, side: Laterality | None = None) -> Label:
    concept = CodedConcept(value=code, meaning=name) if code else None
    return Label(index=index, name=name, code=concept, laterality=side)


LEFT, RIGHT = Laterality.LEFT, Laterality.RIGHT


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ([label(1, "Liver")], [label(1, "LIVER")], {"LIVER": "Liver"}),
        ([label(1, "Leber", "10200004")], [label(1, "liver", "10200004")], {"liver": "Leber"}),
        ([label(1, "liver", "10200004")], [label(1, "liver", "78961009")], {"liver": "liver"}),
        ([label(1, "kidney", "64033007", LEFT)], [label(1, "rein", "64033007", RIGHT)], {}),
        (
            [label(1, "a", "64033007", LEFT), label(2, "b", "64033007", RIGHT)],
            [label(1, "c", "64033007", RIGHT), label(2, "d", "64033007", LEFT)],
            {"c": "b", "d": "a"},
        ),
        # a name comes before a code, and each label is taken once
        (
            [label(1, "liver", "1"), label(2, "spleen", "2")],
            [label(1, "milz", "1"), label(2, "liver", "2")],
            {"liver": "liver"},
        ),
        # exact before folded; what two labels share decides nothing
        ([label(1, "LIVER"), label(2, "liver")], [label(1, "liver")], {"liver": "liver"}),
        ([label(1, "LIVER"), label(2, "liver")], [label(1, "Liver")], {}),
        ([label(1, "a", "1"), label(2, "b", "1")], [label(1, "c", "1")], {}),
        ([label(1, "a")], [label(1, "b")], {}),
    ],
)
def test_labels_are_matched_by_name_then_by_code_and_side(source, target, expected):
    assert match_labels(source, target) == expected


def test_regions_are_matched_by_name_and_never_with_labels(tmp_path):
    """The outputs of regions have no background among them."""

    def of(*regions: tuple[str, tuple[int, ...]]) -> ModelPackage:
        spec = spec_of("unet").model_copy(update={"num_classes": len(regions)})
        return package_of(spec, regions=[{"name": name, "labels": labels} for name, labels in regions])

    first = ("whole", (1, 2, 3)), ("core", (2, 3)), ("kidney", (3,))
    source = saved(tmp_path, of(*first)).decoder.heads[0].weight
    network, fresh, report = tuned(tmp_path, of(("Whole", (1, 2)), ("inner", (2,))))
    head, drawn = network.decoder.heads[0].weight, fresh["decoder.heads.0.weight"]
    assert torch.equal(head, torch.stack((source[0], drawn[1])))
    assert (report.classes, report.new_classes) == ({"Whole": "whole"}, ("inner",))
    assert report.left_out == ("core", "kidney")
    network, fresh, report = tuned(tmp_path, package_of(spec_of("unet")))
    assert torch.equal(network.decoder.heads[0].weight, fresh["decoder.heads.0.weight"])
    assert (report.classes, report.new_classes) == ({}, ("liver", "spleen", "kidney"))


# --- refusals


@pytest.mark.parametrize(
    ("source", "target", "expected", "found"),
    [
        (spec_of("unet"), spec_of("resunet"), "name unet", "name resunet"),
        (spec_of("unet"), spec_of("unet", 3), "spatial_dims 2", "spatial_dims 3"),
        (spec_of("unet"), spec_of("unet", act="silu"), "act relu", "act silu"),
        (spec_of("unet"), spec_of("unet", norm="instance"), "norm batch", "norm instance"),
        (spec_of("unet"), spec_of("attention_unet"), "name unet", "name attention_unet"),
        (
            spec_of("unet", strides=((2, 2), (2, 2), (2, 2), (2, 2))),
            spec_of("unet", strides=((2, 2), (2, 2), (2, 2), (2, 1))),
            r"strides \(\(2, 2\)",
            r"\(2, 1\)\)",
        ),
        (
            spec_of("unet"),
            spec_of("unet", width_multiplier=0.25),
            "width_multiplier 0.125",
            "width_multiplier 0.25",
        ),
        (spec_of("deeplabv3"), spec_of("deeplabv3", rates=(2, 3, 4)), "rates paper", r"rates \(2, 3, 4\)"),
        (spec_of("fcn8s"), spec_of("fcn8s", upsampling="fixed"), "upsampling learned", "upsampling fixed"),
        (spec_of("unet", slices=3), spec_of("unet", slices=5), "slices 3", "slices 5"),
        (
            spec_of("unet", deep_supervision=True),
            spec_of("unet", padding="valid"),
            "padding same",
            "padding valid",
        ),
    ],
    ids=lambda value: value.name if isinstance(value, NetworkSpec) else "",
)
def test_another_architecture_is_refused_with_the_fields_that_differ(tmp_path, source, target, expected, found):
    saved(tmp_path, package_of(source))
    with pytest.raises(ModelError, match=rf"expected the network of the model, .*{expected}.*, found .*{found}"):
        tuned(tmp_path, package_of(target))


def test_fields_that_make_the_same_network_may_be_written_otherwise(tmp_path):
    source = saved(tmp_path, package_of(spec_of("unet", spacing_mm=(1.0, 1.2))))
    network, _, _ = tuned(tmp_path, package_of(spec_of("unet", kernel_sizes=((3, 3),) * 5, strides=((2, 2),) * 4)))
    assert torch.equal(network.encoder.stages[0][1][0].weight, source.encoder.stages[0][1][0].weight)


def test_the_fold_asked_for_is_taken_and_the_first_otherwise(tmp_path):
    package = package_of(spec_of("unet"))
    last = saved(tmp_path, package, 1, 12, 2).state_dict()
    second, _, report = tuned(tmp_path, package, fold=2)
    assert report.weights.startswith("fold_2-")
    assert all(torch.equal(tensor, last[key]) for key, tensor in second.state_dict().items())
    assert tuned(tmp_path, package)[2].weights.startswith("fold_1-")
    with pytest.raises(ModelError, match=r"expected weights of fold 3, found fold_1-\w+.safetensors, fold_12-"):
        tuned(tmp_path, package, fold=3)


def test_of_an_ensemble_of_networks_the_one_of_the_fold_counts(tmp_path):
    folds = [package_of(spec_of("unet", act=act)) for act in ("relu", "silu")]
    states = {f"fold_{n}": scrambled(package.network.build()).state_dict() for n, package in enumerate(folds)}
    both_saved = folds[0].save(tmp_path, states)
    second = list(both_saved.weights_sha256)[1]
    folds[0].model_copy(update={"networks": {second: folds[1].network}}).save(tmp_path, states)
    network, _, _ = tuned(tmp_path, folds[1], fold=1)
    assert all(torch.equal(tensor, states["fold_1"][key]) for key, tensor in network.state_dict().items())
    with pytest.raises(ModelError, match="expected the network of the model, act relu, found act silu"):
        tuned(tmp_path, folds[1], fold=0)


def test_a_model_that_is_missing_or_damaged_is_refused(tmp_path):
    package = package_of(spec_of("unet"))
    with pytest.raises(ModelError, match="expected a model folder"):
        tuned(tmp_path, package)
    saved(tmp_path, package)
    (file,) = (tmp_path / "weights").iterdir()
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    with pytest.raises(ModelError, match="expected SHA-256"):
        tuned(tmp_path, package)


def test_the_report_reads_as_one_line(tmp_path):
    saved(tmp_path / "model", package_of(spec_of("unet")))
    _, _, report = tuned(tmp_path, package_of(spec_of("unet", labels=OTHERS), OTHERS))
    assert str(report) == (
        f"{report.tensors} tensors from {report.weights}; labels Kidney, liver; new labels tumour, pancreas; "
        "left out spleen"
    )


# --- parts of a network


WITH_ATTENTION = [
    (name, fields | {"attention": attention})
    for name, fields in EACH
    for attention in ("none", "gate", "cbam")
    if attention != "gate" or name not in WITHOUT_SKIPS
]


@both
@pytest.mark.parametrize(("name", "fields"), WITH_ATTENTION, ids=names)
def test_the_parts_hold_every_parameter_once_and_the_last_one_all_that_count_classes(name, fields, dims):
    network = spec_of(name, dims, act="prelu", **fields).sketch()
    wider = dict(spec_of(name, dims, act="prelu", labels=OTHERS, **fields).sketch().named_parameters())
    placed = [id(p) for part in network.parts() for module in part for p in module.parameters()]
    assert sorted(placed) == sorted(id(p) for p in network.parameters())
    head = {id(p) for module in network.parts()[-1] for p in module.parameters()}
    assert all(p.shape == wider[key].shape or id(p) in head for key, p in network.named_parameters())
    encoder = {id(p) for p in network.encoder.parameters()}
    assert set(placed[: len(encoder)]) == encoder


@pytest.mark.parametrize(("name", "fields"), EACH, ids=names)
def test_the_parts_run_one_after_the_other(name, fields):
    network, order = spec_of(name, **fields).build().eval(), []
    for number, part in enumerate(network.parts()):
        for leaf in (leaf for module in part for leaf in module.modules() if not list(leaf.children())):
            if list(leaf.parameters()):
                leaf.register_forward_hook(lambda *_, number=number: order.append(number))
    logits(network, image(2))
    assert order == sorted(order)
    assert len(set(order)) >= 5


# --- learning rates


def rates_by_name(network: nn.Module, groups: list) -> dict[str, float]:
    rate_of = {id(p): group["lr"] for group in groups for p in group["params"]}
    return {name: rate_of[id(p)] for name, p in network.named_parameters() if id(p) in rate_of}


def init_from(**fields) -> InitFrom:
    return InitFrom(model=Path("any"), **fields)


@both
@every
def test_every_parameter_has_one_rate(name, dims):
    network = spec_of(name, dims).sketch()
    (group,) = parameter_groups(network, 0.1, init_from())
    assert {id(p) for p in group["params"]} == {id(p) for p in network.parameters()}
    assert (group["lr"], group["lr_scale"]) == (0.1, 1.0)
    groups = parameter_groups(network, 0.1, init_from(layer_decay=0.5))
    placed = [id(p) for group in groups for p in group["params"]]
    assert sorted(placed) == sorted(id(p) for p in network.parameters())
    assert [group["lr_scale"] for group in groups] == [0.5**n for n in reversed(range(len(groups)))]


def test_the_rate_decays_with_the_distance_from_the_head():
    network = spec_of("unet", channels=(4, 8, 16), width_multiplier=1).sketch()
    rates = rates_by_name(network, parameter_groups(network, 2.0, init_from(layer_decay=0.5)))
    path = [
        ("encoder.stages.0.", 0.0625),
        ("encoder.stages.1.", 0.125),
        ("encoder.stages.2.", 0.25),
        ("decoder.ups.1.", 0.5),
        ("decoder.stages.1.", 0.5),
        ("decoder.ups.0.", 1.0),
        ("decoder.stages.0.", 1.0),
        ("decoder.heads.", 2.0),
    ]
    for prefix, rate in path:
        found = {value for name, value in rates.items() if name.startswith(prefix)}
        assert found == {rate}, prefix
    assert sum(name.startswith(tuple(p for p, _ in path)) for name in rates) == len(rates)


def test_a_step_moves_each_part_by_its_own_rate():
    torch.manual_seed(0)
    network = spec_of("resunet").build().double()
    groups = parameter_groups(network, 1.0, init_from(layer_decay=0.7))
    optimizer = make_optimizer(network, "sgd", 1.0, weight_decay=0.0, momentum=0.0, groups=groups)
    set_rate(optimizer, 0.25)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    network(image(2).double()).square().mean().backward()
    optimizer.step()
    parts = [{id(p) for module in part for p in module.parameters()} for part in network.parts()]
    for name, p in network.named_parameters():
        distance = next(n for n, part in enumerate(reversed(parts)) if id(p) in part)
        torch.testing.assert_close(p.detach(), before[name] - 0.25 * 0.7**distance * p.grad)


# --- freezing


@both
@pytest.mark.parametrize("freeze", ["none", "encoder", "all_but_head"])
@every
def test_what_is_frozen_does_not_move_and_the_rest_does(name, dims, freeze):
    torch.manual_seed(0)
    network = spec_of(name, dims, norm="batch").build()
    groups = parameter_groups(network, 0.1, init_from(freeze=freeze, layer_decay=0.9))
    optimizer = make_optimizer(network, "adamw", 0.1, weight_decay=0.1, momentum=0, groups=groups)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    head = {id(p) for module in network.parts()[-1] for p in module.parameters()}
    hold_frozen(network.train())
    network(image(dims)).square().mean().backward()
    optimizer.step()
    parameters = dict(network.named_parameters())
    for key, tensor in network.state_dict().items():
        in_head = id(parameters.get(key)) in head
        kept = {"none": False, "encoder": key.startswith("encoder."), "all_but_head": not in_head}[freeze]
        assert torch.equal(tensor, before[key]) == kept, key
        assert key not in parameters or parameters[key].requires_grad != kept


@pytest.mark.parametrize("fields", [{"layer_decay": 0}, {"layer_decay": 1.1}, {"freeze": "stem"}, {"fold": -1}])
def test_values_out_of_range_are_refused(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        init_from(**fields)
