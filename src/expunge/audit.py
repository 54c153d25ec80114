"""What every audit is: one question, asked of three kinds of model."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import mean
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from expunge import stats
from expunge.config import key, plain
from expunge.core import rng
from expunge.core.cost import Cost
from expunge.lab import Lab, Needs, beside
from expunge.stats import Interval, Summary
from expunge.subject import Access, Refused, Subject, WhiteBox
from expunge.types import Card, Data, Json, Request, Settings

Groups = Sequence[Tensor]
Paired = Callable[[Groups, Sequence[Groups]], float]
"""Takes one model's scores, group by group, and several other models' of the same records."""

LEVEL = 0.05  # of every test

Ideal = Literal["max", "min", "retrained"]
Verdict = Literal[
    "like retraining",
    "unlike retraining",
    "like never trained",
    "leaks",
    "overshoots",
    "cannot tell",
    "measured",
]


@dataclass(frozen=True, kw_only=True)
class AuditCard(Card):
    """What a question asks for.

    Attributes:
        access: The least a subject must give.
        tasks: Names of the tasks it makes sense for.
        ideal: Where its headline should be: high, low, or where retraining puts it.
        decides: Whether its finding bears on whether the records are forgotten. A
            distance between weights, say, does not: two retrained models are far apart.
        unit: Of the headline.
        peers: Whether a subject is compared with retrained models, so that one of them
            can only be a control where there are others.
        quick: Whether it is asked where no audits are named; what takes minutes is not.
        trains: Whether it trains on the subject's answers, so that batches matter.
        probes: Whether it asks about records that it makes up, of which a table of saved
            predictions knows nothing.
        alone: Whether the answer on a model depends on no other model of the case, nor on how
            any was unlearned; that on a control is then given once for all cases of a run.
        withheld: Whether it asks about whole classes, and of classes that were withheld from
            training altogether.
        toy: Settings fit for a problem of a few hundred records.
    """

    access: Access
    tasks: tuple[str, ...]
    ideal: Ideal = "retrained"
    decides: bool = False
    unit: str = ""
    peers: bool = False
    quick: bool = True
    trains: bool = False
    probes: bool = False
    alone: bool = False
    withheld: bool = False
    toy: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, kw_only=True)
class Case:
    """Everything an audit may look at.

    Attributes:
        original: Positive control: it has forgotten nothing.
        unlearned: The model in question.
        retrained: Negative controls: they never saw the forget set.
        request: What was to be forgotten.
        test: Records that neither training nor any method has seen.
        alike: Records like that, of the forget set's kind; left out, all of `test` are.
        unseen: Records of classes that no model was trained on, numbered from 0; None: none.
        lab: Makes further models for the audits that need them.
    """

    original: Subject
    unlearned: Subject
    retrained: tuple[Subject, ...] = ()
    request: Request
    test: Data
    alike: Data | None = None
    unseen: Data | None = None
    lab: Lab | None = None

    def without(self, index: int) -> "Case":
        """Return the case with one retrained model held out."""
        rest = self.retrained[:index] + self.retrained[index + 1 :]
        case = replace(self, retrained=rest)
        case.__dict__["nonmembers"] = self.nonmembers  # one draw, and one set of answers
        return case

    @cached_property
    def place(self) -> tuple[Hashable, ...]:
        """On what answers depend besides the models: the very records, the recipe, the shelf."""
        request, shelf = self.request, self.lab and self.lab.shelf
        sets = (request.retain, request.forget, request.val, request.nonmembers)
        return (*sets, self.test, self.alike, self.unseen, key(request.recipe), shelf)

    @cached_property
    def nonmembers(self) -> Data:
        """Unseen records of the forget set's kind, with its mix of classes."""
        return beside(self.request, self.test if self.alike is None else self.alike)


