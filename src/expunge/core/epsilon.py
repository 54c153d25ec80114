"""How well an observer tells unlearned from retrained models, record by record.

The score of the NeurIPS 2023 Machine Unlearning Challenge: Triantafillou et al., "Are we making
progress in unlearning? Findings from the first NeurIPS unlearning competition", 2024,
https://arxiv.org/abs/2406.09073; defined in the organisers' "Evaluation for the NeurIPS Machine
Unlearning Competition", 2023,
https://unlearning-challenge.github.io/assets/data/Machine_Unlearning_Metric.pdf

For each forgotten record there are two samples of confidences: of models that unlearned it, and
of models retrained without it. Many simple rules guess from which of both a confidence comes. A
rule's error rates say how large epsilon must be at least; the largest over all rules counts.
"""

import logging
import math
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.stats import beta
from torch import Tensor

LOG = logging.getLogger(__name__)

Mode = Literal["challenge", "bounded"]
COLLAPSED = 0.01  # one sample's range as a share of the other's, below which it has collapsed
TINY = math.log(1e-45)  # probabilities are raised by 1e-45 before their logarithm is taken
LEVEL = 0.975  # of each of two bounds, so that both hold at 95 %

Numbers = NDArray[np.float64]


class Quality(NamedTuple):
    """What observers can tell.

    Attributes:
        score: Mean over records of what each contributes: 1 at epsilon 0, halved with every
            bin, 0 beyond what so many models can show. The challenge's F.
        parts: What each record contributes.
        epsilon: The largest epsilon that a rule found, per record.
    """

    score: float
    parts: Float[Tensor, " s"]
    epsilon: Float[Tensor, " s"]


