"""RMIA: against how many other records does this one stand out?

Zarifzadeh, Liu and Shokri, "Low-Cost High-Power Membership Inference Attacks", ICML 2024,
https://arxiv.org/abs/2312.03262

A record's ratio Pr(x | theta) / Pr(x) says how much likelier the target finds it than models do
on average. Its score is the share of population records z for which

    (Pr(x | theta) / Pr(x)) / (Pr(z | theta) / Pr(z)) >= gamma.

Departures from the paper:
    1. The pairs are not compared one by one. For each z the smallest ratio that passes is found,
       in floating point and not only in theory; these are sorted, and each x looks up how many
       it passes. The scores are those of the matrix, bit by bit.
    2. Ratios are formed from logarithms and cut off at e^-300 and e^300, where probabilities
       would underflow to 0 / 0.
    3. Online, the mean over models is that of members' and strangers' means, so that a record
       may have more shadows on one side. In equal halves it is the paper's.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from expunge.core.sides import Mode, check
from expunge.types import Refused

FARTHEST = 300.0  # of a ratio's logarithm from 0


def ratio(
    margin: Float[Tensor, " n"],
    shadows: Float[Tensor, "s n"],
    member: Bool[Tensor, "s n"],
    *,
    mode: Mode = "online",
    a: float = 0.3,
) -> Float[Tensor, " n"]:
    """Return Pr(x | theta) / Pr(x) of each record.

    Args:
        margin: The target's log p - log(1 - p) of each record's true class.
        shadows: The same of each shadow (row) on each record (column).
        member: Which shadow was trained on which record; groups may differ in size.
        mode: `online` takes Pr(x) = (in + out) / 2, means over shadows that were trained on the
            record and that were not. `offline` knows the second alone, and takes it for the
            whole by the paper's line in = a out + 1 - a.
        a: Of that line, in [0, 1]; the paper has 0.3 for CIFAR-10.

    Raises:
        Refused: For fewer than two shadows on a side of a record, or numbers that are not finite.
        ValueError: For `a` outside [0, 1].
    """
    if not 0 <= a <= 1:
        raise ValueError(f"expected a in [0, 1], got {a}")
    check(margin, shadows, member, mode)
    log_p, shadows = F.logsigmoid(margin.double()), F.logsigmoid(shadows.double())
    outside = _log_mean(shadows, ~member)
    if mode == "online":
        inside = _log_mean(shadows, member)
    else:
        line = torch.tensor([a, 1 - a], dtype=torch.double, device=outside.device).log()
        inside = torch.logaddexp(outside + line[0], line[1])
    average = torch.logaddexp(inside, outside) - math.log(2)
    return (log_p - average).clamp(-FARTHEST, FARTHEST).exp()


def _log_mean(log_p: Tensor, chosen: Tensor) -> Tensor:
    """Return the logarithm of each column's mean probability over its chosen rows."""
    nothing = log_p.new_full((), -torch.inf)
    return log_p.where(chosen, nothing).logsumexp(0) - chosen.sum(0).double().log()


def dominated(
    x: Float[Tensor, " n"], z: Float[Tensor, " m"], gamma: float = 2.0
) -> Float[Tensor, " n"]:
    """Return for each x the share of z with x / z >= gamma.

    Args:
        x: Ratios of the records in question, above 0.
        z: Ratios of the population, above 0.
        gamma: How much likelier x must be; the paper has 2.

    Raises:
        Refused: For ratios that are not finite and above 0, or no z.
        ValueError: For a gamma that is not.
    """
    for name, part in (("x", x), ("z", z)):
        if not len(part) or not bool((part.isfinite() & (part > 0)).all()):
            raise Refused(
                f"expected at least 1 ratio of {name}, all finite and above 0, got "
                f"{int((part.isfinite() & (part > 0)).sum())} such of {len(part)}"
            )
    if not 0 < gamma < math.inf:
        raise ValueError(f"expected gamma above 0, got {gamma}")
    x, z = x.double().contiguous(), z.double()
    passed = torch.searchsorted(_least(z, gamma).sort().values, x, right=True)
    return passed.double() / len(z)


def _least(z: Tensor, gamma: float) -> Tensor:
    """Return for each z the smallest number x for which x / z, as rounded, is gamma or more.

    gamma * z is that number but for its last bit or two.
    """
    least, infinity = gamma * z, torch.full_like(z, torch.inf)
    while bool((below := least / z < gamma).any()):
        least = least.nextafter(infinity).where(below, least)
    while bool((still := (lower := least.nextafter(-infinity)) / z >= gamma).any()):
        least = lower.where(still, least)
    return least
