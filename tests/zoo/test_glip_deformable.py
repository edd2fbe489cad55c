"""The deformable convolution by way of sampling against torchvision's, values and gradients."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import deform_conv2d

from lumizoo.glip.deformable import TAPS, deformable_conv, sampled_conv


@pytest.mark.parametrize(("height", "width", "stride"), [(9, 12, 1), (9, 12, 2), (8, 7, 2), (1, 3, 1), (1, 1, 2)])
def test_values_and_gradients_are_those_of_torchvision(height: int, width: int, stride: int) -> None:
    make = torch.Generator().manual_seed(0)
    down, across = ((side - 1) // stride + 1 for side in (height, width))
    shapes = ((2, 6, height, width), (2, 2 * TAPS, down, across), (2, TAPS, down, across), (4, 6, 3, 3), (4,))
    given = [torch.randn(shape, generator=make, dtype=torch.float64).requires_grad_() for shape in shapes]
    level, offset, factor, weight, bias = given  # offsets of pixels: many taps fall outside the picture
    own = sampled_conv(level, offset, factor, weight, bias, stride)
    theirs = deform_conv2d(level, offset, weight, bias, stride, padding=1, mask=factor)
    torch.testing.assert_close(own, theirs)
    share = torch.randn(own.shape, generator=make, dtype=own.dtype)
    for one, two in zip(torch.autograd.grad(own, given, share), torch.autograd.grad(theirs, given, share)):
        torch.testing.assert_close(one, two)


def test_a_cpu_takes_the_sampled_form() -> None:
    given = [torch.randn(1, 2, 4, 4), torch.randn(1, 18, 4, 4), torch.rand(1, 9, 4, 4), torch.randn(2, 2, 3, 3)]
    assert torch.equal(deformable_conv(*given, torch.zeros(2), 1), sampled_conv(*given, torch.zeros(2), 1))
