"""Records small enough to check by hand, and a cache of the test's own."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from expunge.data.tensors import TensorData
from expunge.types import Sets


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep decoded data inside the test, and look nowhere else for data."""
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("EXPUNGE_DATA", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def images() -> TensorData:
    rng = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (50, 3, 6, 5), dtype=torch.uint8, generator=rng)
    return TensorData(x, torch.arange(50) % 4)


@pytest.fixture
def sets(images: TensorData) -> Sets:
    rng = torch.Generator().manual_seed(1)
    x = torch.randint(0, 256, (40, 3, 6, 5), dtype=torch.uint8, generator=rng)
    return Sets(
        images,
        TensorData(x, torch.arange(40) % 4),
        ("ant", "bee", "cat", "dog"),
        tuple(f"r{i}" for i in range(50)),
        {"site": tuple("north" if i < 20 else "south" for i in range(50))},
    )


def png(seed: int, side: int = 8, *, grey: bool = False) -> tuple[bytes, np.ndarray]:
    """Return an image as a file's bytes and as bytes of shape `c h w`."""
    shape = (side, side) if grey else (side, side, 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue(), pixels.reshape(side, side, -1).transpose(2, 0, 1)
