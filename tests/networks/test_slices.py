"""2.5-D: slices become channels and back."""

import torch

from medseg.networks.slices import centre_slices, stack_slices


def test_slices_of_one_image_channel_lie_side_by_side():
    x = torch.randn(2, 3, 4, 5, 7)  # (B, C, i, j, slices)
    stacked = stack_slices(x)
    assert stacked.shape == (2, 21, 4, 5)
    for channel in range(3):
        for number in range(7):
            assert torch.equal(stacked[:, 7 * channel + number], x[:, channel, :, :, number])


def test_the_centre_slice_of_each_channel_comes_back():
    for slices in (1, 3, 5):
        x = torch.randn(2, 3, 4, 5, slices)
        assert torch.equal(centre_slices(stack_slices(x), slices), x[..., slices // 2])
