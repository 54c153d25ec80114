"""Statements about a few numbers, tested: for them, and for their contrary.

* "More", "less": Student's t test of a mean, one-sided.
* "About equal": two one-sided t tests against a margin (Schuirmann, "A Comparison of the Two
  One-Sided Tests Procedure and the Power Approach", Journal of Pharmacokinetics and
  Biopharmaceutics 1987). Its contrary is that the mean lies beyond the margin.
* "Varies more": Pitman and Morgan's test of two paired samples (Pitman, "A Note on Normal
  Correlation", Biometrika 1939).

Several statements are corrected together by Holm's method ("A Simple Sequentially Rejective
Multiple Test Procedure", Scandinavian Journal of Statistics 1979), and their contraries
likewise: each at 5 % for the whole family.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev, variance
from typing import Literal

from scipy.special import stdtr, stdtrit

Verdict = Literal["holds", "does not hold", "cannot be resolved"]
Side = Literal["more", "less"]

LEVEL = 0.05


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One testable part of a claim.

    Attributes:
        what: It, in words.
        test: Which test was used.
        n: Over how many repetitions, or methods.
        value: The mean that was tested.
        low: Lower end of its 95 % interval, before any correction; None where there is none.
        high: Upper end.
        p: Probability, were it not so, of a result that speaks as clearly for it.
        contrary: The same for its contrary.
        verdict: After Holm's correction within the claim.
        missing: Why there is no test, where there is none.
    """

    what: str
    test: str
    n: int = 0
    value: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    contrary: float | None = None
    verdict: Verdict = "cannot be resolved"
    missing: str = ""


def above(what: str, values: Sequence[float], than: float = 0.0, side: Side = "more") -> Statement:
    """Test whether a mean is more (or less) than a number: Student's t, one-sided."""
    test = "one-sided t test"
    n = len(values)
    if (gone := untestable(values)) is not None:
        return Statement(
            what=what, test=test, n=n, value=fmean(values) if n else None, missing=gone
        )
    error = stdev(values) / math.sqrt(n)
    p = float(stdtr(n - 1, -(fmean(values) - than) / error))
    p = p if side == "more" else 1 - p
    low, high = _interval(values)
    return Statement(
        what=what, test=test, n=n, value=fmean(values), low=low, high=high, p=p, contrary=1 - p
    )


def about(
    what: str, values: Sequence[float], margin: float | None, ideal: float = 0.0
) -> Statement:
    """Test whether a mean is within a margin of a number: two one-sided t tests.

    Its contrary, that the mean is beyond the margin on one side or the other, is tested on both
    sides and pays for it twice.
    """
    test, n = "two one-sided t tests", len(values)
    gone = untestable(values)
    if margin is None:
        gone = "too few retrained models to say what chance makes"
    if gone is not None or margin is None:
        known = fmean(values) if n else None
        return Statement(what=what, test=test, n=n, value=known, missing=gone or "")
    error = stdev(values) / math.sqrt(n)

    def below(bound: float) -> float:
        return float(stdtr(n - 1, (fmean(values) - bound) / error))

    low, high = _interval(values)
    return Statement(
        what=f"{what} (margin {margin:.3g})",
        test=test,
        n=n,
        value=fmean(values),
        low=low,
        high=high,
        p=max(below(ideal + margin), 1 - below(ideal - margin)),
        contrary=min(1.0, 2 * min(1 - below(ideal + margin), below(ideal - margin))),
    )


def varies_more(what: str, wide: Sequence[float], narrow: Sequence[float]) -> Statement:
    """Test whether one of two paired samples has the larger variance: Pitman and Morgan.

    The variances differ where the pairs' sums and differences are correlated.
    """
    test, n = "Pitman-Morgan test", len(wide)
    few = f"{n} repetition{'s are' if n > 1 else ' is'} too few; it takes 3" if n < 3 else None
    gone = few if n else "not run"
    gone = gone or agree(wide) or agree(narrow)
    if gone:
        return Statement(what=what, test=test, n=n, missing=gone)
    ratio = math.log(variance(wide) / variance(narrow))
    sums = [a + b for a, b in zip(wide, narrow, strict=True)]
    differences = [a - b for a, b in zip(wide, narrow, strict=True)]
    r = _correlation(sums, differences)
    t = math.copysign(math.inf, r) if abs(r) >= 1 else r * math.sqrt((n - 2) / (1 - r * r))
    p = float(stdtr(n - 2, -t)) if math.isfinite(t) else float(t < 0)
    return Statement(what=what, test=test, n=n, value=ratio, p=p, contrary=1 - p)


def _correlation(x: Sequence[float], y: Sequence[float]) -> float:
    mx, my = fmean(x), fmean(y)
    xy = sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True))
    xx, yy = sum((a - mx) ** 2 for a in x), sum((b - my) ** 2 for b in y)
    return xy / math.sqrt(xx * yy) if xx and yy else 0.0


def _interval(values: Sequence[float]) -> tuple[float, float]:
    reach = float(stdtrit(len(values) - 1, 0.975)) * stdev(values) / math.sqrt(len(values))
    return fmean(values) - reach, fmean(values) + reach


def untestable(values: Sequence[float]) -> str | None:
    """Return why a mean cannot be tested, if it cannot."""
    if not values:
        return "not run"
    if len(values) < 2:
        return "1 repetition is too few; it takes 2"
    return agree(values)


def agree(values: Sequence[float]) -> str | None:
    """Return what is wrong with numbers that are all the same, if they are."""
    if max(values) - min(values) <= 1e-12 * max(1.0, *map(abs, values)):
        return "all repetitions agree, which says nothing of their spread"
    return None


def holm(ps: Sequence[float | None], level: float = LEVEL) -> list[bool]:
    """Return which hypotheses are rejected at a level for all together, by Holm's method.

    What could not be tested counts among them, and is not rejected.
    """
    known = [math.inf if p is None else p for p in ps]
    rejected = [False] * len(known)
    for rank, place in enumerate(sorted(range(len(known)), key=known.__getitem__)):
        if known[place] > level / (len(known) - rank):
            break
        rejected[place] = True
    return rejected


def decided(statements: Iterable[Statement]) -> list[Statement]:
    """Return the statements with their verdicts, after correction."""
    statements = list(statements)
    yes = holm([s.p for s in statements])
    no = holm([s.contrary for s in statements])
    verdicts: list[Verdict] = [
        "holds" if y else "does not hold" if n else "cannot be resolved"
        for y, n in zip(yes, no, strict=True)
    ]
    return [replace(s, verdict=v) for s, v in zip(statements, verdicts, strict=True)]


def all_hold(statements: Sequence[Statement]) -> Verdict:
    """Return the verdict of a claim that says every one of these things."""
    verdicts = [s.verdict for s in statements]
    if "does not hold" in verdicts:
        return "does not hold"
    return "holds" if verdicts and set(verdicts) == {"holds"} else "cannot be resolved"


def most_hold(statements: Sequence[Statement]) -> Verdict:
    """Return the verdict of a claim that says more than half of these things."""
    verdicts = [s.verdict for s in statements]
    if 2 * verdicts.count("holds") > len(verdicts):
        return "holds"
    if 2 * verdicts.count("does not hold") >= len(verdicts) > 0:
        return "does not hold"
    return "cannot be resolved"
