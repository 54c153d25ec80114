"""The challenge's score: sorted samples and look-ups against a matrix of all rules."""

import math

import torch
from torch import Tensor

from benchmarks.timing import Claim, interleaved, ratios
from expunge.core.epsilon import forgetting_quality

MODELS, RECORDS, REPEATS, TARGET = 512, 4, 3, 50.0
DELTA, GRID, BUFFER, CAP = 1e-5, 100, 2.0, 50.0


def tiled(unlearned: Tensor, retrained: Tensor) -> Tensor:
    """Return epsilon by trying every rule on every model at once, as the challenge's scorer.

    Intervals that end at one place are tried together; a matrix of all would be 650 MB.
    """
    return torch.stack([_tiled(u, r) for u, r in zip(unlearned.T, retrained.T, strict=True)])


def _tiled(u: Tensor, r: Tensor) -> Tensor:
    low, high = torch.cat([u, r]).aminmax()
    above = torch.linspace(float(low), float(high), math.ceil(GRID * float(high - low)))
    above = above.double()[:, None]
    best = _epsilon(
        (u >= above) != (u.median() > r.median()), (r >= above) == (u.median() > r.median())
    )
    width_u, width_r = u.max() - u.min(), r.max() - r.min()
    narrow, width = (u, width_u) if width_u < width_r else (r, width_r)
    ends = math.ceil(2 * GRID * BUFFER)
    offsets = torch.linspace(-BUFFER, BUFFER, ends, dtype=torch.double)
    for right in narrow.max() + offsets:
        left = (right - width + offsets)[:, None]
        inside_u, inside_r = ((left <= side) & (side <= right) for side in (u, r))
        if narrow is not u:
            inside_u, inside_r = ~inside_u, ~inside_r
        best = torch.maximum(best, _epsilon(~inside_u, inside_r))
    return best


def _epsilon(wrong_u: Tensor, wrong_r: Tensor) -> Tensor:
    first, second = wrong_u.double().mean(1), wrong_r.double().mean(1)
    a, b = ((1 - DELTA - x).log() - y.log() for x, y in ((first, second), (second, first)))
    epsilon = torch.fmax(a, b).nan_to_num(0.0, posinf=CAP).clamp(0, CAP)
    return epsilon.where((first == 0) == (second == 0), torch.zeros_like(epsilon)).max()


def claims() -> list[Claim]:
    """Measure at the challenge's number of models, both ways on one core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [_claim()]
    finally:
        torch.set_num_threads(threads)


def _claim() -> Claim:
    draws = torch.Generator().manual_seed(0)
    u, r = torch.randn(2, MODELS, RECORDS, generator=draws, dtype=torch.double)
    far = float((forgetting_quality(u, r).epsilon - tiled(u, r)).abs().max())
    if far > 0.05:  # the two grids are equal but for rounding, which moves a tie now and then
        raise AssertionError(f"the two ways differ by {far:g}; expected the same epsilon")
    seconds = interleaved(
        {"ours": lambda: forgetting_quality(u, r), "tiled": lambda: tiled(u, r)}, REPEATS
    )
    each = 1000 * min(seconds["ours"]) / RECORDS
    return Claim(
        what="forgetting quality, sorted and looked up / a matrix of rules by models",
        ratios=ratios(seconds["tiled"], seconds["ours"]),
        target=TARGET,
        note=f"{MODELS} models a side, {RECORDS} records, one core, {each:.1f} ms a record; "
        f"epsilon equal to {far:.0e}",
    )
