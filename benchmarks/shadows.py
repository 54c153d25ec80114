"""Attacks by shadow models: all records at once against one pair, or one record, after another."""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm
from torch import Tensor

from benchmarks.timing import Claim, interleaved, ratios
from expunge.core.likelihood import likelihood_ratio
from expunge.core.ratio import dominated

REPEATS, RECORDS, POPULATION, ROWS = 3, 25_000, 25_000, 500
POOL, SHADOWS, GAMMA = 50_000, 64, 2.0


def matrix(x: Tensor, z: Tensor) -> Tensor:
    """Return the share of z that each x exceeds, pair by pair; some rows at once fit memory."""
    shares = [(rows[:, None] / z >= GAMMA).double().mean(1) for rows in x.split(ROWS)]
    return torch.cat(shares)


def by_record(margin: Tensor, shadows: Tensor, member: Tensor) -> NDArray[np.float64]:
    """Return the logarithm of each record's likelihood ratio, by scipy's normal distribution."""
    scores = np.empty(len(margin))
    columns = zip(margin.numpy(), shadows.numpy().T, member.numpy().T, strict=True)
    for i, (at, column, chosen) in enumerate(columns):
        inside, outside = column[chosen], column[~chosen]
        scores[i] = norm.logpdf(at, inside.mean(), inside.std(ddof=1))
        scores[i] -= norm.logpdf(at, outside.mean(), outside.std(ddof=1))
    return scores


def claims() -> list[Claim]:
    """Measure both on one core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [rmia(), lira()]
    finally:
        torch.set_num_threads(threads)


def rmia() -> Claim:
    """Measure the scores of RMIA, from ratios on."""
    draws = torch.Generator().manual_seed(0)
    x, z = (torch.randn(n, generator=draws).double().exp() for n in (RECORDS, POPULATION))
    if not torch.equal(dominated(x, z, GAMMA), matrix(x, z)):
        raise AssertionError("the two ways give different scores; expected the same bits")
    seconds = interleaved(
        {"ours": lambda: dominated(x, z, GAMMA), "matrix": lambda: matrix(x, z)}, REPEATS
    )
    return Claim(
        what="RMIA's scores, sorted and looked up / a matrix of all pairs",
        ratios=ratios(seconds["matrix"], seconds["ours"]),
        target=300.0,
        note=f"{RECORDS:,} records by {POPULATION:,} of the population, all rows, {ROWS} at once, "
        f"one core, {1000 * min(seconds['ours']):.1f} ms; the same bits",
    )


def lira() -> Claim:
    """Measure the scores of LiRA, from margins on."""
    draws = torch.Generator().manual_seed(0)
    shadows = torch.randn(SHADOWS, POOL, generator=draws)
    member = torch.rand(SHADOWS, POOL, generator=draws) < 0.5
    margin = torch.randn(POOL, generator=draws)

    def ours() -> Tensor:
        return likelihood_ratio(margin, shadows, member, variance="record")

    far = float(np.abs(ours().numpy() - by_record(margin.double(), shadows.double(), member)).max())
    if far > 1e-8:
        raise AssertionError(f"the two ways differ by {far:g}; expected the same scores")
    seconds = interleaved(
        {"ours": ours, "scipy": lambda: by_record(margin, shadows, member)}, REPEATS
    )
    return Claim(
        what="LiRA's scores, all records at once / scipy record by record",
        ratios=ratios(seconds["scipy"], seconds["ours"]),
        target=30.0,
        note=f"{POOL:,} records, {SHADOWS} shadows, sides of unequal size, one core, "
        f"{1000 * min(seconds['ours']):.0f} ms; scores equal to {far:.0e}",
    )
