"""DeepLab: receptive field, rates, pooling of the whole image, scales, the decoder of v3+."""

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medseg.errors import UsageError
from medseg.networks.aspp import ASPP, ImagePooling, SummedASPP, resolve_rates
from medseg.networks.blocks import Layers
from tests.networks.probes import receptive_field, scrambled, small, transparent

DEEPLABS = ["deeplabv1", "deeplabv2", "deeplabv3", "deeplabv3plus"]


@pytest.mark.parametrize("size", [(448, 448), (16, 448), (448, 24, 24)], ids=str)
def test_large_fov_sees_435_voxels(size):
    network = transparent(small("deeplabv1", len(size), width_multiplier=1 / 64))
    place = tuple(n // 16 for n in size)
    seen = receptive_field(lambda x: network.head(network.encoder(x)[-1]), size, place)
    assert seen == [min(435, n) for n in size]


@pytest.mark.parametrize("name", ["deeplabv1", "deeplabv2", "deeplabv3"])
def test_scores_are_interpolated_to_the_image(name):
    network, x = scrambled(small(name, 2)), torch.randn(1, 1, 37, 50)
    scores = []
    network.head.register_forward_hook(lambda _module, _inputs, output: scores.append(output))
    with torch.no_grad():
        found = network(x)
    expected = F.interpolate(scores[0], size=(37, 50), mode="bilinear", align_corners=False)
    torch.testing.assert_close(found, expected)


# --- rates


@pytest.mark.parametrize(
    ("patch", "stride", "expected"),
    [
        ((528, 528), 16, [(6, 6), (12, 12), (18, 18)]),  # the paper's own: 33 places
        ((512, 512), 16, [(6, 6), (12, 12), (18, 18)]),  # 32 places: 5.76, 11.52, 17.6
        ((256, 128), 16, [(3, 1), (6, 3), (9, 4)]),  # 16: 2.88, 5.76, 8.8 and 8: 1.44, 2.88, 4.4
        ((128, 96, 16), 16, [(1, 1, 1), (3, 2, 1), (4, 3, 1)]),  # 8, 6: 1.08, 2.16, 3.3 and 1
        ((129, 97, 1), 16, [(2, 1, 1), (3, 3, 1), (5, 4, 1)]),  # 9: 1.62, 3.24, 4.95 and 7: 1.26, 2.52, 3.85
    ],
    ids=str,
)
def test_auto_rates_keep_their_share_of_the_feature_map(patch, stride, expected):
    """max(1, round(n x {0.18, 0.36, 0.55})) along each axis of n places."""
    steps = (stride,) * len(patch)
    found = resolve_rates("auto", paper=(6, 12, 18), paper_size=33, patch_size=patch, stride=steps)
    assert list(found) == expected


@pytest.mark.parametrize(("output_stride", "rates"), [(16, (6, 12, 18)), (8, (12, 24, 36))])
@pytest.mark.parametrize("name", ["deeplabv3", "deeplabv3plus"])
def test_the_papers_rates_double_at_output_stride_8(name, output_stride, rates):
    network = small(name, 2, output_stride=output_stride)
    found = [m.dilation for m in network.aspp.branches.modules() if isinstance(m, nn.Conv2d)]
    assert [rate for rate in found if rate != (1, 1)] == [(rate, rate) for rate in rates]


@pytest.mark.parametrize(("name", "rates"), [("deeplabv1", [12]), ("deeplabv2", [6, 12, 18, 24])])
def test_the_papers_rates_of_v1_and_v2(name, rates):
    found = [m.dilation for m in small(name, 3).head.modules() if isinstance(m, nn.Conv3d)]
    assert [rate for rate in found if rate != (1, 1, 1)] == [(rate,) * 3 for rate in rates]


@pytest.mark.parametrize("name", DEEPLABS)
def test_auto_rates_of_a_network_follow_its_patch(name):
    """All four keep the paper's share at their own stride: twice the map, about twice the rate."""

    def rates(side: int) -> list[int]:
        network = small(name, 2, rates="auto", patch_size=(side, side))
        part = network.aspp if hasattr(network, "aspp") else network.head
        return [m.dilation[0] for m in part.modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)]

    assert [b / a for a, b in zip(rates(640), rates(1280), strict=True)] == pytest.approx(
        [2.0] * len(rates(640)), rel=0.1
    )


