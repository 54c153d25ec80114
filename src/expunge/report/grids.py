"""Samples of a generative model as one picture: a row for each class."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

GAP = 1  # pixels between images
PAPER = 255  # what lies between them

Nested = Sequence[Any]  # of numbers from 0 to 255, as a record holds an array


def laid_out(samples: Nested | UInt8[np.ndarray, "..."]) -> UInt8[np.ndarray, "high wide shades"]:
    """Return images side by side, a row for each class, with a line of paper around each.

    Args:
        samples: Pixels from 0 to 255 by class, sample, channel, row and column; one channel is
            grey, three are colours.

    Raises:
        ValueError: For pixels that are not so.
    """
    pixels = np.asarray(samples)
    if pixels.ndim != 5 or pixels.shape[2] not in (1, 3) or 0 in pixels.shape:
        raise ValueError(
            "expected samples by class, sample, channel, row and column, of 1 or 3 channels, got "
            f"shape {pixels.shape}"
        )
    if pixels.min() < 0 or pixels.max() > 255:
        raise ValueError(
            f"expected pixels from 0 to 255, got some from {pixels.min()} to {pixels.max()}"
        )
    classes, count, shades, high, wide = pixels.shape
    framed = np.full((classes, count, shades, high + GAP, wide + GAP), PAPER, dtype=np.uint8)
    framed[..., GAP:, GAP:] = pixels
    whole = framed.transpose(0, 3, 1, 4, 2).reshape(classes * (high + GAP), -1, shades)
    return np.pad(whole, ((0, GAP), (0, GAP), (0, 0)), constant_values=PAPER)


def data_uri(samples: Nested | UInt8[np.ndarray, "..."], scale: int = 3) -> str:
    """Return the grid as a PNG in an address that a page can show without a file.

    Args:
        samples: As for `laid_out`.
        scale: Pixels of the picture for each of a sample, each way; they stay square.
    """
    grid = laid_out(samples).repeat(scale, 0).repeat(scale, 1)
    image = Image.fromarray(grid[..., 0] if grid.shape[2] == 1 else grid)
    written = io.BytesIO()
    image.save(written, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(written.getvalue()).decode("ascii")
