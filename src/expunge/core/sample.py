"""Some of many records, the same ones for every model."""

import torch

from expunge.core.rng import generator
from expunge.types import Data


def some(data: Data, count: int | None, name: str) -> Data:
    """Return at most `count` records, drawn at random and in their order; None returns all.

    Args:
        data: The records.
        count: How many.
        name: Of the draw; the same name draws the same positions.
    """
    if count is None or len(data) <= count:
        return data
    order = torch.randperm(len(data), generator=generator(0, "asked", name))
    return data.select(order[:count].sort().values)
