"""What every network keeps: one step on one image, output of the image's size, no foreign layers, its fields."""

import pytest
import torch
from torch import nn

from medseg.errors import UsageError
from medseg.networks import NETWORKS, build_network
from medseg.networks.aspp import ImagePooling
from tests.networks.probes import NAMES, scrambled, small

# what a network may vary; those of FCN and DeepLab are of the backbone that they have by default
UNETS = ("unet", "attention_unet", "resunet")
BACKBONES = {
    **dict.fromkeys(("fcn32s", "fcn16s", "fcn8s"), ("vgg16", "resnet18", "resnet50", "xception65")),
    **dict.fromkeys(("deeplabv2", "deeplabv3", "deeplabv3plus"), ("vgg16", "resnet34", "resnet50", "xception65")),
}
EACH = [(name, {}) for name in (*UNETS, "deeplabv1")] + [
    (name, {"backbone": backbone}) for name, backbones in BACKBONES.items() for backbone in backbones
]
ODD = {2: (37, 66), 3: (33, 20, 1)}
WITHOUT_SKIPS = ("fcn32s", "deeplabv1", "deeplabv2", "deeplabv3")


def names(values: object) -> str:
    return "-".join(values.values()) or "default" if isinstance(values, dict) else str(values)


def step(network: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Compute the gradients of a loss, return the outputs."""
    outputs = network.train()(x)
    outputs = outputs if isinstance(outputs, list) else [outputs]
    sum(y.square().mean() for y in outputs).backward()
    return outputs


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("name", "fields"), EACH, ids=names)
def test_one_image_of_odd_size_trains_every_parameter(name, fields, dims):
    network, size = small(name, dims, **fields), ODD[dims]
    (logits,) = step(network, torch.randn(1, 1, *size))
    assert logits.shape == (1, 3, *size)
    without = [key for key, p in network.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert without == []


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("attention", ["gate", "se", "cbam"])
@pytest.mark.parametrize("name", NAMES)
def test_one_image_trains_with_every_kind_of_attention(name, attention, dims):
    if attention == "gate" and name in WITHOUT_SKIPS:
        with pytest.raises(UsageError, match=r"network\.attention: expected none, se or cbam"):
            small(name, dims, attention=attention)
        return
    network, size = small(name, dims, attention=attention), ODD[dims]
    (logits,) = step(network, torch.randn(1, 1, *size))
    assert logits.shape == (1, 3, *size)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("norm", ["instance", "group", "none"])
@pytest.mark.parametrize("name", NAMES)
def test_one_image_trains_with_every_norm(name, norm, dims):
    """And with batch normalisation, the default of most, in the test above."""
    network, size = small(name, dims, norm=norm), ODD[dims]
    step(network, torch.randn(1, 1, *size))
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


SMALL_SIZES = {
    2: [(1, 1), (1, 40), (17, 31), (64, 64)],
    3: [(1, 1, 1), (33, 20, 1), (2, 9, 14), (9, 14, 11)],
}


@pytest.mark.parametrize("dims", SMALL_SIZES)
@pytest.mark.parametrize(("name", "fields"), EACH, ids=names)
def test_the_output_has_the_size_of_any_image(name, fields, dims):
    network = small(name, dims, **fields).eval()
    for size in SMALL_SIZES[dims]:
        with torch.no_grad():
            logits = network(torch.randn(1, 1, *size))
        assert logits.shape == (1, 3, *size)
        assert torch.isfinite(logits).all()


@pytest.mark.parametrize("norm", ["instance", "group", "none"])
@pytest.mark.parametrize("name", NAMES)
def test_one_voxel_has_an_output_under_every_norm(name, norm):
    for dims in (2, 3):
        network = small(name, dims, norm=norm).eval()
        with torch.no_grad():
            assert torch.isfinite(network(torch.randn(1, 1, *(1,) * dims))).all()


@pytest.mark.parametrize("name", UNETS)
@pytest.mark.parametrize("size", [(65, 40), (64, 33, 20)], ids=str)
def test_deep_supervision_gives_each_decoder_stages_logits_while_training(name, size):
    network = small(name, len(size), deep_supervision=True)
    outputs = step(network, torch.randn(1, 1, *size))
    depth = 6 if name == "resunet" else 5
    halved = [tuple(-(-n // 2**level) for n in size) for level in range(depth - 1)]
    assert [y.shape for y in outputs] == [(1, 3, *shape) for shape in halved]
    assert all(p.grad is not None for p in network.parameters())
    assert network.eval()(torch.randn(1, 1, *size)).shape == (1, 3, *size)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_images_of_a_batch_do_not_mix_in_eval(name, dims):
    network = scrambled(small(name, dims)).double()
    x = torch.randn(2, 1, *(33, 20, 4)[:dims], dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(network(x)[1:], network(x[1:]))


@pytest.mark.parametrize("name", NAMES)
def test_weights_begin_the_same_with_the_same_seed(name):
    first, second = small(name, 2), small(name, 2)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_logits_of_a_fresh_network_are_of_the_order_of_one(name):
    """He's initialisation: noise of variance 1 neither vanishes nor explodes."""
    for dims in (2, 3):
        network = small(name, dims, dropout=0.0).train()
        with torch.no_grad():
            spread = network(torch.randn(2, 1, *(64, 64, 16)[:dims])).std()
        assert 0.01 < spread < 100


# --- census


MARKS = {"batch": "BatchNorm", "instance": "InstanceNorm", "group": "GroupNorm"}
ACTS = {"relu": "ReLU", "leaky_relu": "LeakyReLU", "prelu": "PReLU", "elu": "ELU", "gelu": "GELU", "silu": "SiLU"}


def kinds(network: nn.Module) -> set[str]:
    """Return the classes of a network's modules, but for the pooling of the image, which has rules of its own."""
    pooled = {m for p in network.modules() if isinstance(p, ImagePooling) for m in p.modules()}
    return {type(module).__name__ for module in network.modules() if module not in pooled}


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("name", "fields"), EACH, ids=names)
@pytest.mark.parametrize(
    ("norm", "act"), [("batch", "silu"), ("instance", "gelu"), ("group", "prelu"), ("none", "elu")]
)
def test_there_is_no_layer_but_of_the_norm_activation_and_dimensions_asked_for(name, fields, norm, act, dims):
    with torch.device("meta"):
        network = small(name, dims, norm=norm, act=act, attention="se", dropout=0.1, **fields)
    found = kinds(network)
    assert {n for n, mark in MARKS.items() if any(kind.startswith(mark) for kind in found)} == {norm} - {"none"}
    assert found & {*ACTS.values(), "ReLU6", "Hardswish"} == {ACTS[act]}
    assert not [kind for kind in found if kind.endswith(f"{5 - dims}d")]
    assert network.norm == norm