@dataclass(frozen=True, eq=False, kw_only=True)
class Answer:
    """What an audit learned of one model.

    Attributes:
        values: Named numbers; the first is the headline.
        records: Scores the numbers summarise, one tensor per group of records; none
            where the audit sees no records.
        summary: Turns `records` into `values`, and resampled records into intervals.
        null: Where the headline would be for records that were never trained on.
        arrays: What else is worth keeping: confusion matrices, curves.
        measured: Numbers that differ from run to run, such as seconds.
        exact: Values whose interval is known without resampling.
        warnings: What the numbers cannot bear, in plain sentences.
        paired: Gives the p-value of this headline against the mean of other models', from
            the `records` of all.
    """

    values: Mapping[str, float]
    records: tuple[Tensor, ...] = ()
    summary: Summary | None = None
    null: Interval | None = None
    arrays: Mapping[str, Tensor] = field(default_factory=dict)
    measured: Mapping[str, float] = field(default_factory=dict)
    exact: Mapping[str, Interval] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    paired: Paired | None = None

    @classmethod
    def over(
        cls,
        summary: Summary,
        *records: Tensor,
        null: Interval | None = None,
        arrays: Mapping[str, Tensor] | None = None,
        exact: Mapping[str, Interval] | None = None,
        warnings: tuple[str, ...] = (),
        paired: Paired | None = None,
    ) -> "Answer":
        """Return the answer that summarises per-record scores."""
        values = {name: float(value) for name, value in summary(*records).items()}
        exact = exact or {}
        return cls(
            values=values | {name: interval.value for name, interval in exact.items()},
            records=records,
            summary=summary,
            null=null,
            arrays=arrays or {},
            exact=exact,
            warnings=warnings,
            paired=paired,
        )

    def plus(self, values: Mapping[str, float]) -> "Answer":
        """Return the answer with further values, which have no interval."""
        return replace(self, values={**self.values, **values})

    @property
    def headline(self) -> float:
        return next(iter(self.values.values()))

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """Every value's interval over records, where there are records."""
        resampled = stats.bootstrap(self.summary, self.records) if self.summary else {}
        return resampled | dict(self.exact)

    def record(self) -> dict[str, Json]:
        """Return the answer as plain data."""
        return {
            "values": {k: _number(v) for k, v in self.values.items()},
            "intervals": {
                k: [i.low, i.high] for k, i in self.intervals.items() if i.value == i.value
            },
            "null": _interval(self.null),
            "arrays": {k: _rounded(v) for k, v in self.arrays.items()},
            "warnings": list(self.warnings),
        }


