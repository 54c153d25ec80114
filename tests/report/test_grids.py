"""Grids of samples: every pixel where it belongs, and a picture that can be read back."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from expunge.report.grids import GAP, PAPER, data_uri, laid_out


@pytest.mark.parametrize("shades", [1, 3])
def test_every_image_is_in_its_row_and_column(shades: int) -> None:
    rng = np.random.default_rng(0)
    samples = rng.integers(0, 200, (3, 2, shades, 4, 5), dtype=np.uint8)
    grid = laid_out(samples.tolist())
    assert grid.shape == (3 * (4 + GAP) + GAP, 2 * (5 + GAP) + GAP, shades)
    covered = np.zeros(grid.shape[:2], dtype=bool)
    for row in range(3):
        for column in range(2):
            top, left = GAP + row * (4 + GAP), GAP + column * (5 + GAP)
            found = grid[top : top + 4, left : left + 5]
            assert (found == samples[row, column].transpose(1, 2, 0)).all()
            covered[top : top + 4, left : left + 5] = True
    assert (grid[~covered] == PAPER).all()


@pytest.mark.parametrize("shades", [1, 3])
def test_the_picture_reads_back_as_the_grid(shades: int) -> None:
    samples = np.random.default_rng(1).integers(0, 256, (2, 3, shades, 4, 4), dtype=np.uint8)
    head, _, body = data_uri(samples, scale=2).partition(",")
    assert head == "data:image/png;base64"
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(body))))
    picture = picture.reshape(*picture.shape[:2], shades)
    assert (picture[::2, ::2] == laid_out(samples)).all()
    assert (picture[1::2, 1::2] == laid_out(samples)).all()


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros((2, 2, 4, 4)), "by class, sample, channel"),
        (np.zeros((2, 2, 2, 4, 4)), "of 1 or 3 channels"),
        (np.zeros((2, 0, 1, 4, 4)), r"\(2, 0\)"),
        (np.full((1, 1, 1, 2, 2), 256), "from 0 to 255"),
        (np.full((1, 1, 1, 2, 2), -1), "from 0 to 255"),
    ],
)
def test_what_is_no_grid_of_pixels_is_refused(samples: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        laid_out(samples.tolist())
