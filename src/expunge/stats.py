"""Statistics of scores: plain functions of arrays, no models."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from scipy.stats import beta
from scipy.stats import norm as gauss
from scipy.stats import t as student
from torch import Tensor

from expunge.types import Refused

Members = Float[Tensor, "*batch m"]
Scores = Float[Tensor, "*batch n"]
Summary = Callable[..., Mapping[str, Tensor]]
"""Takes one tensor per group of records, which lie along its last dimension, and returns
named numbers with what dimensions lead: so one call serves all resamples and models."""

HELD = 2**23  # numbers resampled at once, 64 MiB; memory only, not the result


class Interval(NamedTuple):
    """An estimate and, where it is known, where its truth may lie at 95 %.

    Attributes:
        value: The estimate.
        low: The lower end.
        high: The upper end.
        reach: Of an interval from few values, what `spread` gave for them, before the ends were
            cut to what is possible; None takes the interval for a Gaussian's.
        size: How many values those were.
    """

    value: float
    low: float | None = None
    high: float | None = None
    reach: float | None = None
    size: int | None = None

    @classmethod
    def share(cls, value: float, reach: float, size: int) -> "Interval":
        """Return an interval of a number in [0, 1] from few values, its ends cut to that."""
        return cls(value, max(0.0, value - reach), min(1.0, value + reach), reach, size)

    def excludes(self, value: float) -> bool:
        """Return whether an interval is known and `value` lies outside it."""
        if self.low is None or self.high is None:
            return False
        return not self.low <= value <= self.high

    def against(self, value: float) -> float | None:
        """Return the two-sided p-value of `value`: Student's where `size` is known, or Gauss's."""
        if self.reach is not None and self.size is not None:
            return beyond(value - self.value, self.reach, self.size)
        if self.low is None or self.high is None:
            return None
        width, distance = self.high - self.low, abs(self.value - value)
        if width == 0:
            return 1.0 if distance == 0 else 0.0
        return 2 * float(gauss.sf(distance / width * 2 * gauss.ppf(0.975)))

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def auc(members: Members, nonmembers: Scores) -> Float[Tensor, "*batch"]:
    """Return the probability that a member outscores a non-member; ties count half."""
    ordered, members = nonmembers.sort().values, members.contiguous()
    below = torch.searchsorted(ordered, members, right=False)
    not_above = torch.searchsorted(ordered, members, right=True)
    return (below + not_above).double().mean(-1) / (2 * nonmembers.shape[-1])


def placements(
    members: Float[Tensor, " m"], nonmembers: Float[Tensor, " n"]
) -> tuple[Float[Tensor, " m"], Float[Tensor, " n"]]:
    """Return which share of the other group each record lies on the right side of.

    A member lies right above a non-member; ties count half. The mean of either is the AUC.
    """

    def below(scores: Tensor, others: Tensor) -> Tensor:
        ordered, scores = others.sort().values, scores.contiguous()
        under = torch.searchsorted(ordered, scores, right=False)
        not_above = torch.searchsorted(ordered, scores, right=True)
        return (under + not_above).double() / (2 * len(others))

    return below(members, nonmembers), 1 - below(nonmembers, members)


def delong(first: Sequence[Tensor], others: Sequence[Sequence[Tensor]]) -> float:
    """Return the two-sided p-value of one AUC against the mean of others on the same records.

    DeLong, DeLong and Clarke-Pearson, "Comparing the Areas under Two or More Correlated
    Receiver Operating Characteristic Curves", Biometrics 1988, with the placements of Sun and
    Xu, "Fast Implementation of DeLong's Algorithm", 2014. It takes the models as given: what
    chance in their training makes of them is not in it.

    Args:
        first: Scores of members, and of non-members.
        others: The same records' scores by other models, in the same order.
    """
    own, *rest = (placements(inside, outside) for inside, outside in (first, *others))
    means = [torch.stack(group).mean(0) for group in zip(*rest, strict=True)]
    differences = [a - b for a, b in zip(own, means, strict=True)]
    difference = float(differences[0].mean())
    variance = sum(float(d.var()) / len(d) for d in differences)
    if variance == 0:
        return 1.0 if difference == 0 else 0.0
    return 2 * float(gauss.sf(abs(difference) / math.sqrt(variance)))


def auc_by_chance(sizes: Sequence[tuple[int, int]]) -> Interval:
    """Return where the mean AUC of a score that knows nothing lies, at 95 %.

    The variance of Mann and Whitney's U, for independent groups without ties.

    Args:
        sizes: Members and non-members in each group whose AUCs are averaged.
    """
    variance = sum((m + n + 1) / (12 * m * n) for m, n in sizes) / len(sizes) ** 2
    reach = float(gauss.ppf(0.975)) * math.sqrt(variance)
    return Interval(0.5, max(0.0, 0.5 - reach), min(1.0, 0.5 + reach))


def tpr_at(members: Members, nonmembers: Scores, fpr: float) -> Float[Tensor, "*batch"]:
    """Return the fraction of members found while at most `fpr` of the rest are."""
    allowed = int(fpr * nonmembers.shape[-1])
    threshold = nonmembers.sort(descending=True).values[..., allowed, None]
    return (members > threshold).double().mean(-1)


def roc(
    members: Float[Tensor, " m"], nonmembers: Float[Tensor, " n"], points: int = 200
) -> tuple[Tensor, Tensor]:
    """Return false and true positive rates, thinned to about `points`, ends included.

    The points kept are even on a log scale of the false positive rate, where the
    attacks that matter live.
    """
    thresholds = torch.cat([members, nonmembers]).unique().flip(0)

    def rate(scores: Tensor) -> Tensor:
        found = len(scores) - torch.searchsorted(scores.sort().values, thresholds, right=False)
        return torch.cat([torch.zeros(1, dtype=torch.double), found.double() / len(scores)])

    fpr, tpr = rate(nonmembers), rate(members)
    floor = 0.5 / len(nonmembers)
    wanted = torch.logspace(math.log10(floor), 0, points, dtype=torch.double)
    kept = torch.searchsorted(fpr, wanted, right=True).sub(1).clamp(min=0)
    ends = torch.tensor([0, len(fpr) - 1])
    rows = torch.cat([ends, kept]).unique()
    return fpr[rows], tpr[rows]


def youden(members: Float[Tensor, " m"], nonmembers: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """Return the threshold at or above which calling records members is right most often.

    Each group counts alike. Of equally good thresholds it is the highest.
    """
    thresholds = torch.cat([members, nonmembers]).unique().flip(0)

    def rate(scores: Tensor) -> Tensor:
        below = torch.searchsorted(scores.sort().values, thresholds, right=False)
        return 1 - below.double() / len(scores)

    return thresholds[(rate(members) - rate(nonmembers)).argmax()]


def balanced_accuracy(
    members: Float[Tensor, " m"], nonmembers: Float[Tensor, " n"]
) -> Float[Tensor, ""]:
    """Return how often records are told right, each group counting alike; chance is 0.5.

    Two-fold: the threshold for every second record is chosen on the others.

    Raises:
        Refused: For fewer than two records in a group.
    """
    if min(len(members), len(nonmembers)) < 2:
        raise Refused(
            "expected at least 2 members and 2 non-members, so that a threshold is chosen on "
            f"others than it is tried on; got {len(members)} and {len(nonmembers)}"
        )
    right = torch.zeros(2, dtype=torch.double)
    for fold in range(2):
        at = youden(members[1 - fold :: 2], nonmembers[1 - fold :: 2])
        right[0] += (members[fold::2] >= at).sum() / len(members)
        right[1] += (nonmembers[fold::2] < at).sum() / len(nonmembers)
    return right.mean()


def average(values: Scores) -> dict[str, Tensor]:
    """Summarise one score per record."""
    return {"mean": values.double().mean(-1)}


def proportion(successes: int, trials: int) -> Interval:
    """Return a proportion with Clopper and Pearson's exact 95 % interval."""
    low = float(beta.ppf(0.025, successes, trials - successes + 1)) if successes else 0.0
    high = float(beta.ppf(0.975, successes + 1, trials - successes)) if successes < trials else 1.0
    return Interval(successes / trials, low, high)


