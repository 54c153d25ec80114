"""LiRA: is a model's confidence on a record one of members or of strangers?

Carlini, Chien, Nasr, Song, Terzis and Tramèr, "Membership Inference Attacks From First
Principles", S&P 2022, https://arxiv.org/abs/2112.03570

Across models a record's margin log p - log(1 - p) is near Gaussian. Shadow models trained with
the record give one Gaussian, shadows trained without it another. Online, the score is the
logarithm of their densities' ratio at the target's margin. Offline, only the second is known, and
the score is how far above its mean the target lies.

Departures from the paper:
    1. One variance for all records is pooled within records, each around a mean of its own, and
       on either side apart. The published code takes the spread of all margins together, which
       also holds how much records differ from each other, and takes one side's for both.
    2. A variance divides by one less than the number of shadows. With 8 on a side the paper's
       is an eighth too small.
    3. The offline score is the number of deviations above the mean, not the Gaussian's
       probability below it: the same order of records, but it does not round to 1.
    4. No deviation is below 0.001, so that shadows that all agree give a finite score.
"""

import math
from typing import Literal, NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor

from expunge.core.sides import Mode, check

Variance = Literal["auto", "record", "fixed"]

ENOUGH = 32
"""Shadows on a side from which on each record's own variance is trusted.

The paper finds a variance of each record's own better from 64 shadows on, half of which have
seen a record.
"""

LEAST = 1e-3  # of a deviation; margins are of order 1 to 10


class Gaussian(NamedTuple):
    """A Gaussian for each record.

    Attributes:
        mean: Of the margins of one side's shadows.
        deviation: Their standard deviation, of the record or of all.
    """

    mean: Float[Tensor, " n"]
    deviation: Float[Tensor, " n"]

    def log_density(self, at: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Return the logarithm of each record's density."""
        z = (at - self.mean) / self.deviation
        return -0.5 * z.square() - self.deviation.log() - 0.5 * math.log(2 * math.pi)


def fit(shadows: Float[Tensor, "s n"], chosen: Bool[Tensor, "s n"], *, by_record: bool) -> Gaussian:
    """Return the Gaussian of each record's margins in the shadows chosen for it.

    Args:
        shadows: Margin of each shadow (row) on each record (column).
        chosen: Which shadows count for which record; at least two for each.
        by_record: Whether each record has a variance of its own, or all have one.
    """
    # Products with 0 or 1, in place, are faster than a choice by mask.
    weight = chosen.to(shadows.dtype)
    count = weight.sum(0)
    mean = (shadows * weight).sum(0) / count
    squares = (shadows - mean).mul_(weight).square_().sum(0)
    if by_record:
        variance = squares / (count - 1)
    else:
        variance = (squares.sum() / (count - 1).sum()).expand_as(mean)
    return Gaussian(mean, variance.sqrt().clamp(min=LEAST))


def likelihood_ratio(
    margin: Float[Tensor, " n"],
    shadows: Float[Tensor, "s n"],
    member: Bool[Tensor, "s n"],
    *,
    mode: Mode = "online",
    variance: Variance = "auto",
) -> Float[Tensor, " n"]:
    """Return each record's score: higher is more like a member, above 0 is nearer to members.

    Args:
        margin: The target's log p - log(1 - p) of each record's true class.
        shadows: The same of each shadow (row) on each record (column).
        member: Which shadow was trained on which record; groups may differ in size.
        mode: `online` compares both sides, `offline` takes shadows that never saw the record.
        variance: `record` for each its own, `fixed` for one of all records; `auto` is `record`
            where every record has 32 shadows on each side asked for, and `fixed` elsewhere.

    Raises:
        Refused: For fewer than two shadows on a side of a record, numbers that are not
            finite, or shapes that do not fit.
    """
    least = check(margin, shadows, member, mode)
    by_record = least >= ENOUGH if variance == "auto" else variance == "record"
    margin, shadows = margin.double(), shadows.double()
    outside = fit(shadows, ~member, by_record=by_record)
    if mode == "offline":
        return (margin - outside.mean) / outside.deviation
    inside = fit(shadows, member, by_record=by_record)
    return inside.log_density(margin) - outside.log_density(margin)
