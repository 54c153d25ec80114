"""Pseudo-convergence: outputs like those of retraining, over insides that still hold the records.

Xiao, Ye, Hu, Zheng, Hu, Liang, Li and Jiao, "Reminiscence Attack on Residuals: Exploiting
Approximate Machine Unlearning for Privacy", ICCV 2025, https://arxiv.org/abs/2507.20573, give the
word; the tests are ours. From outside, a model is compared with retrained ones by its accuracies
and by its answers on the forgotten records. From inside, by three signs of what is left:

* `relearn`: how soon the records are known again when they are trained on;
* `silhouette`: how well, in a deep layer, they still lie with their own class;
* `probe`: how many of them a linear probe on that layer still tells.

A sign speaks where it lies beyond the retrained models' own spread, on the original's side. Beside
them stand two things that foretell how easily forgotten records return (Siddiqui et al.,
"From Dormant to Deleted", 2025, https://arxiv.org/abs/2505.22310): the distance of the weights from
the original's, and the barrier in the loss on the straight line to it; a model across a low one
has not left the original's basin.

Departures from the paper:
    1. The word is made a rule: the outputs match, and at least one sign speaks.
    2. The variance, silhouette and overlap of the forgotten records in a plane, which the
       authors' code takes of t-SNE on the logits, depend on that method's draws; they are there
       where `plane` is above 0, and are no signs.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean

import torch
from torch import Tensor, nn

from expunge import stats
from expunge.audit import Answer, Audit, AuditCard, Case
from expunge.config import key
from expunge.core import features, geometry, losses
from expunge.core.embedding import tsne
from expunge.core.sample import some
from expunge.core.state import device_of, mode
from expunge.relapse import Goal, Relapse, look, relapse
from expunge.subject import Access, Subject
from expunge.types import Data, Descent, each

SIGNS = ("relearn", "silhouette", "probe")
TENTH = 0.1  # of the epochs that retrained models take: a curve wobbles about its goal
SLACK = 1.25  # of two retrained models the distance is the same from either: it has no spread
OUTPUTS = ("accuracy_forget", "accuracy_retain", "accuracy_test")


@dataclass(frozen=True, kw_only=True)
class PseudoConvergence(Audit):
    """Do the outputs look like retraining's while the insides still hold the records?

    The headline is how many of the three signs speak in a model whose outputs match
    retraining's, and 0 in one whose outputs do not. It takes three retrained models to say.

    Attributes:
        tolerance: Difference of an accuracy that still counts as a match.
        nats: Divergence of the answers on forgotten records that still counts as a match; so
            does a quarter more than is usual between retrained models.
        layer: That is looked into; left out, the last block of the network.
        forgotten: How many of the forgotten records are looked at.
        kept: How many retained records are looked at beside them.
        alpha: How far below the original's accuracy relearned records count as known.
        records: Records of an epoch of relearning, drawn anew from all training records.
        relearn: The optimiser of relearning, and the most epochs there are.
        pieces: In how many the straight line to the original is cut.
        plane: How many records are laid out by t-SNE; 0 leaves it out.
    """

    card = AuditCard(
        name="pseudo_convergence",
        source="https://arxiv.org/abs/2507.20573",
        access=Access.WEIGHTS,
        tasks=("classification",),
        ideal="min",
        unit="signs of the records inside, of 3, where outputs match retraining's",
        peers=True,
        quick=False,
        trains=True,
        toy={
            "forgotten": 20,
            "kept": 40,
            "records": 60,
            "relearn": {"epochs": 2},
            "pieces": 3,
            "plane": 30,
        },
    )

    tolerance: float = 0.02
    nats: float = 0.02
    layer: str | None = None
    forgotten: int = 500
    kept: int = 1000
    alpha: float = 0.05
    records: int = 500
    relearn: Descent = Descent(lr=0.01, epochs=30, batch_size=128, momentum=0.9)
    pieces: int = 10
    plane: int = 0

    def __post_init__(self) -> None:
        if min(self.forgotten, self.kept, self.relearn.epochs, self.pieces) < 1:
            raise ValueError(
                "expected at least 1 of forgotten, kept, epochs and pieces, got "
                f"{self.forgotten}, {self.kept}, {self.relearn.epochs}, {self.pieces}"
            )
        if self.records < 2:
            raise ValueError(
                "expected at least 2 records in an epoch, since BatchNorm learns nothing from one, "
                f"got {self.records}"
            )
        if self.tolerance < 0 or self.nats < 0:
            raise ValueError(
                f"expected tolerance and nats of at least 0, got {self.tolerance}, {self.nats}"
            )
        if not 0 <= self.alpha < 1:
            raise ValueError(
                f"expected alpha in [0, 1), got {self.alpha}: from 1 on any accuracy would count "
                "as known, before the first epoch; take a share such as 0.05"
            )
        if self.plane != 0 and self.plane < 4:
            raise ValueError(
                f"expected a plane of 0 records, which leaves it out, or of at least 4, got "
                f"{self.plane}"
            )

    def check(self, case: Case) -> None:
        super().check(case)
        for subject in (case.unlearned, case.original, *case.retrained):
            self._layer(subject.model, case.request.forget)

    def _layer(self, network: nn.Module, data: Data) -> str:
        """Return the name of the layer that is looked into.

        Raises:
            Refused: Where the network has none of that name, or none with a row per record.
        """
        here = device_of(network)  # a stand-in may be elsewhere than the records
        few = data.take(torch.arange(min(2, len(data)))).x
        x = each(few, lambda part: part.to(here))
        name = self.layer or features.deep_layers(network, x)[-1]
        features.check_named(network, [name])
        with mode(network, training=False), torch.no_grad():
            features.read(network, x, [name])
        return name

    def ask(self, subject: Subject, case: Case, seed: int) -> Answer:
        mine = self._looked(subject, case, seed)
        others = [self._looked(c, case, seed).values for c in case.retrained if c is not subject]
        original = self._looked(case.original, case, seed).values
        divergence = self._divergence(subject, case)
        if len(others) < 2:
            told = "fewer than two retrained models to compare with: nothing is flagged"
            values = {"signs": float("nan"), **mine.values}
            return Answer(values=values, warnings=(told, *mine.warnings))
        matched = self._matches(mine.values, others) and divergence <= self._usual(subject, case)
        speaking = [s for s in SIGNS if speaks(mine.values, others, original, s)]
        values = {
            "signs": float(len(speaking)) if matched else 0.0,
            "inside": float(len(speaking)),
            "matched": float(matched),
            "divergence": divergence,
        }
        said = f"outputs match retraining's, but {' and '.join(speaking)} do not: the records "
        warnings = (said + "are still inside",) if matched and speaking else ()
        return Answer(
            values=values | {**mine.values},
            arrays=mine.arrays,
            warnings=(*warnings, *mine.warnings),
        )

    def _matches(self, mine: Mapping[str, float], others: Sequence[Mapping[str, float]]) -> bool:
        """Return whether every accuracy is like that of retrained models."""
        for name in OUTPUTS:
            theirs = [other[name] for other in others]
            reach = max(self.tolerance, stats.spread(theirs) or 0.0)
            if abs(mine[name] - fmean(theirs)) > reach:
                return False
        return True

    def _divergence(self, subject: Subject, case: Case) -> float:
        """Return the mean divergence, in nats, of the answers on forgotten records.

        From those of retrained models; 0 where there are none to compare with.
        """
        forget = some(case.request.forget, self.forgotten, "pseudo")
        task = case.request.task

        def answers(one: Subject) -> Tensor:
            return one.score(forget, task, lambda outputs, _: outputs, 0)

        theirs = [answers(c) for c in case.retrained if c is not subject]
        apart = [float(losses.jensen_shannon(a, answers(subject)).mean()) for a in theirs]
        return fmean(apart) if apart else 0.0

    def _usual(self, subject: Subject, case: Case) -> float:
        """Return the largest divergence that is still a match."""
        others = [c for c in case.retrained if c is not subject]
        between = [self._divergence(c, case) for c in others]
        reach = stats.spread(between) or 0.0
        return max(self.nats, SLACK * fmean(between), fmean(between) + reach)

    def _looked(self, subject: Subject, case: Case, seed: int) -> Answer:
        """Return what is seen of one model, looked at once however many are compared with it."""
        place = (key(self), "looked", seed, *case.place, case.original)
        if place not in subject.answers:
            subject.answers[place] = self._look(subject, case, seed)
        return subject.answers[place]

    def _look(self, subject: Subject, case: Case, seed: int) -> Answer:
        request, network = case.request, subject.model
        forget = some(request.forget, self.forgotten, "pseudo")
        retain = some(request.retain, self.kept, "pseudo")
        layer = self._layer(network, forget)
        asked, known = (geometry.features_of(network, data, layer) for data in (forget, retain))
        y, others = forget.y.cpu(), retain.y.cpu()
        both = geometry.silhouettes(torch.cat([asked, known]), torch.cat([y, others]))
        course = self._relearned(network, case, forget, seed)
        values = {
            "relearn": float(course.epochs),
        }
        told = {"silhouette": both[: len(y)], "probe": geometry.probe((known, others), (asked, y))}
        for name, found in told.items():
            values[name] = float(found.double().mean())
            values[f"{name}_error"] = float(found.double().std(correction=0)) / len(y) ** 0.5
        sets = {"forget": forget, "retain": retain, "test": case.test}
        for name, data in sets.items():
            values[f"accuracy_{name}"] = float(subject.right(data, request.task).mean())
        arrays: dict[str, Tensor] = {}
        if geometry.alike(network, case.original.model):  # an ensemble and a network are not
            loss = partial(self._loss, case=case, data=retain)
            values["barrier"], arrays["line"] = geometry.barrier(
                case.original.model, network, loss, retain, self.pieces
            )
            values["weight_distance"] = geometry.distance(network, case.original.model)
        if self.plane:
            values |= self._plane(subject, case, seed)
        warnings = (course.missed,) if course.diverged else ()
        return Answer(values=values, arrays=arrays, warnings=warnings)

    def _loss(self, network: nn.Module, case: Case, data: Data) -> float:
        return look(network, data, case.request.task, 0)[0]

    def _relearned(self, network: nn.Module, case: Case, forget: Data, seed: int) -> Relapse:
        request = case.request
        _, known = look(case.original.model, forget, request.task, seed)
        return relapse(
            network,
            forget,
            request.retain.join(request.forget),
            request.recipe,
            self.relearn,
            Goal(accuracy=(1 - self.alpha) * known),
            records=self.records,
            seed=seed,
        )

    def _plane(self, subject: Subject, case: Case, seed: int) -> dict[str, float]:
        """Return the forgotten records' variance, silhouette and overlap in a plane of logits."""
        del seed
        request, half = case.request, max(1, self.plane // 2)
        forget = some(request.forget, half, "plane")
        retain = some(request.retain, self.plane - len(forget), "plane")
        logits = [
            subject.score(data, request.task, lambda outputs, _: outputs, 0)
            for data in (forget, retain)
        ]
        points, count = tsne(torch.cat(logits)).double(), len(forget)
        group = torch.cat([torch.zeros(count), 1 + retain.y.cpu()]).long()
        parts = [points[group == kind] for kind in group.unique()[1:]]
        many = [part for part in parts if len(part) > 2]
        shape = geometry.silhouettes(points.float(), group)
        return {
            "plane_variance": float(points[:count].var(0).sum()) if count > 1 else float("nan"),
            "plane_silhouette": float(shape[:count].mean()),
            "plane_overlap": geometry.overlap(points[:count], many) if many else float("nan"),
        }


def speaks(
    mine: Mapping[str, float],
    others: Sequence[Mapping[str, float]],
    original: Mapping[str, float],
    sign: str,
) -> bool:
    """Return whether a sign lies beyond what retrained models give, on the original's side.

    Two or three retrained models may agree by chance. So it takes at least what chance in the
    records that are looked at makes, and of epochs to relearn a tenth.
    """
    theirs = [other[sign] for other in others]
    apart, side = mine[sign] - fmean(theirs), original[sign] - fmean(theirs)
    errors = [mine.get(f"{sign}_error", 0.0), *(o.get(f"{sign}_error", 0.0) for o in others)]
    chance = 1.96 * math.hypot(errors[0], fmean(errors[1:]))
    least = TENTH * fmean(theirs) if sign == "relearn" else chance
    return apart * side > 0 and abs(apart) > max(stats.spread(theirs) or 0.0, least)
