"""Reminiscence attack on samples: does training on retained records alone bring them back?

Xiao, Ye, Hu, Zheng, Hu, Liang, Li and Jiao, "Reminiscence Attack on Residuals: Exploiting
Approximate Machine Unlearning for Privacy", ICCV 2025, https://arxiv.org/abs/2507.20573

The attacker fine-tunes the unlearned model on retained records, never on those asked about. What
was pushed down and not removed may come up again, as in Siddiqui et al., "From Dormant to Deleted:
Tamper-Resistant Unlearning Through Weight-Space Regularization", 2025,
https://arxiv.org/abs/2505.22310. Then a likelihood ratio by shadow models is taken of each record,
before and after: the gain is the fine-tuning's own. A retrained model should have none.

Departures from the paper:
    1. Of the paper we know the abstract; epochs, rates and sizes are those of the authors' code,
       https://github.com/orthogonalunlearning-replay/OUR.
    2. Each record is in half of the shadows. In the code it is in six of eight, which leaves two
       that never saw it.
    3. Online and offline scores are kept apart. The code keeps the curve of one and the area of
       the other.
    4. A record is scored as it is, not by ten augmented views; variances are as `lira` has them.
    5. Non-members have the forget set's mix of classes, and are records no method has seen.
    6. With `shadowed = "unlearned"` the shadows have unlearned as the model did, as in U-LiRA.
       They are not fine-tuned afterwards.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from expunge import stats
from expunge.audit import Answer, Audit, AuditCard, Case
from expunge.config import plain
from expunge.core.cost import Cost
from expunge.core.descent import Pass, descend
from expunge.core.likelihood import Variance, likelihood_ratio
from expunge.core.rng import fenced, generator
from expunge.extraction import check_reach, price, reached
from expunge.lab import Needs, beside
from expunge.membership import RATES, check_folds, flagged, found, name_of, summary, unresolved
from expunge.pool import Shadows
from expunge.shadowing import enough, lab_of, margins, shadows_on
from expunge.subject import Access, Subject, WhiteBox
from expunge.types import Data, Descent, Json, Preset, Recipe, Request

CODE = "https://github.com/orthogonalunlearning-replay/OUR"
KINDS = ("", "_before", "_offline", "_offline_before")
"""Of the scores of each record: online after the fine-tuning, then before, then both offline."""


def reminisced(
    network: nn.Module, retain: Data, descent: Descent, recipe: Recipe, seed: int
) -> nn.Module:
    """Return a copy, fine-tuned on retained records at a rate, and as long at half of it.

    Args:
        network: Left as found.
        retain: The records.
        descent: Of the first half.
        recipe: Has the task; records are shown without augmentation.
        seed: Of the order, and of what the network draws.
    """
    tuned = copy.deepcopy(network).requires_grad_(True)
    teach = Pass(retain, lambda batch: recipe.task.loss(tuned, batch), "update", augment=False)
    halves = (descent, replace(descent, lr=descent.lr / 2))
    rounds = [[teach._replace(descent=half)] for half in halves for _ in range(descent.epochs)]
    with fenced(seed):
        descend(tuned, rounds, descent, recipe, generator(seed, "reminisce"))
    return tuned.eval()


@dataclass(frozen=True, kw_only=True)
class ReminiscenceSample(Audit):
    """Does training on retained records alone make the forgotten ones easier to tell?

    The headline is the area after that training; `gain` is how much of it was not there before.

    Attributes:
        shadows: Models trained on random halves; each record is in one half of them.
        shadowed: Whether shadows were `trained` alone, or `unlearned` by the method in question.
        descent: Of the fine-tuning's first half; the second is as long, at half the rate.
        variance: `record` for each record its own, `fixed` for one of all; `auto` is `fixed`
            below 32 shadows on a side.
        rate: False positive rate that is asked about, beside the usual ones; with fewer shadows
            than can show it by themselves a warning says how many can.
        extract: Epochs for which a copy learns the model's answers on the retained records; the
            copy is attacked then, as that of a black box. 0 attacks the model itself.
        seed: Of the order: it is the attack's own, so that all models are attacked alike.
    """

    card = AuditCard(
        name="reminiscence_sample",
        source="https://arxiv.org/abs/2507.20573",
        access=Access.QUERIES,
        tasks=("classification",),
        decides=True,
        unit="area under the ROC curve after fine-tuning; 0.5 is chance",
        quick=False,
        trains=True,
        probes=True,
        toy={"shadows": 8, "descent": {"epochs": 1, "batch_size": 32}, "extract": 2},
        presets={
            "vit": Preset(
                {
                    "descent": {
                        "optimizer": "adamw",
                        "lr": 1e-4,
                        "epochs": 3,
                        "batch_size": 256,
                        "weight_decay": 1e-4,
                    }
                },
                CODE,
            ),
        },
    )

    shadows: int = 16
    shadowed: Literal["trained", "unlearned"] = "trained"
    descent: Descent = Descent(lr=0.01, epochs=3, batch_size=256, weight_decay=5e-4)
    variance: Variance = "auto"
    rate: float | None = None
    extract: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        enough(self.shadows)
        if self.extract < 0 or (self.rate is not None and not 0 < self.rate < 1):
            raise ValueError(
                f"expected extract >= 0 and a rate in (0, 1), got {self.extract} and {self.rate}"
            )

    @property
    def needs(self) -> Needs:
        if self.shadowed == "unlearned":
            return Needs(unlearned_shadows=self.shadows)
        return Needs(shadows=self.shadows)

    def check(self, case: Case) -> None:
        super().check(case)
        check_reach(case, self.extract, self.card.name)
        check_folds(case, 1, self.card.name)

    def work(self, request: Request, test: Data) -> Cost:
        asked = 2 * (len(request.forget) + len(beside(request, test)))
        shown = 2 * self.descent.epochs * len(request.retain)
        return Cost(forward=asked + shown, backward=shown) + price(
            self.extract, len(request.retain)
        )

    def ask(self, subject: Subject, case: Case, seed: int) -> Answer:
        del seed
        sets = case.request.forget, case.nonmembers

        def attack() -> Mapping[str, Tensor]:
            return self._margins(subject, case, sets)

        about: dict[str, Json] = {
            "audit": {k: v for k, v in plain(self).items() if k in ("name", "version", "extract")},
            "descent": plain(self.descent),
            "seed": self.seed,
            "subject": subject.digest,
            "recipe": plain(case.request.recipe),
            "retain": case.request.retain.digest,
            "asked": [data.digest for data in sets],
        }
        lab = lab_of(case)
        told = attack() if subject.digest is None else lab.keep(about, attack)
        if self.shadowed == "unlearned":
            known = lab.unlearned_shadows(self.shadows)
        else:
            known = shadows_on(case, self.shadows, sets)
        sizes = [len(data) for data in sets]
        return _answer(told, known, sizes, case.request.forget, self)

    def _margins(self, subject: Subject, case: Case, sets: tuple[Data, Data]) -> dict[str, Tensor]:
        """Return each record's margin, and which to be forgotten are told, before and after."""
        request = case.request
        network = reached(subject, request.recipe, request.retain, self.extract, self.seed)
        tuned = reminisced(network, request.retain, self.descent, request.recipe, self.seed)
        told: dict[str, Tensor] = {}
        for name, model in (("before", network), ("after", tuned)):
            told[name] = margins(WhiteBox(model), case, sets, self.seed)
            told[f"right_{name}"] = WhiteBox(model).right(request.forget, request.task)
        return told


