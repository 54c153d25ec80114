"""Training records in shards and slices, and networks trained slice by slice.

Bourtoule et al., "Machine Unlearning", IEEE S&P 2021, https://arxiv.org/abs/1912.03817
"""

import hashlib
import heapq
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from expunge.core import rng
from expunge.core.descent import teach
from expunge.core.traces import State, located
from expunge.core.view import View
from expunge.types import Data, Recipe, Refused, Trace, fingerprints

Sharding = Literal["uniform", "exponential", "pareto", "class"]
"""By what records are dealt out: by chance, or by a law of how likely each is removed."""

FEWEST = 2  # BatchNorm has no statistics of a single record
SMALL = 0.01  # of all records: smaller clusters are merged first


def epochs_by_slice(epochs: int, slices: int) -> list[int]:
    """Return for how many epochs each slice's run goes on; whole numbers, most 0 or 1 if many.

    Runs see 1, 2, ... slices' records. On average each takes 2 · epochs / (slices + 1), so that
    together they see about as many records as `epochs` epochs of the whole shard.
    """
    done = [2 * epochs * number // (slices + 1) for number in range(slices + 1)]
    return [after - before for before, after in itertools.pairwise(done)]


def most_samples(epochs: Sequence[int], records: int) -> int:
    """Return how many samples all slices' runs take, over all shards of so many records."""
    slices = len(epochs)
    return sum(count * ((i + 1) * records // slices) for i, count in enumerate(epochs))


def dealt(records: int, shards: int, draws: torch.Generator) -> Int[Tensor, " records"]:
    """Return each record's shard, by chance; shards differ by at most one record."""
    shard = torch.empty(records, dtype=torch.long)
    shard[torch.randperm(records, generator=draws)] = torch.arange(records) * shards // records
    return shard


def exponential(records: int, shape: float | None = None) -> Float[Tensor, " records"]:
    """Return the mass of an exponential law at each position: the first are likeliest removed.

    Args:
        records: How many.
        shape: Rate, per training set; left out, 95 % of the law's mass is on the training set.
    """
    rate = (-math.log(0.05) if shape is None else shape) / records
    place = torch.arange(records, dtype=torch.float64)
    return (-rate * place).exp() - (-rate * (place + 1)).exp()


def pareto(records: int, shape: float | None = None) -> Float[Tensor, " records"]:
    """Return the density of a Pareto law at each position: the first are likeliest removed.

    Args:
        records: How many.
        shape: Of the tail; left out, 1.16, by which a fifth of all asks for four fifths.
    """
    tail = 1.16 if shape is None else shape
    return tail * torch.arange(1, records + 1, dtype=torch.float64) ** (-tail - 1)


def by_risk(risk: Float[Tensor, " records"], shards: int) -> Int[Tensor, " records"]:
    """Return each record's shard, by the risk of each: shards of alike risk, not of alike size.

    Records likely to be removed are in small shards, which are soon trained again. Every
    record starts as a cluster of its own, and the two first clusters in line are merged until
    as many as shards are left. Clusters of fewer than a hundredth of all records are first in
    line, the smallest before others and of equal ones the less risky; then come the others,
    the less risky first.

    Args:
        risk: How likely each record is removed, on any scale.
        shards: At most as many as there are records.
    """
    small = max(FEWEST, math.ceil(SMALL * len(risk)))
    order = itertools.count()

    def place(rows: list[int], cost: float) -> tuple[bool, int, float, int, list[int]]:
        is_small = len(rows) < small
        return not is_small, len(rows) * is_small, cost, next(order), rows

    line = [place([row], cost) for row, cost in enumerate(risk.tolist())]
    heapq.heapify(line)
    while len(line) > shards:
        *_, cost, _, rows = heapq.heappop(line)
        *_, more, _, others = heapq.heappop(line)
        if len(rows) < len(others):
            rows, others = others, rows
        rows.extend(others)
        heapq.heappush(line, place(rows, cost + more))
    shard = torch.empty(len(risk), dtype=torch.long)
    for number, (*_, rows) in enumerate(sorted(line)):
        shard[rows] = number
    return shard


def sliced(
    shard: Int[Tensor, " records"], slices: int, draws: torch.Generator
) -> Int[Tensor, " records"]:
    """Return each record's slice within its shard, by chance."""
    found = torch.empty_like(shard)
    for number in range(int(shard.max()) + 1):
        rows = (shard == number).nonzero()[:, 0]
        found[rows[torch.randperm(len(rows), generator=draws)]] = slice_of(len(rows), slices)
    return found


def slice_of(records: int, slices: int) -> Int[Tensor, " records"]:
    """Return the slice of each place in a shard: the first i hold floor(i · records / slices)."""
    return ((torch.arange(records) + 1) * slices - 1) // records


@dataclass(frozen=True, eq=False)
class Layout:
    """Where each training record is, in the order of the training set.

    Attributes:
        index: Its `Data.index`.
        shard: Its shard.
        slice: Its slice within the shard; boundaries stay where they were as records go.
        seed: Of the training.
    """

    index: Int[Tensor, " n"]
    shard: Int[Tensor, " n"]
    slice: Int[Tensor, " n"]
    seed: int

    def trace(self) -> dict[str, Tensor]:
        """Return it as tensors that can be kept."""
        parts = {"index": self.index, "shard": self.shard, "slice": self.slice}
        return {k: v.cpu().clone() for k, v in parts.items()} | {"seed": torch.tensor(self.seed)}

    @classmethod
    def read(cls, trace: Trace) -> "Layout":
        """Return what was kept."""
        return cls(trace["index"], trace["shard"], trace["slice"], int(trace["seed"]))

    def check(self, shards: int, slices: int) -> None:
        """Refuse a layout of other settings; every shard's last record is in its last slice."""
        found = 1 + int(self.shard.max()), 1 + int(self.slice.max())
        if found != (shards, slices):
            raise Refused(
                f"expected the trace of {shards} shards of {slices} slices, got one of {found[0]} "
                f"of {found[1]}; unlearn with the settings that the original was trained with"
            )

    def among(self, data: Data) -> Int[Tensor, " n"]:
        """Return each record's row in `data`, and -1 where it is not there."""
        row = torch.full((len(self.index),), -1)
        row[located(self.index, data.index)] = torch.arange(len(data))
        return row

    def parts(self, number: int, slices: int, row: Int[Tensor, " n"]) -> list[Tensor]:
        """Return the rows of a shard's records, slice by slice, of those that have one."""
        here = ((self.shard == number) & (row >= 0)).nonzero()[:, 0]
        slice_ = self.slice[here]
        return [row[here[slice_ == i]] for i in range(slices)]


def worked(epochs: Sequence[int], parts: Sequence[Tensor]) -> list[int]:
    """Return each run's epochs: none while there are fewer than two records."""
    sizes = itertools.accumulate(len(part) for part in parts)
    return [count if size >= FEWEST else 0 for count, size in zip(epochs, sizes, strict=True)]


def contents(data: Data) -> list[str]:
    """Return a hash of each record, answer included."""
    found: list[str] = []
    for rows in torch.arange(len(data)).split(256):
        x, y, _ = data.read(rows)
        found += [
            hashlib.sha256(name.encode() + answer.tobytes()).hexdigest()
            for name, answer in zip(fingerprints(x), y.cpu().numpy(), strict=True)
        ]
    return found


def addresses(base: str, parts: Sequence[Sequence[str]], epochs: Sequence[int]) -> list[str]:
    """Return the address of the network after each slice: a hash of all that it depends on.

    A run of no epochs leaves the network as it was, and its address. Two slices of the same
    address are the same network, bit for bit, on one machine.

    Args:
        base: Stands for what all slices have in common: the recipe and the seed.
        parts: Hashes of each slice's records.
        epochs: Of each slice's run.
    """
    read = state = hashlib.sha256(base.encode()).hexdigest()
    found: list[str] = []
    for number, (part, count) in enumerate(zip(parts, epochs, strict=True)):
        read = hashlib.sha256("|".join([read, *part]).encode()).hexdigest()
        if count:
            about = f"{state}|{read}|{number}|{count}"
            state = hashlib.sha256(about.encode()).hexdigest()
        found.append(state)
    return found


def seed_of(seed: int, number: int) -> int:
    """Return a constituent's seed: the first has the whole's, as plain training would."""
    return rng.derive(seed, "constituent", number) if number else seed


def grow(
    recipe: Recipe,
    data: Data,
    parts: Sequence[Tensor],
    epochs: Sequence[int],
    seed: int,
    *,
    done: int = 0,
    state: State | None = None,
) -> Iterator[nn.Module]:
    """Train one network on the first slice, on the first two, and so on; yield it after each.

    Every slice's run has an optimiser and a schedule of its own. What is random in it depends
    on the seed and the slice alone, so that it does not matter where training started again.

    Args:
        recipe: But for `epochs`, followed in every run.
        data: Where the records are.
        parts: Rows of each slice's records.
        epochs: Of each slice's run.
        seed: Of the weights and of all runs.
        done: How many slices the network has seen.
        state: What it was then; left out, it is drawn anew.
    """

    def learn(number: int) -> nn.Module:
        seen = View(data, torch.cat([*parts[: number + 1]]))
        descent = replace(recipe.descent, epochs=epochs[number])
        draws = rng.generator(seed, "order", *name(number))
        if descent.epochs:
            teach(network, replace(recipe, descent=descent), seen, draws)
        return network.eval()

    def name(number: int) -> tuple[int, ...]:
        return (number,) if number else ()

    with rng.fenced(rng.derive(seed, "weights")):
        network = recipe.fresh().to(data.y.device)
        if state is not None:
            network.load_state_dict(state)
        if not done:
            learn(0)
    if not done:
        yield network
    for number in range(max(done, 1), len(parts)):
        with rng.fenced(rng.derive(seed, "weights", *name(number))):
            learn(number)
        yield network


class Dealing(NamedTuple):
    """How records are dealt out.

    Attributes:
        shards: How many there are.
        slices: Of each shard.
        law: By chance, or by a law of how likely each record is removed.
        shape: Of the exponential or the Pareto law.
        risks: By class, how likely a record of it is removed, on any scale.
    """

    shards: int
    slices: int
    law: Sharding = "uniform"
    shape: float | None = None
    risks: tuple[float, ...] = ()

    def check(self) -> None:
        """Refuse numbers that make no sense, before any work."""
        if self.shards < 1 or self.slices < 1:
            raise ValueError(
                f"expected shards and slices of at least 1, got {self.shards} and {self.slices}"
            )
        if self.shape is not None and not (
            self.law in ("exponential", "pareto") and self.shape > 0
        ):
            raise ValueError(
                f"expected shape > 0, and only with an exponential or a Pareto law, got "
                f"{self.shape} with sharding='{self.law}'"
            )
        if bool(self.risks) != (self.law == "class") or any(risk < 0 for risk in self.risks):
            raise ValueError(
                "expected risks, one of at least 0 for each class, with sharding='class' and with "
                f"no other, got {self.risks} with sharding='{self.law}'"
            )

    def lay_out(self, data: Data, seed: int) -> Layout:
        """Return where each record of a training set goes.

        Raises:
            Refused: Where a shard would hold fewer than two records, or classes do not fit.
        """
        shard = self._deal(data, rng.generator(seed, "shards"))
        least = int(torch.bincount(shard, minlength=self.shards).min())
        if least < FEWEST:
            raise Refused(
                f"expected at least {FEWEST} records in every shard, got {least} in the smallest "
                f"of {self.shards} shards of {len(data)} records; lower shards"
            )
        own = sliced(shard, self.slices, rng.generator(seed, "slices"))
        return Layout(data.index.cpu(), shard, own, seed)

    def _deal(self, data: Data, draws: torch.Generator) -> Int[Tensor, " n"]:
        count = min(self.shards, len(data))
        if self.law == "uniform":
            return dealt(len(data), count, draws)
        if self.law == "class":
            return by_risk(self._by_class(data.y.cpu()), count)
        law = exponential if self.law == "exponential" else pareto
        return by_risk(law(len(data), self.shape), count)

    def _by_class(self, y: Tensor) -> Float[Tensor, " n"]:
        if y.dim() != 1 or y.is_floating_point() or int(y.max()) >= len(self.risks):
            raise Refused(
                f"expected records of at most {len(self.risks)} classes, as there are `risks`, got "
                f"answers of shape {tuple(y.shape)} up to {y.max().item()}; give one for each class"
            )
        return torch.tensor(self.risks, dtype=torch.float64)[y]
