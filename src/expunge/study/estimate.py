"""A number from several runs, and where its truth may lie."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, Literal

from scipy.special import stdtrit

Basis = Literal["seeds", "models", "records", "none"]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean and its 95 % interval.

    Attributes:
        value: The mean.
        low: The interval's lower end; None where there is no interval.
        high: Its upper end.
        basis: What varied: seeds or retrained models (Student's t), or the records of one
            run (bootstrap).
        n: How many numbers were averaged.
    """

    value: float
    low: float | None = None
    high: float | None = None
    basis: Basis = "none"
    n: int = 1


def number(value: object) -> float | None:
    """Return a finite number, or None for whatever else a record may hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def student(values: Sequence[float], basis: Basis) -> Estimate:
    """Return the mean and Student's t interval, mean ± t(0.975, n - 1) s / √n.

    Equal values, as of one model asked under several seeds, say nothing of a spread and
    give no interval.
    """
    n, mean = len(values), fmean(values)
    if n < 2 or len(set(values)) == 1:
        return Estimate(value=mean, n=n)
    reach = float(stdtrit(n - 1, 0.975)) * stdev(values) / math.sqrt(n)
    return Estimate(value=mean, low=mean - reach, high=mean + reach, basis=basis, n=n)


def bootstrapped(value: float, ends: Sequence[Any] | None, n: int = 1) -> Estimate:
    """Return a value with the interval over records that the run itself computed."""
    low, high = (number(end) for end in ends or (None, None))
    if low is None or high is None:
        return Estimate(value=value, n=n)
    return Estimate(value=value, low=low, high=high, basis="records", n=n)


def mean_answer(answers: Sequence[Mapping[str, Any]], name: str, basis: Basis) -> Estimate | None:
    """Return what answers say on average: over them, or over records where they agree."""
    told = [(v, a) for a in answers if (v := number(a["values"].get(name))) is not None]
    if not told:
        return None
    values = [value for value, _ in told]
    estimate = student(values, basis)
    if estimate.low is not None:
        return estimate
    return bootstrapped(estimate.value, told[0][1]["intervals"].get(name), len(values))
