"""What records of residuals hold in arrays, made into numbers to draw."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from expunge.audits.reminiscence_class import FPR
from expunge.core.relearn import threshold
from expunge.study.residuals import Attack
from expunge.study.rows import Row
from expunge.study.summary import Answer, answers

BINS = 30
Numbers = list[float]


class Course(NamedTuple):
    """How a class is learned, step by step.

    Attributes:
        forgotten: Share of the candidates told, mean over trials and models.
        low: The lowest mean of any never-trained class.
        high: The highest.
        lowest: The lowest 5 % quantile of any never-trained class's trials.
        highest: The highest 95 % quantile.
    """

    forgotten: Numbers
    low: Numbers
    high: Numbers
    lowest: Numbers
    highest: Numbers


class Decision(NamedTuple):
    """Scores of the trials, in bins, and where the decision falls.

    Attributes:
        edges: Of the bins, one more than there are.
        members: Share of the trials on the forgotten class in each bin.
        others: The same of classes never trained on.
        thresholds: Of each model.
    """

    edges: Numbers
    members: Numbers
    others: Numbers
    thresholds: Numbers


class Recovered(NamedTuple):
    """How a generative model learns a class again, round by round; the first is before any.

    Attributes:
        mean: Over models.
        low: The least of any class never trained on, taught alike; empty where there are none.
        high: The most.
    """

    mean: Numbers
    low: Numbers
    high: Numbers


def _kept(row: Row | None, label: str, name: str) -> list[tuple[Answer, np.ndarray]]:
    """Return each of the row's answers that has the array, with it."""
    told = answers(row, label) if row else []
    found = [(a, a["arrays"].get(name)) for a in told]
    return [(a, np.array(array, dtype=float)) for a, array in found if array]


def _short(values: np.ndarray) -> Numbers:
    return [float(f"{value:.4g}") for value in values]


def _even(arrays: Sequence[np.ndarray]) -> Float[np.ndarray, "models *classes steps"]:
    """Return courses of one length: of those that are longer, as much as all have."""
    steps = min(array.shape[-1] for array in arrays)
    return np.stack([array[..., :steps] for array in arrays])


def course(row: Row | None, attack: Attack) -> Course | None:
    """Return how a row's models learn the forgotten class, and classes never trained on."""
    names = ("trajectories", "trajectories_low", "trajectories_high")
    mean, low, high = ([array for _, array in _kept(row, attack.label, name)] for name in names)
    if not mean:
        return None
    mean, low, high = _even(mean), _even(low or mean), _even(high or mean)
    return Course(
        _short(mean[:, 0].mean(0)),
        *(
            _short(part)
            for part in (
                mean[:, 1:].min((0, 1)),
                mean[:, 1:].max((0, 1)),
                low[:, 1:].min((0, 1)),
                high[:, 1:].max((0, 1)),
            )
        ),
    )


def cut(scores: np.ndarray) -> float:
    """Return the score above which a trial is said to be on a member.

    Args:
        scores: Of each class's trials, those on the forgotten class first.
    """
    return max(float(threshold(torch.tensor(one), FPR)) for one in scores[1:])


def _judged(row: Row | None, attack: Attack) -> list[np.ndarray]:
    """Return the scores of each of a row's models: of members, then of each class unseen."""
    return [scores for _, scores in _kept(row, attack.label, "scores") if len(scores) > 1]


def edges(rows: Sequence[Row], attack: Attack, bins: int = BINS) -> Numbers:
    """Return whole steps as the edges of bins that hold every row's trials; empty for none."""
    told = [scores for row in rows for scores in _judged(row, attack)]
    if not told:
        return []
    low = min(int(np.floor(scores.min())) for scores in told)
    high = max(int(np.floor(scores.max())) + 1 for scores in told)
    wide = math.ceil((high - low) / bins)
    return [float(edge) for edge in range(low, high + wide, wide)]


def decision(row: Row | None, attack: Attack, within: Sequence[float]) -> Decision | None:
    """Return the histograms of a row's trials, over all its models.

    Args:
        row: Whose models.
        attack: On a class.
        within: Edges of the bins, from `edges`.
    """
    found = _judged(row, attack)
    if not found:
        return None
    members = np.concatenate([scores[0] for scores in found])
    others = np.concatenate([scores[1:].ravel() for scores in found])
    return Decision(
        edges=list(within),
        members=_short(np.histogram(members, within)[0] / len(members)),
        others=_short(np.histogram(others, within)[0] / len(others)),
        thresholds=sorted(cut(scores) for scores in found),
    )


def recovered(row: Row | None, label: str, what: str) -> Recovered | None:
    """Return how soon a row's models draw a class again.

    Args:
        row: Whose models.
        label: Of the audit.
        what: `recognised`, the share of samples, or `loss`.
    """
    told = [array for _, array in _kept(row, label, f"{what}_by_round")]
    if not told:
        return None
    unseen = [array for _, array in _kept(row, label, f"{what}_unseen_by_round")]
    others = _even(unseen) if unseen else None
    return Recovered(
        _short(_even(told).mean(0)),
        [] if others is None else _short(others.min((0, 1))),
        [] if others is None else _short(others.max((0, 1))),
    )


def samples(row: Row | None, label: str) -> Mapping[str, Any]:
    """Return samples `before` and `after` the attack, of the first model that kept any."""
    for answer in answers(row, label) if row else ():
        arrays = answer["arrays"]
        if arrays.get("samples_before"):
            return {when: arrays.get(f"samples_{when}") for when in ("before", "after")}
    return {}
