"""Random changes of training pictures, drawn once and applied to all that belong together (card clip-lit, Data)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ENHANCER_ZOOM = (0.7, 1.3)
PROMPT_ZOOM = (0.5, 1.5)
WARP_SHARE = 0.3  # of pictures that are zoomed, and of those that are turned
MOST_DEGREES = 90.0


@dataclass(frozen=True)
class Augmentation:
    """What is done to a picture, in this order.

    Args:
        mirrored, upside_down, transposed: left and right, top and bottom, rows and columns are exchanged.
        zoom: magnification across and down, or None; the card leaves open whether a factor above 1 magnifies.
        degrees: counterclockwise, or None.
    """

    mirrored: bool
    upside_down: bool
    transposed: bool
    zoom: tuple[float, float] | None
    degrees: float | None

    @classmethod
    def drawn(cls, zoom: tuple[float, float], draw: np.random.Generator) -> Augmentation:
        """A random one; every number is drawn, used or not, so that one choice does not move the next.

        Args:
            zoom: least and greatest magnification.
        """
        mirrored, upside_down, transposed = (bool(draw.random() < 0.5) for _ in range(3))
        zoomed, across, down = draw.random() < WARP_SHARE, float(draw.uniform(*zoom)), float(draw.uniform(*zoom))
        turned, degrees = draw.random() < WARP_SHARE, float(draw.uniform(-MOST_DEGREES, MOST_DEGREES))
        return cls(mirrored, upside_down, transposed, (across, down) if zoomed else None, degrees if turned else None)

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """uint8 `(S, S, 3)` to the same; both warps are bilinear, and beyond the border pixels are reflected.

        The centre that they keep lies between the pixels where S is even.
        """
        picture = picture[:: -1 if self.upside_down else 1, :: -1 if self.mirrored else 1]
        if self.transposed:
            picture = picture.swapaxes(0, 1)
        if self.zoom:
            picture = warped(picture, np.diag(self.zoom))
        if self.degrees is not None:
            sine, cosine = np.sin(np.deg2rad(self.degrees)), np.cos(np.deg2rad(self.degrees))
            picture = warped(picture, np.array(((cosine, sine), (-sine, cosine))))
        return np.ascontiguousarray(picture)


def warped(picture: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """uint8 `(H, W, 3)` under a linear map about its centre, in its size.

    Args:
        matrix: (2, 2), takes (x, y) of a pixel seen from the centre to where it comes to lie.
    """
    import cv2

    height, width = picture.shape[:2]
    centre = np.array(((width - 1) / 2, (height - 1) / 2))
    affine = np.column_stack((matrix, centre - matrix @ centre))
    changed: np.ndarray = cv2.warpAffine(
        np.ascontiguousarray(picture), affine, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )
    return changed