@pytest.mark.parametrize("rates", [((1, 2, 3), (2, 4, 6)), (2, (4, 4, 1))], ids=str)
def test_rates_may_differ_by_axis(rates):
    network = small("deeplabv3", 3, rates=rates)
    found = [branch[0].dilation for branch in network.aspp.branches[1:-1]]
    assert found == [(rate,) * 3 if isinstance(rate, int) else rate for rate in rates]
    assert network.eval()(torch.randn(1, 1, 20, 17, 9)).shape == (1, 3, 20, 17, 9)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("deeplabv3", {"rates": "auto"}, r"network\.patch_size: expected the patch size .* rates: auto"),
        ("deeplabv3", {"rates": (0, 1)}, r"network\.rates: expected positive numbers"),
        ("deeplabv3", {"rates": ()}, r"network\.rates: expected positive numbers"),
        ("deeplabv3", {"rates": ((1, 2, 3),)}, r"network\.rates: expected positive numbers, or 2 of them"),
        ("deeplabv2", {"rates": (6, -1)}, r"network\.rates: expected positive numbers"),
        ("deeplabv1", {"rates": (6, 12)}, r"network\.rates: expected one rate"),
        ("deeplabv2", {"scales": ()}, r"network\.scales: expected positive numbers"),
        ("deeplabv2", {"scales": (1.0, 0.0)}, r"network\.scales: expected positive numbers"),
        ("deeplabv3", {"multi_grid": ()}, r"network\.multi_grid: expected positive numbers"),
        ("deeplabv3plus", {"multi_grid": (1, 0)}, r"network\.multi_grid: expected positive numbers"),
        ("deeplabv3", {"dropout": 1.5}, r"network\.dropout: expected a probability"),
    ],
    ids=str,
)
def test_fields_that_do_not_fit_are_refused(name, fields, message):
    with pytest.raises(UsageError, match=message):
        small(name, 2, **fields)


def test_rates_that_reach_the_feature_map_are_warned_of():
    with pytest.warns(UserWarning, match=r"network\.rates: \(12, 12\), \(18, 18\) reach .*\(12, 16\)"):
        small("deeplabv3", 2, patch_size=(192, 256))


@pytest.mark.parametrize(("rates", "patch"), [("paper", (320, 304)), ("auto", (64, 48)), ((2,), (48, 48))], ids=str)
def test_rates_within_the_feature_map_are_not_warned_of(rates, patch):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small("deeplabv3", 2, rates=rates, patch_size=patch)


@pytest.mark.parametrize(
    ("rate", "sizes", "kernel", "warned"),
    [
        ((6, 6), (7, 7), (3, 3), False),
        ((7, 6), (7, 7), (3, 3), True),
        ((9, 9), (7, 7), (3, 3), True),
        ((2, 2, 1), (4, 4, 1), (3, 3, 3), False),  # along a single place any rate is as good
        ((1, 1, 1), (1, 1, 1), (3, 3, 3), True),  # nothing to see but the centre
        ((2, 2, 2), (4, 4, 2), (3, 3, 1), False),  # no kernel there that could reach
        ((2, 2, 2), (4, 4, 2), (3, 3, 3), True),
    ],
    ids=str,
)
def test_a_rate_is_too_wide_where_every_tap_but_the_centre_is_outside(rate, sizes, kernel, warned):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = resolve_rates(
            (rate,), paper=(6,), paper_size=33, patch_size=sizes, stride=(1,) * len(sizes), kernel=kernel
        )
    assert found == (rate,)
    assert [w.category for w in caught] == ([UserWarning] if warned else [])


@pytest.mark.parametrize("size", [(12, 12), (5, 12), (6, 9, 4)], ids=str)
def test_a_rate_that_reaches_the_feature_map_leaves_the_centre_tap(size):
    conv = Layers(len(size), "none", "relu").conv(2, 3, dilation=12)
    x = torch.randn(1, 2, *size)
    centre = conv.weight[(..., *(slice(1, 2) for _ in size))]
    pointwise = F.conv2d if len(size) == 2 else F.conv3d
    torch.testing.assert_close(conv(x), pointwise(x, centre, conv.bias))
    wider = Layers(len(size), "none", "relu").conv(2, 3, dilation=3)
    wider.load_state_dict(conv.state_dict())
    assert not torch.allclose(wider(x), conv(x), atol=1e-3)


