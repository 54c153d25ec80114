"""Attackers that learn what members look like; none judges a record that it has seen."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import Tensor

from expunge.types import Refused

Judge = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Takes features of records, which of them are members, and features of others; returns what
it says of the others, one row each."""

Kind = Literal["logistic_regression", "svc", "random_forest"]


class Judged(NamedTuple):
    """What was said of each record by an attacker that had not seen it.

    Attributes:
        said: One row per record.
        fold: Number of the fold that the record was judged in.
    """

    said: Float[Tensor, "n said"]
    fold: Int[Tensor, " n"]


def crossfit(
    features: Float[Tensor, "n features"],
    member: Bool[Tensor, " n"],
    judge: Judge,
    folds: int,
    seed: int,
) -> Judged:
    """Judge the records of each fold by an attacker that knows the other folds.

    Args:
        features: What the attacker sees of each record.
        member: Which records are members; each fold has its share of them.
        judge: Fits an attacker and asks it.
        folds: At least two.
        seed: Deals the records out.

    Raises:
        Refused: For features that are not finite, and for fewer members, or others, than
            there are folds.
    """
    if not bool(features.isfinite().all()):
        count = int((~features.isfinite()).any(1).sum())
        raise Refused(
            f"{count} of {len(features)} records have features that are not finite; the model's "
            "answers are probably not: it diverged, and should be trained or unlearned anew"
        )
    sides = int(member.sum()), int((~member).sum())
    if min(sides) < folds:
        raise Refused(
            f"expected at least {folds} members and {folds} others, one for each fold, got "
            f"{sides[0]} and {sides[1]}; lower `folds` or give more records"
        )
    x, y = np.asarray(features.double()), np.asarray(member)
    parts, rows, fold = [], [], np.empty(len(y), dtype=int)
    split = StratifiedKFold(folds, shuffle=True, random_state=seed % 2**32)
    for number, (known, asked) in enumerate(split.split(x, y)):
        parts.append(np.asarray(judge(x[known], y[known], x[asked])).reshape(len(asked), -1))
        rows.append(asked)
        fold[asked] = number
    said = np.empty((len(y), parts[0].shape[1]))
    said[np.concatenate(rows)] = np.concatenate(parts)
    return Judged(torch.tensor(said), torch.tensor(fold))


class Attacker(NamedTuple):
    """A fitted attacker.

    Attributes:
        score: Takes features, returns one score each; more is more like a member.
        threshold: Above it a record is said to be a member.
    """

    score: Callable[[np.ndarray], np.ndarray]
    threshold: float


def fit(
    kind: Kind, features: np.ndarray, member: np.ndarray, *, standardized: bool, seed: int
) -> Attacker:
    """Fit an attacker; members and others weigh alike however many there are of each.

    The support vector machine is that of the Unlearn-Sparse code: radial, C = 3, gamma = 1 over
    the number of features.

    Args:
        kind: What is fitted.
        features: One row per record.
        member: Which of them are members.
        standardized: Whether every feature first gets mean 0 and variance 1.
        seed: Of a forest.
    """
    weight = "balanced"
    model = {
        "logistic_regression": LogisticRegression(class_weight=weight, max_iter=1000),
        "svc": SVC(C=3, gamma="auto", class_weight=weight),
        "random_forest": RandomForestClassifier(class_weight=weight, random_state=seed % 2**32),
    }[kind]
    fitted = make_pipeline(StandardScaler() if standardized else "passthrough", model)
    fitted.fit(features, member)
    if kind == "svc":
        return Attacker(fitted.decision_function, 0.0)
    return Attacker(lambda asked: fitted.predict_proba(asked)[:, 1], 0.5)


def comparable(scores: np.ndarray) -> np.ndarray:
    """Return scores of one fold with mean 0 and variance 1; all 0 where they are all the same.

    Scores of attackers that know different records are not on one scale. Pooled as they are,
    they put members of a set without signal below the others: whoever has not seen a member
    has seen one member fewer.
    """
    if np.ptp(scores) == 0:
        return np.zeros_like(scores)
    return (scores - scores.mean()) / scores.std()


def learned_scores(
    features: Float[Tensor, "n features"],
    member: Bool[Tensor, " n"],
    kind: Kind,
    folds: int,
    seed: int,
    *,
    standardized: bool = True,
) -> Float[Tensor, " n"]:
    """Return each record's score by a learned attacker; more is more like a member."""

    def judge(known: np.ndarray, y: np.ndarray, asked: np.ndarray) -> np.ndarray:
        attacker = fit(kind, known, y, standardized=standardized, seed=seed)
        return comparable(attacker.score(asked))

    return crossfit(features, member, judge, folds, seed).said[:, 0]
