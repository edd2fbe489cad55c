"""Holes that inpainting fills: white strokes of a brush across a face (card codeformer, Data)."""

from __future__ import annotations

import math

import cv2
import numpy as np

NARROW, WIDE = (30, 70), (80, 120)  # pixels of a face of 512
WIDTHS_ARE_OF = 512
STROKES, VERTICES = (1, 3), (8, 27)  # fewest and most
TURN, TURN_SPREAD = 2 * math.pi / 5, math.pi / 6
WHITE = (255, 255, 255)


def masked(picture: np.ndarray, widths: tuple[int, int], draw: np.random.Generator) -> np.ndarray:
    """A picture uint8 (H, W, 3) under one to three white strokes.

    A stroke begins anywhere, turns by about 72 degrees to the one side and the other, and stays inside the picture.
    Where it begins and how its ends are kept inside is not published.

    Args:
        widths: least and most, for faces of 512 pixels; others have them in proportion.
    """
    covered = picture.copy()
    height, width = picture.shape[:2]
    for _ in range(int(draw.integers(STROKES[0], STROKES[1] + 1))):
        thickness = max(1, round(int(draw.integers(widths[0], widths[1] + 1)) * width / WIDTHS_ARE_OF))
        corners = vertices(height, width, draw)
        cv2.polylines(covered, [corners], False, WHITE, thickness)
        for corner in corners.tolist():  # round joints
            cv2.circle(covered, corner, thickness // 2, WHITE, -1)
    return covered


def vertices(height: int, width: int, draw: np.random.Generator) -> np.ndarray:
    """Corners of a stroke in a picture (height, width): int32 (n, 2), each (x, y)."""
    diagonal = math.hypot(height, width)
    least, most = TURN - draw.uniform(0, TURN_SPREAD), TURN + draw.uniform(0, TURN_SPREAD)
    place = np.array([draw.integers(width), draw.integers(height)], dtype=np.float64)
    corners = [place]
    for number in range(1, int(draw.integers(VERTICES[0], VERTICES[1] + 1))):
        angle = draw.uniform(least, most)
        if number % 2:
            angle = 2 * math.pi - angle
        length = float(np.clip(draw.normal(diagonal / 8, diagonal / 16), 0, diagonal / 4))
        place = place + length * np.array([math.cos(angle), math.sin(angle)])
        place = np.clip(place, 0, [width - 1, height - 1])
        corners.append(place)
    return np.array(corners).round().astype(np.int32)