# --- pooling of the whole image


def image_pooling(norm: str, dims: int = 2) -> ImagePooling:
    torch.manual_seed(0)
    return ImagePooling(Layers(dims, norm, "relu"), 8, 16)


@pytest.mark.parametrize("norm", ["batch", "instance", "group", "none"])
@pytest.mark.parametrize("size", [(5, 6), (3, 4, 2), (1, 1)], ids=str)
def test_image_pooling_of_one_image_trains(norm, size):
    pooling = image_pooling(norm, len(size)).train()
    with torch.no_grad():  # away from where ReLU is flat
        next(p for name, p in pooling.named_parameters() if name.endswith("bias")).fill_(3.0)
    x = torch.randn(1, 8, *size, requires_grad=True)
    y = pooling(x)
    assert y.shape == (1, 16, *size)
    assert torch.equal(y, y[(..., *(slice(0, 1) for _ in size))].expand_as(y))
    (y * torch.rand(1, 16, *(1 for _ in size))).sum().backward()
    assert x.grad.abs().min() > 0
    assert all(p.grad.abs().max() > 0 for p in pooling.parameters())


def test_image_pooling_of_one_image_is_normalised_by_the_running_statistics():
    pooling, x = image_pooling("batch").train(), torch.randn(1, 8, 5, 6)
    norm = pooling.norm
    nn.init.uniform_(norm.running_mean, -1, 1)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    before = norm.running_mean.clone()
    y = F.conv2d(x.mean((2, 3), keepdim=True), pooling.conv.weight)
    expected = (
        (y - norm.running_mean.view(1, -1, 1, 1)) / (norm.running_var.view(1, -1, 1, 1) + 1e-5).sqrt()
    ).relu()
    torch.testing.assert_close(pooling(x), expected.expand(1, 16, 5, 6))
    torch.testing.assert_close(pooling.eval()(x), expected.expand(1, 16, 5, 6))
    assert torch.equal(norm.running_mean, before)


def test_image_pooling_of_several_images_is_normalised_by_their_own_statistics():
    pooling, x = image_pooling("batch").train(), torch.randn(4, 8, 5, 6)
    y = F.conv2d(x.mean((2, 3), keepdim=True), pooling.conv.weight)
    expected = ((y - y.mean(0)) / (y.var(0, unbiased=False) + 1e-5).sqrt()).relu()
    torch.testing.assert_close(pooling(x), expected.expand(4, 16, 5, 6))
    assert pooling.norm.running_mean.abs().min() > 0


@pytest.mark.parametrize("norm", ["instance", "group"])
def test_image_pooling_without_batch_norm_still_tells_images_apart(norm):
    """Instance normalisation of one value a channel would leave its bias only."""
    pooling = image_pooling(norm)
    a, b = pooling(torch.randn(1, 8, 5, 6)), pooling(torch.randn(1, 8, 5, 6))
    assert not torch.allclose(a, b, atol=1e-2)


# --- heads


def test_summed_scores_are_the_sum_of_each_rates_own():
    head = SummedASPP(Layers(2, "none", "relu"), 4, 3, [(6, 6), (2, 1)], (3, 3))
    x = torch.randn(1, 4, 20, 20)
    with torch.no_grad():
        first, second = (
            F.conv2d(x, head.branches[n].weight, head.branches[n].bias, padding=rate, dilation=rate)
            for n, rate in enumerate([(6, 6), (2, 1)])
        )
        torch.testing.assert_close(head(x), first + second)


@pytest.mark.parametrize("scales", [(1.0, 0.75, 0.5), (0.5,), (1.0, 1.25)], ids=str)
@pytest.mark.parametrize("size", [(48, 65), (17, 24, 20)], ids=str)
def test_of_several_scales_the_largest_score_wins(scales, size):
    network = scrambled(small("deeplabv2", len(size), backbone="resnet18", scales=scales))
    single = scrambled(small("deeplabv2", len(size), backbone="resnet18"))
    single.load_state_dict(network.state_dict())
    x, mode = torch.randn(1, 1, *size), "bilinear" if len(size) == 2 else "trilinear"
    with torch.no_grad():
        runs = []
        for scale in scales:
            scaled = F.interpolate(x, size=[round(n * scale) for n in size], mode=mode, align_corners=False)
            scores = single.head(single.encoder(scaled)[-1])
            runs.append(F.interpolate(scores, size=size, mode=mode, align_corners=False))
        torch.testing.assert_close(network(x), torch.stack(runs).amax(0))