def spread(values: Sequence[float]) -> float | None:
    """Return how far one more value may lie from the mean of these, at 95 %.

    Student's prediction interval: few values make it wide, as they should. None for
    fewer than two.
    """
    n = len(values)
    if n < 2:
        return None
    deviation = float(torch.tensor(values, dtype=torch.double).std())
    return float(student.ppf(0.975, n - 1)) * deviation * math.sqrt(1 + 1 / n)


def beyond(distance: float, reach: float, count: int) -> float:
    """Return the two-sided p-value of a distance from the mean of `count` values.

    Args:
        distance: Of one more value.
        reach: What `spread` gave for them: what 5 % exceed.
        count: At least two.
    """
    if reach == 0:
        return 1.0 if distance == 0 else 0.0
    edge = float(student.ppf(0.975, count - 1))
    return 2 * float(student.sf(abs(distance) / reach * edge, count - 1))


def holm(p: Sequence[float], level: float = 0.05) -> list[bool]:
    """Return which hypotheses are rejected, so that by chance any is at `level` at most.

    Holm, "A Simple Sequentially Rejective Multiple Test Procedure", 1979; it holds however the
    tests depend on each other.
    """
    rejected = [False] * len(p)
    for rank, place in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        if p[place] > level / (len(p) - rank):
            break
        rejected[place] = True
    return rejected


def bootstrap(
    summary: Summary, groups: Sequence[Tensor], *, draws: int = 300, level: float = 0.95
) -> dict[str, Interval]:
    """Return each value of `summary(*groups)` with its percentile interval over records.

    Args:
        summary: Takes one tensor per group, returns named values.
        groups: Records lie along the last dimension and are drawn anew within each
            group; leading dimensions share the draw, which pairs models.
        draws: Resamples; the interval's ends rest on about `draws * (1 - level) / 2`.
        level: Coverage, in (0, 1).
    """
    rng = torch.Generator().manual_seed(0)  # an estimate should not depend on a seed
    values = {name: float(value) for name, value in summary(*groups).items()}
    at_once = max(1, HELD // max(group.numel() for group in groups))
    parts: list[Mapping[str, Tensor]] = []
    for start in range(0, draws, at_once):
        count = min(at_once, draws - start)
        parts.append(summary(*(_again(group, count, rng) for group in groups)))
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.double)
    intervals = {}
    for name, value in values.items():
        # A rate is not a number in a resample without what it is a rate of.
        low, high = torch.cat([p[name] for p in parts]).double().nanquantile(tails).tolist()
        intervals[name] = Interval(value, low, high)
    return intervals


def _again(group: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """Draw the records anew, `count` times, along a new dimension before the last."""
    n = group.shape[-1]
    return group[..., torch.randint(n, (count, n), generator=rng)]


def confusion(
    said: Int[Tensor, " n"], y: Int[Tensor, " n"], classes: int
) -> Int[Tensor, "classes classes"]:
    """Return how many records of each class (row) were said to be of each (column)."""
    return torch.bincount(y * classes + said, minlength=classes**2).reshape(classes, classes)


def by_class(matrix: Int[Tensor, "classes classes"]) -> Tensor:
    """Return each class's accuracy; NaN where it has no records."""
    return matrix.diag().double() / matrix.sum(1).double()