@pytest.mark.parametrize("name", ["deeplabv3", "deeplabv3plus"])
@pytest.mark.parametrize(
    ("norm", "of_pooling"),
    [("batch", "BatchNorm"), ("instance", "GroupNorm"), ("group", "GroupNorm"), ("none", None)],
)
def test_image_pooling_has_a_norm_that_one_value_a_channel_can_bear(name, norm, of_pooling):
    with torch.device("meta"):
        network = small(name, 3, norm=norm)
    pooling = network.aspp.branches[-1]
    assert isinstance(pooling, ImagePooling)
    found = {mark for m in pooling.modules() for mark in MARKS.values() if type(m).__name__.startswith(mark)}
    assert found == ({of_pooling} - {None})


# --- fields that all have


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("slices", "channels"), [(1, 2), (3, 6), (5, 10)])
def test_a_2d_network_sees_neighbouring_slices_as_channels(name, slices, channels):
    with torch.device("meta"):
        network = small(name, 2, channels_in=2, slices=slices)
    first = next(m for m in network.modules() if isinstance(m, nn.Conv2d))
    assert first.in_channels == channels


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("dims", "slices"), [(3, 3), (2, 2), (2, 0), (2, -1), (3, 0)])
def test_other_numbers_of_slices_are_refused(name, dims, slices):
    with pytest.raises(
        UsageError, match=rf"network\.slices: expected an odd number .* found {slices} for a {dims}-D"
    ):
        small(name, dims, slices=slices)


@pytest.mark.parametrize("name", NAMES)
def test_the_multiple_is_what_becomes_one_voxel_at_the_coarsest(name):
    expected = {"fcn": 32, "resunet": 32, "deeplabv1": 8, "deeplabv2": 8, "deeplabv3": 16}
    multiple = next((n for start, n in expected.items() if name.startswith(start)), 16)
    for dims in (2, 3):
        with torch.device("meta"):
            network = small(name, dims)
        assert network.multiple == (multiple,) * dims


@pytest.mark.parametrize("entry", list(NETWORKS), ids=lambda entry: entry.name)
def test_every_field_of_a_config_is_one_that_the_network_takes(entry):
    """Defaults of the fields build the same network as no fields."""
    fields = entry.fields(name=entry.name).model_dump(exclude={"name"})
    arguments = {"spatial_dims": 2, "in_channels": 1, "num_classes": 2}
    with torch.device("meta"):
        told, untold = build_network(entry.name, **arguments, **fields), build_network(entry.name, **arguments)
    assert repr(told) == repr(untold)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("multiplier", [0.0, -1.0])
def test_a_width_that_is_not_positive_is_refused(name, multiplier):
    with pytest.raises(UsageError, match=r"network\.width_multiplier: expected a positive number"):
        small(name, 2, width_multiplier=multiplier)


@pytest.mark.parametrize("name", NAMES)
def test_the_smallest_width_trains_on_one_image(name):
    """1/64: 8 channels everywhere."""
    for norm in ("batch", "group", "instance"):
        step(small(name, 2, norm=norm, width_multiplier=1 / 64), torch.randn(1, 1, *ODD[2]))
