"""A number from several runs, and where its truth may lie."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev, variance
from typing import Any, Literal

from scipy.special import stdtrit

from expunge.stats import proportion

Basis = Literal["seeds", "models", "records", "none"]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean and its 95 % interval.

    Attributes:
        value: The mean.
        low: The interval's lower end; None where there is no interval.
        high: Its upper end.
        basis: What varied: seeds or retrained models (Student's t), or the records of one
            run (bootstrap). Of retrained models that several seeds share, seeds vary too.
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
    return _within(fmean(values), _reach(values), basis, len(values))


def _reach(values: Sequence[float]) -> float:
    """Return how far Student's t interval reaches; 0 where there is none."""
    n = len(values)
    if n < 2 or len(set(values)) == 1:
        return 0.0
    return float(stdtrit(n - 1, 0.975)) * stdev(values) / math.sqrt(n)


def _within(value: float, reach: float, basis: Basis, n: int) -> Estimate:
    if not reach:
        return Estimate(value=value, n=n)
    return Estimate(value=value, low=value - reach, high=value + reach, basis=basis, n=n)


def over_models(told: Sequence[Mapping[int, float]]) -> Estimate | None:
    """Return the mean of retrained models' numbers and its interval; None where none has any.

    Where no model is asked under several seeds, those of a seed belong together, and seeds vary.
    Models that seeds share stay as few as they are: over their means and over the seeds' means
    are two intervals of Student's t, whose reaches are added in quadrature (Banerjee, Sankhya
    22, 1960). It covers at least 95 %.

    Args:
        told: For each model, its number under each seed.
    """
    models = [each for each in told if each]
    if not models:
        return None
    every = dict.fromkeys(seed for each in models for seed in each)
    seeds = [fmean([each[seed] for each in models if seed in each]) for seed in every]
    if all(len(each) == 1 for each in models) and _reach(seeds):
        return student(seeds, "seeds")
    means = [fmean(each.values()) for each in models]
    reach = math.hypot(_reach(means), _reach(seeds))
    return _within(fmean(means), reach, "models" if _reach(means) else "seeds", len(means))


def welch(first: Sequence[float], others: Sequence[float], basis: Basis) -> Estimate:
    """Return how much more the mean of a sample is than that of another, and Welch's interval.

    A sample of one number tells no spread and counts as known.
    """
    spreads = [(variance(s) / len(s), len(s) - 1) for s in (first, others) if len(s) > 1]
    total, reach = sum(spread for spread, _ in spreads), 0.0
    if total:
        freedom = 1 / sum((spread / total) ** 2 / degrees for spread, degrees in spreads)
        reach = float(stdtrit(freedom, 0.975)) * math.sqrt(total)
    return _within(fmean(first) - fmean(others), reach, basis, len(first) + len(others))


def counted(right: int, of: int, n: int = 1) -> Estimate:
    """Return a share of records with Clopper and Pearson's interval."""
    value, low, high, *_ = proportion(right, of)
    return Estimate(value=value, low=low, high=high, basis="records", n=n)


def fraction(estimate: Estimate) -> Estimate:
    """Cut the interval of a number that lies in [0, 1]."""
    if estimate.low is None or estimate.high is None:
        return estimate
    return replace(estimate, low=max(0.0, estimate.low), high=min(1.0, estimate.high))


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
    return _or_records(student([value for value, _ in told], basis), told[0][1], name)


def models_answer(models: Sequence[Mapping[int, Mapping[str, Any]]], name: str) -> Estimate | None:
    """Return what answers about retrained models say on average: by `over_models`, or records.

    Args:
        models: The answers about each model, by seed.
        name: Of the value.
    """
    known = [
        {
            seed: (v, a)
            for seed, a in each.items()
            if (v := number(a["values"].get(name))) is not None
        }
        for each in models
    ]
    estimate = over_models([{seed: v for seed, (v, _) in each.items()} for each in known])
    if estimate is None:
        return None
    first = next(answer for each in known for _, answer in each.values())
    return _or_records(estimate, first, name)


def _or_records(estimate: Estimate, answer: Mapping[str, Any], name: str) -> Estimate:
    """Return the estimate, with the interval over an answer's records where it has none."""
    if estimate.low is not None:
        return estimate
    return bootstrapped(estimate.value, answer["intervals"].get(name), estimate.n)