def scores_of(
    told: Mapping[str, Tensor], known: Shadows, variance: Variance
) -> Float[Tensor, "kinds n"]:
    """Return every record's score of each of `KINDS`; more is more like a member."""
    return torch.stack(
        [
            likelihood_ratio(told[when], *known, mode=mode, variance=variance)
            for mode in ("online", "offline")
            for when in ("after", "before")
        ]
    )


def areas(inside: Float[Tensor, "kinds *batch m"], outside: Tensor) -> dict[str, Tensor]:
    """Return each kind's area under the ROC curve, and what the fine-tuning gained.

    Args:
        inside: Scores of records to be forgotten, one row or block for each of `KINDS`.
        outside: Those of records never trained on.
    """
    area = dict(zip(KINDS, stats.auc(inside, outside), strict=True))
    gains = {
        "gain": area[""] - area["_before"],
        "gain_offline": area["_offline"] - area["_offline_before"],
    }
    return gains | {f"auc{kind}": area[kind] for kind in KINDS[1:]}


def _answer(
    told: Mapping[str, Tensor],
    known: Shadows,
    sizes: list[int],
    forget: Data,
    audit: ReminiscenceSample,
) -> Answer:
    """Return what the margins of forgotten records, and then of others, tell."""
    inside, outside = scores_of(told, known, audit.variance).split(sizes, 1)
    rates = RATES if audit.rate is None else (*RATES, audit.rate)
    arrays = {"flagged": flagged(inside[0], outside[0]), "index": forget.index.cpu()}
    for kind, mine, theirs in zip(KINDS, inside, outside, strict=True):
        arrays[f"scores{kind}"] = mine
        arrays[f"roc{kind}_fpr"], arrays[f"roc{kind}_tpr"] = stats.roc(mine, theirs)
    change = told["after"] - told["before"]
    arrays["margin_change"] = change[: sizes[0]]
    gained = stats.bootstrap(areas, [inside, outside])  # one draw of records for all kinds
    answer = Answer.over(
        summary,
        inside[0].contiguous(),
        outside[0].contiguous(),
        null=stats.auc_by_chance([(sizes[0], sizes[1])]),
        arrays=arrays,
        exact=gained | {name_of(rate): found(inside[0], outside[0], rate) for rate in rates},
        warnings=(*unresolved(sizes[1], rates), *_thin(audit, known)),
        paired=stats.delong,
    )
    right = {when: float(told[f"right_{when}"].mean()) for when in ("before", "after")}
    return answer.plus(
        {
            "balanced_accuracy": float(stats.balanced_accuracy(inside[0], outside[0])),
            "margin_change": float(change[: sizes[0]].mean()),
            "margin_change_others": float(change[sizes[0] :].mean()),
            "forget_accuracy": right["after"],
            "forget_accuracy_regained": right["after"] - right["before"],
        }
    )


def _thin(audit: ReminiscenceSample, known: Shadows) -> tuple[str, ...]:
    """Return warnings where there are fewer shadows than were asked for, or than it takes."""
    told: list[str] = []
    lost = audit.shadows - len(known.margin)
    if lost:
        told.append(f"{lost} of {audit.shadows} shadow models diverged; the rest count")
    if audit.rate is not None and len(known.margin) < (least := 2 * math.ceil(1 / audit.rate)):
        told.append(
            f"{len(known.margin)} shadow models, of which half never saw a record, cannot show a "
            f"false positive rate of {100 * audit.rate:g} % by themselves: it rests on their "
            f"margins being Gaussian; the least that would do is {least}"
        )
    return tuple(told)