def _said(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "unknown"


def _number(value: float) -> float | None:
    """Return what JSON can hold: None for what is not a finite number."""
    return value if math.isfinite(value) else None


def _rounded(array: Tensor) -> Json:
    """Return nested lists of at most five digits; None stands for NaN."""

    def plain(value: Json) -> Json:
        if isinstance(value, list):
            return [plain(part) for part in value]
        return _number(float(f"{value:.5g}")) if isinstance(value, float) else value

    return plain(array.tolist())


def _interval(interval: Interval | None) -> Json:
    if interval is None:
        return None
    ends = {"value": interval.value, "low": interval.low, "high": interval.high}
    return {k: v if v is None else _number(v) for k, v in ends.items()}


def _role(subject: Subject, case: "Case") -> str:
    if subject is case.unlearned:
        return "the unlearned model"
    return "the original" if subject is case.original else "a retrained model"


def contrast(first: Answer, rest: tuple[Answer, ...]) -> Interval:
    """Return the first headline minus the others' mean, resampling shared records."""
    summary = first.summary
    if summary is None:
        return Interval(first.headline - mean(a.headline for a in rest))
    answers = (first, *rest)
    groups = [torch.stack(group) for group in zip(*(a.records for a in answers), strict=True)]

    def difference(*groups: Tensor) -> dict[str, Tensor]:
        headlines = next(iter(summary(*groups).values()))
        return {"difference": headlines[0] - headlines[1:].mean(0)}

    return stats.bootstrap(difference, groups)["difference"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Finding:
    """An audit's answer for the unlearned model, between its two controls.

    Attributes:
        audit: The question, with its settings.
        case: Of whom it was asked.
        unlearned: The answer that is wanted.
        original: Positive control: the model that has forgotten nothing.
        retrained: Negative control: models that never saw the forget set, if any.
    """

    audit: "Audit"
    case: Case
    unlearned: Answer
    original: Answer
    retrained: tuple[Answer, ...] = ()

    @cached_property
    def moved(self) -> Interval:
        """Distance from the original; 0 means that unlearning changed nothing."""
        return contrast(self.unlearned, (self.original,))

    @cached_property
    def gap(self) -> Interval | None:
        """Distance from the retrained models' mean; 0 is perfect."""
        return contrast(self.unlearned, self.retrained) if self.retrained else None

    @property
    def floor(self) -> float | None:
        """How far one more retrained model may lie from their mean, at 95 %.

        Where retrained models are compared with each other, what each adds to a distance
        is in part common to all: with an effect of each model's own, the spread of n
        such answers is (n - 2) / (n - 1) of what it is for a stranger.
        """
        answers = [a.headline for a in self.retrained]
        if self.undefined:
            return None
        if not self.audit.card.peers:
            return stats.spread(answers)
        n = len(answers)
        spread = stats.spread(answers)
        return None if spread is None or n < 3 else spread * (n - 1) / (n - 2)

    @property
    def undefined(self) -> bool:
        """Whether the headline of any of the models is not a number, so that none compare."""
        return any(math.isnan(a.headline) for a in (self.unlearned, self.original, *self.retrained))

    @cached_property
    def p_records(self) -> float | None:
        """Two-sided p-value of the distance to retraining over records, models as given.

        DeLong's paired test where the headline is an area under a ROC curve, else by the
        bootstrap's interval; None without controls or without records.
        """
        if self.gap is None or self.undefined:
            return None
        return self._over_records(self.unlearned, self.gap)

    def _over_records(self, answer: Answer, gap: Interval) -> float | None:
        if answer.paired is not None:
            return answer.paired(answer.records, [other.records for other in self.retrained])
        return gap.against(0.0)

    @cached_property
    def p(self) -> float | None:
        """Two-sided p-value of being one more retrained model, or one that never saw them.

        The larger of two: over records, and over the retrained models' own spread. Without
        controls, that of the answer where it should be for records never trained on.
        """
        if self.gap is not None:
            if self.floor is None:
                return None
            spread = stats.beyond(self.gap.value, self.floor, len(self.retrained))
            return max(spread, self.p_records or 0.0)
        null = self.unlearned.null
        if null is None or self.undefined:
            return None
        return null.against(self.unlearned.headline)

    @property
    def verdict(self) -> Verdict:
        """What may be concluded, in two words."""
        if self.audit.card.ideal != "retrained":
            return "measured"
        if self.undefined or (self.audit.card.peers and self.floor is None):
            return "cannot tell"
        if self.gap is not None and self.floor is not None:
            return self._against_retraining(self.gap, self.floor)
        null, value, original = self.unlearned.null, self.unlearned.headline, self.original
        if self.gap is not None or null is None or original.null is None:
            return "cannot tell"
        if not original.null.excludes(original.headline):
            return "cannot tell"
        if not null.excludes(value):
            return "like never trained"
        same_side = (value - null.value) * (original.headline - original.null.value) > 0
        return "leaks" if same_side else "overshoots"

    def _against_retraining(self, gap: Interval, floor: float) -> Verdict:
        reference = mean(a.headline for a in self.retrained)
        power = self.original.headline - reference
        # Whoever cannot be sure of the original either would have found nothing in it.
        if abs(power) <= floor or not self._certain(self.original):
            return "cannot tell"
        if abs(gap.value) <= floor or not self._certain(self.unlearned):
            return "like retraining"
        if not self.audit.card.decides:
            return "unlike retraining"
        # A distance from retraining has one side only: what lies farther than the
        # original itself did not fail to move, it moved elsewhere.
        if self.audit.card.peers and gap.value > power:
            return "overshoots"
        return "leaks" if gap.value * power > 0 else "overshoots"

    def _certain(self, answer: Answer) -> bool:
        """Return whether an answer differs from the retrained models' over records."""
        gap = self.gap if answer is self.unlearned else contrast(answer, self.retrained)
        if gap is None or answer.paired is None:
            return gap is not None and (gap.excludes(0.0) or gap.low is None)
        p = self._over_records(answer, gap)
        return p is not None and p < LEVEL

    def __str__(self) -> str:
        """State the number, both controls, and what can and cannot be concluded."""
        name = next(iter(self.unlearned.values))
        said = [_said(a.headline) for a in (self.unlearned, self.original, *self.retrained)]
        controls = ", ".join(said[2:]) or "none"
        warned = "".join(f" Note: {warning}." for warning in self.unlearned.warnings)
        return (
            f"{self.audit.card.name}: {name} {said[0]} (original {said[1]}, "
            f"retrained {controls}). {self._conclusion()}{warned}"
        )

    def _conclusion(self) -> str:
        ideal = self.audit.card.ideal
        if ideal != "retrained":
            return f"{'More' if ideal == 'max' else 'Less'} is better; it proves nothing."
        if self.undefined:
            return "Nothing can be concluded: the number is not defined for every model."
        if self.gap is None:
            return self._without_control()
        if self.floor is None:
            count = len(self.retrained)
            return (
                f"Distance to {count} retrained model{'s' * (count > 1)}: {self.gap}. Whether it "
                "exceeds what chance in training makes cannot be concluded: that takes more."
            )
        return {
            "cannot tell": "Nothing can be concluded from this audit: it cannot tell even "
            f"the original from retrained models, whose own spread is {self.floor:.3f}.",
            "like retraining": f"Distance to retraining: {self.gap}, not beyond the "
            f"retrained models' own spread, {self.floor:.3f}, or not surely. This audit finds "
            "no sign of the records, and would have found them in the original. Others may.",
            "unlike retraining": f"Distance to retraining: {self.gap}, beyond the retrained "
            f"models' own spread, {self.floor:.3f}. By itself this does not show the records.",
            "leaks": f"Distance to retraining: {self.gap}, beyond the retrained models' own "
            f"spread, {self.floor:.3f}, and on the original's side: the records still show.",
            "overshoots": f"Distance to retraining: {self.gap}, beyond the retrained models' "
            f"own spread, {self.floor:.3f}, and not towards the original: the result is not "
            "that of deletion, and the records may show by being treated unusually.",
        }[self.verdict]

    def _without_control(self) -> str:
        moved = (
            f"Unlearning moved it by {self.moved}. Whether the result equals a model that "
            "never saw the records cannot be concluded: there is no retrained model."
        )
        null = self.unlearned.null
        if self.audit.card.peers:
            return f"Without a control the distance is from the original's answers. {moved}" + (
                f" On records never trained on the distance is {null}." if null else ""
            )
        if null is None:
            return moved
        return {
            "cannot tell": "Nothing can be concluded: even the original lies where records "
            f"never trained on would put it, {null}. ",
            "like never trained": "It now lies where records never trained on would put it, "
            f"{null}; in the original it did not. ",
            "leaks": "It still lies, like the original, beyond where records never trained "
            f"on would put it, {null}: the records show. ",
            "overshoots": "It lies beyond where records never trained on would put it, "
            f"{null}, on the far side from the original: the records stand out anew. ",
        }[self.verdict] + moved

    @property
    def measured(self) -> dict[str, Json]:
        """What differs from run to run, apart from what does not."""
        return {
            "unlearned": dict(self.unlearned.measured),
            "original": dict(self.original.measured),
            "retrained": [dict(a.measured) for a in self.retrained],
        }

    def record(self) -> dict[str, Json]:
        """Return the finding as plain data, the same in every run of the same seeds."""
        card = self.audit.card
        settings = plain(self.audit)
        return {
            "audit": card.name,
            "version": card.version,
            "settings": {k: v for k, v in settings.items() if k not in ("name", "version")},
            "question": self.audit.question,
            "source": card.source,
            "ideal": card.ideal,
            "unit": card.unit,
            "decides": card.decides,
            "headline": next(iter(self.unlearned.values)),
            "unlearned": self.unlearned.record(),
            "original": self.original.record(),
            "retrained": [a.record() for a in self.retrained],
            "moved": _interval(self.moved),
            "gap": _interval(self.gap),
            "floor": self.floor,
            "p": self.p,
            "p_records": self.p_records,
            "verdict": self.verdict,
            "statement": str(self),
        }


@dataclass(frozen=True, kw_only=True)
class Audit(Settings, ABC):
    """A question about one model."""

    card: ClassVar[AuditCard]

    @property
    def needs(self) -> Needs:
        """Further models the question takes; a planner counts them without running."""
        return Needs()

    def work(self, request: Request, test: Data) -> Cost:
        """Return the samples that asking one model takes beyond its answers on every set."""
        del request, test
        return Cost()

    @property
    def question(self) -> str:
        """The question in plain words: the first line of the class's docstring."""
        return (type(self).__doc__ or "").strip().splitlines()[0]

    @abstractmethod
    def ask(self, subject: Subject, case: Case, seed: int) -> Answer:
        """Answer the question for `subject`, which may be any model of the case."""

    @final
    def __call__(self, case: Case, *, seed: int) -> Finding:
        """Ask of the unlearned model and of both controls, all with the same draws."""
        self.check(case)

        def ask(subject: Subject, case: Case) -> Answer:
            place = (key(self), seed, *case.place) if self.card.alone else None
            if place in subject.answers:
                return subject.answers[place]
            with rng.fenced(seed):
                answer = self.ask(subject, case, seed)
            if place is not None:
                subject.answers[place] = answer
            return answer

        single = self.card.peers and len(case.retrained) == 1
        controls = () if single else case.retrained
        return Finding(
            audit=self,
            case=case,
            unlearned=ask(case.unlearned, case),
            original=ask(case.original, case),
            retrained=tuple(ask(model, case.without(i)) for i, model in enumerate(controls)),
        )

    def check(self, case: Case) -> None:
        """Refuse, before any work, a case that cannot be answered."""
        name, task = self.card.name, case.request.task.card.name
        if task not in self.card.tasks:
            raise Refused(f"{name} is not for {task}, but for {', '.join(self.card.tasks)}")
        for subject in (case.unlearned, case.original, *case.retrained):
            if isinstance(subject, WhiteBox) and not subject.finite:
                raise Refused(
                    f"{name} expected finite weights, but those of {_role(subject, case)} hold NaN "
                    "or infinity; its training or unlearning diverged: lower the learning rate"
                )
            if subject.access < self.card.access:
                raise Refused(
                    f"{name} needs {self.card.access.name.lower()}, but a "
                    f"{type(subject).__name__} gives {subject.access.name.lower()} only"
                )
            if self.card.probes and not subject.live:
                raise Refused(
                    f"{name} asks about records that it makes up, of which a "
                    f"{type(subject).__name__} knows nothing; give a function that answers for "
                    "any record, Served(function) or Served(function, Access.LABELS)"
                )
        needs = self.needs
        if needs != Needs() and case.lab is None:
            raise Refused(f"{name} needs {needs}, which a lab makes; give the case a lab")
        if needs.unlearned and case.lab is not None and case.lab.unlearn is None:
            raise Refused(
                f"{name} needs {needs}, but here it is not known how the model was unlearned; "
                "run it from a spec (`expunge run`), or give the lab `unlearn`"
            )
        if needs.retrained and case.lab is not None:
            case.lab.check_recipe()
        if needs.shadows or needs.unlearned_shadows or needs.shadow_networks:
            self._check_shadows(case)

    def _check_shadows(self, case: Case) -> None:
        """Refuse a case whose shadow models would tell nothing, or something wrong."""
        lab = case.lab
        if lab is None:
            raise Refused(f"{self.card.name} needs shadow models; give the case a lab")
        lab.check_recipe()
        if self.needs.unlearned_shadows and (lab.unlearn is None or lab.unlearn.shadow is None):
            raise Refused(
                f"{self.card.name} has shadow models unlearn as the model in question did, but "
                "here it is not known how; run it from a spec (`expunge run`)"
            )
        members = set(lab.pool.find(case.request.forget).tolist())
        outsiders = lab.pool.find(case.nonmembers).tolist()
        trained = lab.pool.copies[lab.pool.find(case.request.retain)]
        leaked = torch.isin(lab.pool.copies[outsiders], trained)
        if bool(leaked.any()) or members.intersection(outsiders):
            count = int(leaked.sum()) + len(members.intersection(outsiders))
            raise Refused(
                f"{count} of {len(outsiders)} records taken for never trained on are in the "
                "training set too, with the same content; drop copies before splitting the data"
            )