def floored(confidence: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Return log(p + 1e-45) - log(1 - p + 1e-45) of confidences log p - log(1 - p)."""
    c = confidence.double()
    sure, unsure = -torch.nn.functional.softplus(-c), -torch.nn.functional.softplus(c)
    tiny = torch.full_like(c, TINY)
    return torch.logaddexp(sure, tiny) - torch.logaddexp(unsure, tiny)


def forgetting_quality(
    unlearned: Float[Tensor, "n s"],
    retrained: Float[Tensor, "m s"],
    *,
    delta: float = 1e-5,
    bin_width: float = 0.5,
    grid: int = 100,
    buffer: float = 2.0,
    cap: float = 50.0,
    mode: Mode = "challenge",
) -> Quality:
    """Return how like retraining the unlearned models' answers are on every record.

    Even of models that are all retrained the score is about 0.2, not 1: rates of a few counts
    are taken at their word, and the best of some 160,000 rules is. So compare it with the score
    of retrained against further retrained models.

    Args:
        unlearned: Confidence of each model (row) on each record (column).
        retrained: The same of models that never saw the records.
        delta: Of (epsilon, delta)-closeness.
        bin_width: Of epsilon; each bin counts half of the one below.
        grid: Thresholds, and ends of intervals, per unit of confidence.
        buffer: How far beyond the narrower sample's ends intervals are tried.
        cap: Epsilon where a rule makes no error, or where one sample has collapsed: its range
            is below a hundredth of the other's, or both are constant.
        mode: `challenge` takes error rates as they are found, and passes over rules of which
            just one is 0. `bounded` takes Clopper and Pearson's upper bounds of both at 97.5 %,
            which for any one rule together hold at 95 %; the best of many rules is still
            chosen on the same models.

    Raises:
        ValueError: For fewer than two models on a side, or numbers that are not finite.
    """
    _check(unlearned, retrained)
    u, r = (np.sort(part.double().cpu().numpy(), axis=0) for part in (unlearned, retrained))
    table = _table(len(u), len(r), delta, cap, mode)
    found = np.array(
        [_epsilon(u[:, s], r[:, s], table, grid, buffer, cap) for s in range(u.shape[1])]
    )
    silent = int((found < 0).sum())
    if silent:
        LOG.warning(
            "of %d records %d have no rule that errs on both sides or on none; their epsilon is "
            "taken as 0, so take more than %d and %d models",
            *(len(found), silent, len(u), len(r)),
        )
    epsilon = torch.from_numpy(found.clip(0, cap))
    parts = _parts(epsilon, bin_width, max(len(u), len(r)))
    return Quality(float(parts.mean()), parts, epsilon)


def _check(unlearned: Tensor, retrained: Tensor) -> None:
    for name, part in (("unlearned", unlearned), ("retrained", retrained)):
        if len(part) < 2 or part.shape[1] < 1:
            raise ValueError(
                f"expected confidences of at least 2 {name} models on at least 1 record, got "
                f"{len(part)} on {part.shape[1]}; one model shows no distribution"
            )
        if not bool(part.isfinite().all()):
            raise ValueError(
                f"{int((~part.isfinite()).sum())} confidences of {name} models are not finite; "
                "leave such models out, or take `floored` confidences"
            )


def _parts(epsilon: Tensor, bin_width: float, models: int) -> Tensor:
    """Return 1 for the first bin and half as much for each further one, up to the last.

    A finite epsilon cannot exceed log(models - 1).
    """
    last = max(math.ceil(math.log(models - 1)), bin_width)
    parts = 0.5 ** (epsilon / bin_width).floor()
    return parts.where(epsilon < last, torch.zeros_like(parts))


def _table(unlearned: int, retrained: int, delta: float, cap: float, mode: Mode) -> Numbers:
    """Return epsilon by the number of errors on each side; -1 where a rule is passed over."""
    u, r = _rates(unlearned, mode)[:, None], _rates(retrained, mode)[None, :]
    with np.errstate(divide="ignore", invalid="ignore"):
        # A rate above 1 - delta has no logarithm; the other side's then stands alone.
        epsilon = np.fmax(np.log((1 - delta - r) / u), np.log((1 - delta - u) / r))
    epsilon = np.nan_to_num(epsilon, nan=0.0, posinf=cap).clip(0, cap)
    epsilon[(u == 0) != (r == 0)] = -1
    return epsilon


def _rates(models: int, mode: Mode) -> Numbers:
    """Return the error rate that 0, 1, ... errors among so many models stand for."""
    errors = np.arange(models + 1)
    if mode == "challenge":
        return errors / models
    upper = np.ones(models + 1)
    upper[:-1] = beta.ppf(LEVEL, errors[:-1] + 1, models - errors[:-1])
    return upper


def _epsilon(u: Numbers, r: Numbers, table: Numbers, grid: int, buffer: float, cap: float) -> float:
    """Return the largest epsilon of any rule for one record; -1 where all are passed over.

    Args:
        u: Unlearned models' confidences, sorted.
        r: Retrained models' confidences, sorted.
        table: What `_table` returned for as many models.
        grid: As `forgetting_quality` has it.
        buffer: As `forgetting_quality` has it.
        cap: As `forgetting_quality` has it.
    """
    ranges = u[-1] - u[0], r[-1] - r[0]
    if max(ranges) == 0 or min(ranges) < COLLAPSED * max(ranges):
        return cap
    low, high = min(u[0], r[0]), max(u[-1], r[-1])
    above = np.linspace(low, high, math.ceil(grid * (high - low)))
    wrong_u, wrong_r = u.searchsorted(above), r.searchsorted(above)
    if np.median(u) > np.median(r):
        best = table[wrong_u, len(r) - wrong_r].max()
    else:
        best = table[len(u) - wrong_u, wrong_r].max()
    narrow = u if ranges[0] < ranges[1] else r
    inside_u, inside_r = (_inside(sample, narrow, grid, buffer) for sample in (u, r))
    rows, columns = (len(u) - inside_u, inside_r) if narrow is u else (inside_u, len(r) - inside_r)
    return float(max(best, table.ravel().take(rows * table.shape[1] + columns).max()))


def _inside(
    sample: Numbers, narrow: Numbers, grid: int, buffer: float
) -> Int[np.ndarray, "ends ends"]:
    """Return how many of a sorted sample lie in each interval, ends included.

    Right ends are spread evenly around the narrow sample's largest number; left ends, for each
    right end, around what is the narrow sample's range to its left. So the left ends of all
    are numbers of one ladder, of which each has its own stretch, and are looked up once.
    """
    ends = math.ceil(2 * grid * buffer)
    rung = np.arange(1 - ends, ends) * (buffer / (ends - 1))
    upper = sample.searchsorted(narrow[-1] + rung[::2], side="right")
    below = sample.searchsorted(narrow[0] + 2 * rung)
    return np.maximum(upper[:, None] - sliding_window_view(below, ends), 0)