@pytest.mark.parametrize(("scales", "multiple"), [((1.0,), 8), ((1.0, 0.75, 0.5), 16), ((0.75,), 11), ((2.0,), 4)])
def test_smaller_scales_make_one_place_of_more_voxels(scales, multiple):
    """8 voxels of the scaled image are 8 / scale of the image."""
    with torch.device("meta"):
        assert small("deeplabv2", 3, scales=scales).multiple == (multiple,) * 3


def test_scales_keep_an_image_of_one_voxel():
    assert small("deeplabv2", 2, scales=(1.0, 0.25)).eval()(torch.randn(1, 1, 1, 3)).shape == (1, 3, 1, 3)


class StraightLine:
    """ASPP and the decoder of v3+ (Chen et al. 2018, figure 2) on the features and weights of a network."""

    def __init__(self, network: nn.Module) -> None:
        self.w = network.state_dict()

    def unit(self, x: Tensor, name: str, dilation: int = 1, norm: str | None = None) -> Tensor:
        weight, norm = self.w[f"{name}.weight"], norm or f"{name.rpartition('.')[0]}.{int(name[-1]) + 1}"
        groups = len(weight) if weight.shape[1] == 1 else 1
        x = F.conv2d(x, weight, padding=dilation * (weight.shape[2] // 2), dilation=dilation, groups=groups)
        mean, var = self.w[f"{norm}.running_mean"], self.w[f"{norm}.running_var"]
        return F.batch_norm(x, mean, var, self.w[f"{norm}.weight"], self.w[f"{norm}.bias"]).relu()

    def either(self, x: Tensor, name: str, dilation: int = 1) -> Tensor:
        """A dense unit, or a depthwise and a pointwise one, whose places are 0 to 2 and 3 to 5."""
        x = self.unit(x, f"{name}.0", dilation)
        return self.unit(x, f"{name}.3") if f"{name}.3.weight" in self.w else x

    def aspp(self, x: Tensor, rates: tuple[int, ...]) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)
        last = len(rates) + 1
        pooled = self.unit(mean, f"aspp.branches.{last}.conv", norm=f"aspp.branches.{last}.norm").expand(
            -1, -1, *x.shape[2:]
        )
        atrous = [self.either(x, f"aspp.branches.{n + 1}", rate) for n, rate in enumerate(rates)]
        return self.unit(torch.cat([self.unit(x, "aspp.branches.0.0"), *atrous, pooled], 1), "aspp.project.0.0")

    def __call__(self, low: Tensor, deep: Tensor, rates: tuple[int, ...], size: tuple[int, int]) -> Tensor:
        deep = F.interpolate(self.aspp(deep, rates), size=low.shape[2:], mode="bilinear", align_corners=False)
        x = torch.cat([deep, self.unit(low, "low.0")], 1)
        x = self.either(self.either(x, "decoder.0"), "decoder.1")
        x = F.conv2d(x, self.w["decoder.2.weight"], self.w["decoder.2.bias"])
        return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


@pytest.mark.parametrize("separable", [True, False], ids=["separable", "dense"])
@pytest.mark.parametrize("backbone", ["resnet18", "xception65"])
def test_v3plus_equals_a_straight_line_forward(separable, backbone):
    network = scrambled(small("deeplabv3plus", 2, backbone=backbone, separable=separable, rates=(1, 2, 3)))
    x = torch.randn(2, 1, 70, 81)
    with torch.no_grad():
        features = network.encoder(x)
        low, deep = features[1], features[-1]
        assert (low.shape[2:], deep.shape[2:]) == ((18, 21), (5, 6))
        torch.testing.assert_close(network(x), StraightLine(network)(low, deep, (1, 2, 3), (70, 81)))


def test_the_low_level_features_are_reduced_to_48_channels():
    with torch.device("meta"):
        network = small("deeplabv3plus", 2, width_multiplier=1.0)
    assert network.low[0].weight.shape == (48, 256, 1, 1)


def test_dropout_of_v3_follows_the_aspp():
    aspp = small("deeplabv3", 2, dropout=0.25).aspp
    assert isinstance(aspp, ASPP)
    assert [m.p for m in aspp.modules() if isinstance(m, nn.Dropout2d)] == [0.25]
