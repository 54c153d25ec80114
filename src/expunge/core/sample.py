"""Some of many records, the same ones for every model."""

from collections.abc import Iterator, Sequence
from weakref import WeakKeyDictionary

import torch

from expunge.core.rng import generator
from expunge.types import Batch, Data, Inputs, fingerprints

_CONTENTS: WeakKeyDictionary[Data, dict[bool, tuple[str, ...]]] = WeakKeyDictionary()


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


def distinct(data: Data) -> Data:
    """Return the records, answers included, without copies of those before them."""
    seen: set[str] = set()
    rows = []
    for row, name in enumerate(contents(data, answers=True)):
        if name not in seen:
            seen.add(name)
            rows.append(row)
    return data if len(rows) == len(data) else data.select(torch.tensor(rows, dtype=torch.long))


def unknown(candidates: Data, *known: Data) -> Data:
    """Return the candidates whose content is that of no known record.

    Where there is an answer at every position it is content too: a sentence's last word is
    asked for and never shown.
    """
    told = candidates.y.dim() > 1
    names = frozenset[str]().union(*(contents(data, answers=told) for data in known))
    found = enumerate(contents(candidates, answers=told))
    rows = [row for row, name in found if name not in names]
    return candidates.select(torch.tensor(rows, dtype=torch.long))


def contents(data: Data, *, answers: bool = False) -> tuple[str, ...]:
    """Return a digest of what is stored of each record, whatever its answer, or with its answer.

    All records are read, once for as long as the data are at hand.
    """
    kept = _CONTENTS.setdefault(data, {})
    if answers not in kept:
        kept[answers] = tuple(_contents(data, answers=answers))
    return kept[answers]


def _contents(data: Data, *, answers: bool) -> Iterator[str]:
    for rows in torch.arange(len(data)).split(1024):
        x, y, _ = data.read(rows)
        names = fingerprints(x)
        if answers:
            told = y.detach().cpu().numpy()
            names = [name + own.tobytes().hex() for name, own in zip(names, told, strict=True)]
        yield from names


def joined(batches: Sequence[Batch]) -> Batch:
    """Return the batches as one, in their order."""
    xs, ys, indices = zip(*batches, strict=True)
    if isinstance(xs[0], dict):
        x: Inputs = {name: torch.cat([x[name] for x in xs]) for name in xs[0]}
    else:
        x = torch.cat(xs)
    return Batch(x, torch.cat(ys), torch.cat(indices))
