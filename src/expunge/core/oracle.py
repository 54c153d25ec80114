"""Membership oracles that see answers only: what a shadow model's answers give away.

Salem, Zhang, Humbert, Berrang, Fritz and Backes, "ML-Leaks: Model and Data Independent Membership
Inference Attacks and Defenses on Machine Learning Models", NDSS 2019 (one shadow model, the
largest posteriors), https://arxiv.org/abs/1806.01246; Chen and Guestrin, "XGBoost: A Scalable
Tree Boosting System", KDD 2016, https://arxiv.org/abs/1603.02754
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import hypergeom
from torch import Tensor

from expunge.core.losses import PADDING
from expunge.core.rng import generator
from expunge.types import Refused

TOP = 3
"""Posteriors that are seen of each answer."""

DECIMALS = 6  # of a posterior; by less than this the same model served elsewhere may differ
THRESHOLD = 0.5

Oracle = Callable[[Float[Tensor, "n points"]], Bool[Tensor, " n"]]
"""Takes what is seen of records, returns which of them it calls members."""


def top_posteriors(
    outputs: Float[Tensor, "n *positions classes"], y: Int[Tensor, "n *positions"]
) -> Float[Tensor, "n top"]:
    """Return each record's largest probabilities, the largest first, whichever classes they are of.

    There are three, or as many as there are classes. Of a sequence they are averaged over the
    positions at which an answer is wanted.

    Args:
        outputs: Logits or log-probabilities.
        y: Right answers, only for where one is wanted.
    """
    count = min(TOP, outputs.shape[-1])
    top = outputs.double().softmax(-1).topk(count, dim=-1).values.reshape(len(y), -1, count)
    wanted = (y != PADDING).reshape(len(y), -1, 1)
    mean = (top * wanted).sum(1) / wanted.sum(1).clamp(min=1)
    return mean.round(decimals=DECIMALS)


class Quality(NamedTuple):
    """How an oracle does on records that it was not fitted on.

    Attributes:
        found: Members that it calls members.
        members: How many there are.
        spared: Others that it calls no members.
        others: How many there are.
    """

    found: int
    members: int
    spared: int
    others: int

    @classmethod
    def of(cls, said: Bool[Tensor, " n"], member: Bool[Tensor, " n"]) -> "Quality":
        """Count what was said of members and of others."""
        counts = ((said & member), member, (~said & ~member), ~member)
        return cls(*(int(part.sum()) for part in counts))

    @property
    def accuracy(self) -> float:
        """Share of records that are told right."""
        return (self.found + self.spared) / (self.members + self.others)

    @property
    def precision(self) -> float:
        """Share of members among those called members; NaN where there are none."""
        called = self.found + self.others - self.spared
        return self.found / called if called else float("nan")

    @property
    def recall(self) -> float:
        """Share of members that are found: the true positive rate."""
        return self.found / self.members

    @property
    def tnr(self) -> float:
        """Share of others that are spared: the true negative rate."""
        return self.spared / self.others

    @property
    def p_chance(self) -> float:
        """One-sided p-value of finding so many members if it knew nothing, by Fisher's exact test.

        An oracle that knows nothing calls members and others members alike, however many it calls.
        """
        everyone, called = self.members + self.others, self.found + self.others - self.spared
        return float(hypergeom.sf(self.found - 1, everyone, self.members, called))

    def values(self) -> dict[str, float]:
        """Return them by name; the recall is the true positive rate."""
        names = ("accuracy", "precision", "recall", "tnr")
        return {f"oracle_{name}": getattr(self, name) for name in names}


def apart(member: Bool[Tensor, " n"], share: float, name: str) -> Bool[Tensor, " n"]:
    """Return which records are held out, a share of the members and of the others each.

    Args:
        member: Which records are members.
        share: Of either side, in (0, 1); at least one record.
        name: Of the draw.
    """
    held = torch.zeros_like(member)
    for side in (True, False):
        rows = (member == side).nonzero()[:, 0]
        order = torch.randperm(len(rows), generator=generator(0, "oracle", name, int(side)))
        held[rows[order[: max(1, round(share * len(rows)))]]] = True
    return held


def library() -> Any:
    """Return XGBoost.

    Raises:
        Refused: Where it is not installed.
    """
    try:
        import xgboost
    except ImportError as error:
        raise Refused(
            "a membership oracle on posteriors is a model of XGBoost, which is not installed; "
            "pip install 'expunge[boost]'"
        ) from error
    return xgboost


def fit_trees(
    points: Float[Tensor, "n points"],
    member: Bool[Tensor, " n"],
    *,
    trees: int,
    depth: int,
    rate: float,
) -> Oracle:
    """Fit boosted trees; members and others weigh alike however many there are of each.

    Args:
        points: What is seen of each record.
        member: Which of them are members.
        trees: How many.
        depth: Of each.
        rate: By which each counts less than it would alone.

    Raises:
        Refused: Where XGBoost is not installed, or what is seen is not finite.
    """
    if not bool(points.isfinite().all()):
        raise Refused(
            f"{int((~points.isfinite()).any(1).sum())} of {len(points)} records that the oracle "
            "would be fitted on have posteriors that are not finite; the shadow model probably "
            "diverged: lower the learning rate of the recipe"
        )
    weight = torch.where(member, 0.5 / member.double().mean(), 0.5 / (~member).double().mean())
    # One thread: several add up in any order, and the last bits would depend on it.
    model = library().XGBClassifier(
        objective="binary:logistic",
        n_estimators=trees,
        max_depth=depth,
        learning_rate=rate,
        tree_method="hist",
        n_jobs=1,
        random_state=0,
    )
    model.fit(np.asarray(points), np.asarray(member.int()), sample_weight=np.asarray(weight))

    def says(asked: Tensor) -> Tensor:
        return torch.from_numpy(model.predict_proba(np.asarray(asked))[:, 1] > THRESHOLD)

    return says
