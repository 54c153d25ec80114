"""A forget set to tune on: like those that results are reported on, and without their records."""

from dataclasses import dataclass

import torch
from jaxtyping import Int, Num
from torch import Tensor

from expunge.core.rng import generator
from expunge.data.split import Forget, OfGroup
from expunge.data.strata import rest
from expunge.types import Card, Sets


@dataclass(frozen=True, kw_only=True)
class Apart(Forget):
    """As many records of the same classes as another forget set has, none of them reported on.

    Where that set takes whole classes, other classes stand in for them; where it takes whole
    groups, other groups do.

    Attributes:
        like: The forget set that it resembles.
        reported: Every forget set whose records it leaves alone.
        seed: Of the draw.
    """

    card = Card(name="apart")

    like: Forget
    reported: tuple[Forget, ...]
    seed: int = 0

    def choose(self, sets: Sets) -> Int[Tensor, " f"]:
        wanted = self.like.choose(sets)
        taken = torch.cat([forget.choose(sets) for forget in self.reported]).unique()
        free = rest(taken, len(sets.train))
        y, draws = sets.train.y.cpu(), generator(self.seed, "apart")
        found = torch.empty(0, dtype=torch.long)
        if isinstance(self.like, OfGroup):
            found = of_other_groups(sets.groups[self.like.column], wanted, free, draws)
        elif y.dim() > 1 or y.is_floating_point():
            found = free[torch.randperm(len(free), generator=draws)[: len(wanted)]]
        else:
            found = of_same_classes(y, wanted, free, draws)
            if 2 * len(found) < len(wanted):
                found = of_other_classes(y, wanted, free, draws)
        if not len(found):
            raise ValueError(
                f"there is nothing to tune on: the forget sets of the spec leave no records like "
                f"the {len(wanted)} that '{self.like.card.name}' chose; forget fewer, or tune on "
                "a spec with another forget set"
            )
        return found.sort().values


def of_same_classes(
    y: Num[Tensor, " n"],
    wanted: Int[Tensor, " f"],
    free: Int[Tensor, " r"],
    draws: torch.Generator,
) -> Int[Tensor, " k"]:
    """Return as many of the free records of each class as are wanted, or all there are."""
    parts = []
    for label, count in zip(*y[wanted].unique(return_counts=True), strict=True):
        rows = free[y[free] == label]
        parts.append(rows[torch.randperm(len(rows), generator=draws)[: int(count)]])
    return torch.cat(parts)


def of_other_classes(
    y: Num[Tensor, " n"],
    wanted: Int[Tensor, " f"],
    free: Int[Tensor, " r"],
    draws: torch.Generator,
) -> Int[Tensor, " k"]:
    """Return the wanted share of other classes, one for each that records are wanted of."""
    labels, counts = y[wanted].unique(return_counts=True)
    others = y[free].unique()
    others = others[~torch.isin(others, labels)]
    others = others[torch.randperm(len(others), generator=draws)]
    parts = [free[:0]]
    for label, count, other in zip(labels, counts, others, strict=False):
        rows = free[y[free] == other]
        share = float(count) / int((y == label).sum())
        parts.append(rows[torch.randperm(len(rows), generator=draws)[: round(share * len(rows))]])
    return torch.cat(parts)


def of_other_groups(
    column: tuple[str, ...],
    wanted: Int[Tensor, " f"],
    free: Int[Tensor, " r"],
    draws: torch.Generator,
) -> Int[Tensor, " k"]:
    """Return all records of as many other groups as the wanted ones are of."""
    taken = set(range(len(column))) - set(free.tolist())
    others = sorted(set(column) - {column[i] for i in taken})
    count = len({column[i] for i in wanted.tolist()})
    chosen = {others[i] for i in torch.randperm(len(others), generator=draws)[:count].tolist()}
    return torch.tensor([i for i, v in enumerate(column) if v in chosen], dtype=torch.long)
