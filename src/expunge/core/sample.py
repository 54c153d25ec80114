"""Some of many records, the same ones for every model."""

from collections.abc import Iterator

import torch

from expunge.core.rng import generator
from expunge.types import Data, fingerprints


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


def unknown(candidates: Data, *known: Data) -> Data:
    """Return the candidates whose content is that of no known record."""
    names = {name for data in known for name in contents(data)}
    rows = [row for row, name in enumerate(contents(candidates)) if name not in names]
    return candidates.select(torch.tensor(rows, dtype=torch.long))


def contents(data: Data) -> Iterator[str]:
    """Yield a digest of what is stored of each record, whatever its answer."""
    for rows in torch.arange(len(data)).split(1024):
        yield from fingerprints(data.read(rows).x)
