"""Faces as bad cameras, networks and archives leave them: blur, fewer pixels, noise, JPEG (card codeformer, Data)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

KERNEL_SIDE = 41


@dataclass(frozen=True)
class Degradation:
    """Ranges that are drawn from evenly.

    Args:
        blur: standard deviation in pixels.
        shrink: by how much the sides become shorter.
        noise: standard deviation in levels of 255.
        quality: of JPEG.
    """

    blur: tuple[float, float]
    shrink: tuple[float, float]
    noise: tuple[float, float]
    quality: tuple[float, float]


STRONG = Degradation(blur=(1, 15), shrink=(4, 30), noise=(0, 20), quality=(30, 80))
SLIGHT = Degradation(blur=(0.1, 10), shrink=(1, 12), noise=(0, 15), quality=(60, 100))


def degraded(picture: np.ndarray, ranges: Degradation, draw: np.random.Generator) -> np.ndarray:
    """A picture uint8 RGB (H, W, 3) made worse, of the same size and kind.

    Computed in BGR as the published code does it, for the noise is then drawn for blue first.
    """
    height, width = picture.shape[:2]
    pixels: np.ndarray = picture[..., ::-1].astype(np.float32) / 255
    pixels = cv2.filter2D(pixels, -1, blur_kernel(ranges.blur, draw), borderType=cv2.BORDER_REFLECT_101)
    factor = draw.uniform(*ranges.shrink)
    smaller = (max(1, int(width // factor)), max(1, int(height // factor)))
    pixels = cv2.resize(pixels, smaller, interpolation=cv2.INTER_LINEAR)
    deviation = draw.uniform(*ranges.noise) / 255
    pixels = pixels + np.float32(deviation) * draw.standard_normal(pixels.shape, dtype=np.float32)
    pixels = through_jpeg(pixels.clip(0, 1), int(draw.uniform(*ranges.quality)))
    pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
    return levels(pixels)[..., ::-1]


def blur_kernel(blur: tuple[float, float], draw: np.random.Generator) -> np.ndarray:
    """A Gaussian of fp32 (41, 41) and sum 1: round, or with equal probability long and turned by any angle."""
    place = np.arange(KERNEL_SIDE) - KERNEL_SIDE // 2
    across, down = np.meshgrid(place, place)
    if draw.random() < 0.5:
        first = second = draw.uniform(*blur)
        angle = 0.0
    else:
        first, second = draw.uniform(*blur), draw.uniform(*blur)
        angle = draw.uniform(-math.pi, math.pi)
    along = across * math.cos(angle) + down * math.sin(angle)
    aside = down * math.cos(angle) - across * math.sin(angle)
    kernel = np.exp(-((along / first) ** 2 + (aside / second) ** 2) / 2)
    return (kernel / kernel.sum()).astype(np.float32)


def through_jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    """BGR fp32 (H, W, 3) in [0, 1] as a JPEG file gives it back."""
    done, data = cv2.imencode(".jpg", levels(pixels), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise RuntimeError(f"OpenCV wrote no JPEG of {pixels.shape}")
    again: Any = cv2.imdecode(data, cv2.IMREAD_COLOR)  # None only for what is no picture
    return again.astype(np.float32) / 255


def levels(pixels: np.ndarray) -> np.ndarray:
    """Values in [0, 1] rounded to uint8."""
    return (pixels.clip(0, 1) * 255).round().astype(np.uint8)
