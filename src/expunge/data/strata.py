"""Draws that keep the proportions of the classes."""

import torch
from jaxtyping import Int, Num
from torch import Tensor

from expunge.core.rng import generator
from expunge.data.streams import StreamData
from expunge.data.tensors import TensorData
from expunge.pool import Pool
from expunge.types import Data, Sets


def draw(y: Num[Tensor, "n *answer"], count: int, rng: torch.Generator) -> Int[Tensor, " k"]:
    """Return `count` sorted positions; each class gets its share to within one record.

    Records are shuffled, sorted by class, and every n/count-th is taken, which is systematic
    sampling. Where an answer is more than one number there are no classes to keep.
    """
    n = len(y)
    order = torch.randperm(n, generator=rng)
    if y.dim() == 1:
        order = order[y.cpu()[order].argsort(stable=True)]
    ticks = torch.arange(n + 1) * count // max(n, 1)
    return order[ticks.diff() > 0].sort().values


def rest(rows: Int[Tensor, " k"], n: int) -> Int[Tensor, " r"]:
    """Return the positions below `n` that are not among `rows`."""
    left = torch.ones(n, dtype=torch.bool)
    left[rows] = False
    return left.nonzero()[:, 0]


def hold_out(whole: Data, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return the positions to train on and those to hold out, `share` of every class.

    Raises:
        ValueError: When either would be empty.
    """
    if not 0 < share < 1:
        raise ValueError(f"expected a share to hold out in (0, 1), got {share}")
    count = round(share * len(whole))
    test = draw(whole.y, count, generator(seed, "hold out"))
    train = rest(test, len(whole))
    if not len(train) or not len(test):
        raise ValueError(
            f"holding out {share:.0%} of {len(whole)} records leaves {len(train)} to train on "
            f"and {len(test)} to test on; give more records or another share"
        )
    return train, test


def part(sets: Sets, share: float, seed: int) -> Sets:
    """Return `sets` with its training records cut in two, whatever was held out before.

    Raises:
        ValueError: When either part would be empty.
    """
    train, test = hold_out(sets.train, share, seed)
    return among(sets, train)._replace(test=alone(sets.train, test))


def thinned(sets: Sets, scale: float, scale_test: float | None = None) -> Sets:
    """Return `scale` of the training records, of every class alike, and of the test records.

    The draw is always the same, so that a scale names one data set.

    Args:
        sets: Of records that count, test records among them.
        scale: In (0, 1].
        scale_test: Of the test records, where it is another.

    Raises:
        ValueError: When nothing would be left.
    """
    scales = {"train": scale, "test": scale if scale_test is None else scale_test}
    if set(scales.values()) == {1.0}:
        return sets
    rows = {}
    for name, data in (("train", sets.train), ("test", sets.test)):
        count = round(scales[name] * len(data))
        if count == 0:
            raise ValueError(f"scale={scales[name]} leaves none of {len(data)} {name} records")
        rows[name] = draw(data.y, count, generator(0, "scale", name))
    return among(sets, rows["train"])._replace(test=alone(sets.test, rows["test"]))


def distinct(sets: Sets) -> Sets:
    """Return `sets` without copies: of records of one content and answer the first is kept.

    Training records come first, so that no held-out record is a copy of one.
    """
    n, copies = len(sets.train), Pool(sets.train.join(sets.test)).copies
    before = torch.cat([torch.tensor([-1]), copies.cummax(0).values[:-1]])
    kept = copies > before  # they are numbered as they come
    test = alone(sets.test, kept[n:].nonzero()[:, 0])
    return among(sets, kept[:n].nonzero()[:, 0])._replace(test=test)


def among(sets: Sets, rows: Tensor) -> Sets:
    """Return `sets` with these of the training records, their ids and groups.

    A record that is named twice is there twice, under one id.
    """
    kept = rows.tolist()
    return sets._replace(
        train=alone(sets.train, rows),
        ids=tuple(sets.ids[i] for i in kept) if sets.ids else (),
        groups={name: tuple(column[i] for i in kept) for name, column in sets.groups.items()},
    )


def alone(data: Data, rows: Tensor) -> Data:
    """Return the records at `rows`, numbered from 0."""
    chosen = data.select(rows)
    return chosen.renumbered() if isinstance(chosen, TensorData | StreamData) else chosen


def common(one: Data, other: Data, rng: torch.Generator) -> tuple[Data, Data]:
    """Return as many records of each class of both: all of the smaller side's, of the larger some.

    Classes that one of them lacks are in neither.
    """
    sides = [data.y.cpu().long() for data in (one, other)]
    size = 1 + max(int(y.max()) for y in sides)
    least = torch.stack([y.bincount(minlength=size) for y in sides]).amin(0)
    chosen = []
    for y in sides:
        order = torch.randperm(len(y), generator=rng)
        rows = [order[y[order] == k][: int(least[k])] for k in least.nonzero()[:, 0].tolist()]
        chosen.append(torch.cat([order[:0], *rows]).sort().values)
    return one.select(chosen[0]), other.select(chosen[1])


def matched(candidates: Data, like: Data, rng: torch.Generator) -> Data:
    """Return the largest subset of `candidates` with the class proportions of `like`.

    A membership attack then tells members from non-members, and not one class from another.
    Proportions agree to within half a record of each class. Where an answer is more than one
    number all candidates are returned.

    Raises:
        ValueError: When a class of `like` has no candidate.
    """
    if like.y.dim() > 1 or not len(like):
        return candidates
    wanted, there = like.y.cpu().long(), candidates.y.cpu().long()
    size = int(torch.cat([wanted, there]).max()) + 1
    goal, have = wanted.bincount(minlength=size), there.bincount(minlength=size)
    missing = ((goal > 0) & (have == 0)).nonzero()[:, 0].tolist()
    if missing:
        raise ValueError(
            f"{len(missing)} classes of the {len(like)} records to match have no candidate "
            f"(first: {missing[:3]}); hold out more records, or match other classes"
        )
    asked = goal > 0
    scale = (have[asked].double() / goal[asked].double()).min()
    # Never more than there are: a number below an integer rounds to at most that integer.
    count = (scale * goal.double()).round().long()
    order = torch.randperm(len(there), generator=rng)
    chosen = [order[there[order] == k][: int(count[k])] for k in asked.nonzero()[:, 0].tolist()]
    return candidates.select(torch.cat(chosen).sort().values)
