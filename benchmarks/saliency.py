"""SalUn's mask: one selection against a sort of all weights."""

import torch
from torch import Tensor

from benchmarks.timing import Claim, interleaved, ratios
from expunge.core.order import largest

NUMBERS, REPEATS = 11_000_000, 3  # as many as a ResNet-18 has
DEAD = 0.2  # share of exact zeros, as dead units leave


def by_sort(numbers: Tensor, count: int) -> Tensor:
    """Return the mask by putting all numbers in order."""
    chosen = torch.zeros_like(numbers, dtype=torch.bool)
    chosen[numbers.argsort(descending=True, stable=True)[:count]] = True
    return chosen


def claim(fraction: float) -> Claim:
    """Measure one fraction of weights kept."""
    draws = torch.Generator().manual_seed(0)
    numbers = torch.randn(NUMBERS, generator=draws).abs_()
    numbers[torch.rand(NUMBERS, generator=draws) < DEAD] = 0
    count = round(fraction * NUMBERS)
    if not torch.equal(largest(numbers, count), by_sort(numbers, count)):
        raise AssertionError(f"the two masks differ at fraction {fraction}; expected the same")
    seconds = interleaved(
        {"ours": lambda: largest(numbers, count), "sort": lambda: by_sort(numbers, count)}, REPEATS
    )
    return Claim(
        what=f"SalUn's mask, {fraction:.0%} kept, one selection / a stable sort",
        ratios=ratios(seconds["sort"], seconds["ours"]),
        target=3.0,
        note=f"{NUMBERS:,} numbers, {DEAD:.0%} of them 0; the same mask, ties by position",
    )


def claims() -> list[Claim]:
    """Measure the fraction of the paper, and one that ends among the zeros."""
    return [claim(0.5), claim(0.9)]
