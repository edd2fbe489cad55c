"""PSNR and SSIM of restored pictures against their references, as low-light papers compute them (card cidnet, Metrics).

Both pictures are 8-bit RGB levels, as saved files are: 0 to 255, whole numbers.  How a result becomes 8-bit (rounded,
or cut off) is the system's choice, and made before.  All sums are in fp64.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as functional
from torch import Tensor

from lumiray.evaluate.collect import Collected
from lumiray.system import Batch

PEAK = 255.0
LEAST_ERROR = 1e-8  # added to the mean squared error, so that equal pictures have a finite PSNR: 128.1 dB
SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
SSIM_C1, SSIM_C2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
LEAST_GREY = 1e-6  # below that of one level in one pixel: a black result stays black
GREY = (0.299, 0.587, 0.114)  # weights of R, G and B in the grey of GT mean (ITU-R BT.601)
Y_OFFSET, Y_WEIGHTS = 16.0, (65.481, 128.553, 24.966)  # Y of BT.601 in studio range, for R, G and B in [0, 1]

Measure = Callable[[Tensor, Tensor], Tensor]


def psnr(restored: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio over all pixels and channels of each picture, in dB.

    Args:
        restored, reference: levels in [0, 255], `(B, C, H, W)`.

    Returns:
        fp64 `(B,)`.
    """
    error = (restored.double() - reference.double()).square().mean((1, 2, 3))
    return 10 * torch.log10(PEAK**2 / (error + LEAST_ERROR))


def ssim(restored: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity of each picture: the mean over channels and over windows that lie inside it.

    Args:
        restored, reference: levels in [0, 255], `(B, C, H, W)`, no side shorter than the window's 11 pixels.

    Returns:
        fp64 `(B,)`, at most 1.
    """
    one, other = restored.double(), reference.double()
    place = torch.arange(SSIM_WINDOW, dtype=torch.float64, device=one.device) - SSIM_WINDOW // 2
    kernel = (-place.square() / (2 * SSIM_SIGMA**2)).exp()
    kernel = kernel / kernel.sum()
    mean_x, mean_y = windowed(one, kernel), windowed(other, kernel)
    variances = windowed(one**2, kernel) - mean_x**2 + windowed(other**2, kernel) - mean_y**2
    covariance = windowed(one * other, kernel) - mean_x * mean_y
    above = (2 * mean_x * mean_y + SSIM_C1) * (2 * covariance + SSIM_C2)
    return (above / ((mean_x**2 + mean_y**2 + SSIM_C1) * (variances + SSIM_C2))).mean((1, 2, 3))


def windowed(maps: Tensor, kernel: Tensor) -> Tensor:
    """Means under the outer product of a kernel `(n,)` with itself, `(B, C, H, W)` to n - 1 pixels less each way."""
    flat = maps.flatten(0, 1)[:, None]
    flat = functional.conv2d(functional.conv2d(flat, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
    return flat.unflatten(0, maps.shape[:2])[:, :, 0]


def gt_mean(measure: Measure) -> Measure:
    """The measure of a result whose mean grey was set to the reference's: it forgives a wrong exposure.

    The result is multiplied by one factor, clipped to [0, 255] and not rounded.  Such figures are higher, and are
    not to be compared with plain ones.
    """

    def measured(restored: Tensor, reference: Tensor) -> Tensor:
        wanted, found = (grey_mean(one) for one in (reference, restored))
        factor = wanted / found.clamp(min=LEAST_GREY)
        return measure((restored.double() * factor[:, None, None, None]).clamp(0, PEAK), reference)

    return measured


def on_y(measure: Measure) -> Measure:
    """The measure of the Y channels alone, as papers on rain and super-resolution give it (card nerd-rain, Metrics)."""

    def measured(restored: Tensor, reference: Tensor) -> Tensor:
        return measure(y_levels(restored), y_levels(reference))

    return measured


def y_levels(pictures: Tensor) -> Tensor:
    """Y of ITU-R BT.601 in 16 to 235, rounded as MATLAB's rgb2ycbcr rounds it for 8-bit pictures.

    Args:
        pictures: RGB levels in [0, 255], `(B, 3, H, W)`.

    Returns:
        whole numbers in fp64, `(B, 1, H, W)`.
    """
    weights = torch.tensor(Y_WEIGHTS, dtype=torch.float64, device=pictures.device) / PEAK
    luminance = Y_OFFSET + (pictures.double() * weights[:, None, None]).sum(1, keepdim=True)
    return (luminance + 0.5).floor()  # MATLAB rounds halves up, torch.round to even


def grey_mean(pictures: Tensor) -> Tensor:
    """Mean grey of each picture `(B, 3, H, W)`, fp64 `(B,)`."""
    weights = torch.tensor(GREY, dtype=torch.float64, device=pictures.device)
    return pictures.double().mean((2, 3)) @ weights


class FidelityEvaluator:
    """The mean of a measure over the pictures of an evaluation set, each counting once; equal on every rank.

    Values are put in the order of the rows before they are added, so that not even rounding depends on the number
    of ranks.

    Args:
        name: of the figure.
        measure: restored and reference levels `(B, 3, H, W)` -> `(B,)`.
    """

    def __init__(self, name: str, measure: Measure) -> None:
        self.name, self.measure = name, measure
        self._values = Collected()

    def update(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        """Take one batch; outputs have `restored` and `reference`, uint8 `(B, 3, H, W)`, rows `row` and `valid`."""
        values = self.measure(outputs["restored"], outputs["reference"])
        self._values.add(batch["valid"], row=batch["row"], value=values)

    def compute(self) -> dict[str, float]:
        """The mean over all ranks' rows; nothing if none could be used."""
        values = self.of_rows()["value"]
        return {self.name: float(values.mean())} if len(values) else {}

    def of_rows(self) -> dict[str, Tensor]:
        """`row` and `value` of every picture of all ranks, in the order of the rows; every rank must call it."""
        return self._values.everywhere("row")
