"""Relearn time and anamnesis index: how soon the forgotten records are known again.

Golatkar, Achille and Soatto, "Eternal Sunshine of the Spotless Net: Selective Forgetting in Deep
Networks", CVPR 2020, https://arxiv.org/abs/1911.04933

Training goes on, on the whole training set with the forgotten records in it, until they are known
as well as the original knew them. A model that still holds them gets there sooner than one that
never saw them. The index of Chundawat, Tarun, Mandal and Kankanhalli, "Zero-Shot Machine
Unlearning", TIFS 2023, https://arxiv.org/abs/2201.05629, is that time over a retrained model's:
near 0 the records are still there, near 1 they are gone, above 1 they are harder to learn than if
they had never been seen, which can give them away as well.

Departures from the papers:
    1. The first takes a loss of 0.1 as the goal, which a small network never reaches, or has
       always; here the goal is, as in the second, the original's own accuracy on the records
       within `alpha` of it. A loss can be given instead.
    2. The second counts batches of all data. Here, as in the code of the first, an epoch is some
       records drawn anew from all data, and epochs are counted; all models are shown the same.
    3. The index is against the mean of several retrained models; each of them has one against the
       others, from which one sees what the index is worth.
"""

import math
from dataclasses import dataclass
from statistics import fmean

from expunge.audit import Answer, Audit, AuditCard, Case
from expunge.config import key
from expunge.core.sample import some
from expunge.relapse import UNLABELLED, Goal, look, relapse
from expunge.subject import Access, Refused, Subject
from expunge.types import Descent


@dataclass(frozen=True, kw_only=True)
class RelearnTime(Audit):
    """How many short epochs does it take until the forgotten records are known again?

    `epochs` is that number, the most there are where they never are, or where relearning diverges;
    `anamnesis` is it over that of retrained models, with 1 added to both, so that a model that
    knows them from the start has an index too.

    Attributes:
        alpha: How far below the original's accuracy on the records they count as known.
        loss: Mean loss at which they count as known, instead; needed where the task has no
            right answers.
        records: How many records an epoch has, of all training records, drawn anew each time.
        asked: How many of the forgotten records are asked about; None asks about all.
        descent: The optimiser, and the most epochs there are.
    """

    card = AuditCard(
        name="relearn_time",
        source="https://arxiv.org/abs/1911.04933",
        access=Access.WEIGHTS,
        tasks=("classification", "next_token", "denoising"),
        unit="epochs until the forgotten records are known again",
        quick=False,
        trains=True,
        toy={"records": 60, "loss": 0.5, "descent": {"lr": 0.01, "epochs": 4, "batch_size": 32}},
    )

    alpha: float = 0.05
    loss: float | None = None
    records: int = 500
    asked: int | None = 1000
    descent: Descent = Descent(lr=0.01, epochs=100, batch_size=128, momentum=0.9)

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < 1:
            raise ValueError(f"expected alpha in [0, 1), got {self.alpha}")
        if self.loss is not None and self.loss <= 0:
            raise ValueError(f"expected a loss above 0, got {self.loss}")
        if self.records < 2 or self.descent.epochs < 1:
            raise ValueError(
                "expected at least 2 records in an epoch, since BatchNorm learns nothing from one, "
                f"and 1 epoch, got {self.records} and {self.descent.epochs}"
            )
        if self.asked is not None and self.asked < 1:
            raise ValueError(
                f"expected to ask about at least 1 forgotten record, got asked = {self.asked}; "
                "leave `asked` at its default, or ask about all with None"
            )

    def ask(self, subject: Subject, case: Case, seed: int) -> Answer:
        mine = self._relapsed(subject, case, seed)
        others = [c for c in case.retrained if c is not subject]
        theirs = [self._relapsed(other, case, seed).headline for other in others]
        if not theirs:
            return mine
        index = (1 + mine.headline) / (1 + fmean(theirs))
        return mine.plus({"anamnesis": index})

    def _relapsed(self, subject: Subject, case: Case, seed: int) -> Answer:
        """Return how long one model takes, found once however many are compared with it."""
        place = (key(self), "relapsed", seed, *case.place, case.original)
        if place not in subject.answers:
            subject.answers[place] = self._train(subject, case, seed)
        return subject.answers[place]

    def _train(self, subject: Subject, case: Case, seed: int) -> Answer:
        request = case.request
        asked = some(request.forget, self.asked, "relearned")
        course = relapse(
            subject.model,
            asked,
            request.retain.join(request.forget),
            request.recipe,
            self.descent,
            self._goal(case, seed),
            records=self.records,
            seed=seed,
        )
        warnings = () if course.reached else (course.missed,)
        arrays = {"loss": course.loss, "accuracy": course.accuracy}
        values = {
            "epochs": float(course.epochs),
            "reached": float(course.reached),
            "loss_before": float(course.loss[0]),
            "accuracy_before": float(course.accuracy[0]),
        }
        told = {k: v for k, v in values.items() if not math.isnan(v)}
        return Answer(values=told, arrays=arrays, warnings=warnings)

    def _goal(self, case: Case, seed: int) -> Goal:
        if self.loss is not None:
            return Goal(loss=self.loss)
        request = case.request
        if request.task.card.name in UNLABELLED:
            raise Refused(
                f"relearn_time cannot ask for accuracy, which {request.task.card.name} does not "
                "have; give `loss`, at which the records count as known"
            )
        asked = some(request.forget, self.asked, "relearned")
        _, known = look(case.original.model, asked, request.task, seed)
        return Goal(accuracy=(1 - self.alpha) * known)
