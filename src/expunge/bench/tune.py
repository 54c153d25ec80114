"""Search settings for the methods of a spec, on deletion problems of their own.

What results are reported on is not looked at: a search has the spec's records and recipe, but a
forget set without any of the spec's forgotten records, an original from a seed that the spec does
not use, and no test set at all. Every model and its scores go through the store, so that a search
can be killed at any moment, and costs nothing the second time.
"""

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, NamedTuple

from expunge.bench import stages
from expunge.bench.apart import Apart
from expunge.bench.problem import Problem
from expunge.bench.run import Event, Listen, problems, unheard
from expunge.bench.search import Result, Study, Trial, library, space
from expunge.bench.spec import Spec
from expunge.bench.stages import Bench, Pretrained, Stage
from expunge.bench.store import Artifact, Store
from expunge.bench.traces import looked
from expunge.bench.workers import Alone, Crew, Facts, Processes, spread
from expunge.config import plain, suggest
from expunge.core.cost import Cost, Meter
from expunge.core.descent import Diverged
from expunge.data.split import Forget
from expunge.method import Method
from expunge.methods.retrain import Retrain
from expunge.study.groups import frozen, labels
from expunge.types import Settings

SCORE = "scores"
VERSION = 1
SETS = ("forget", "retain", "val")
OBJECTIVES = {"gap": SETS, "validation": ("retain", "val")}
CONTROLS = 2  # enough to tell their mean from one model's luck
FIRST_SEED = 1000  # of originals to tune on, away from the seeds that people count from 0


@dataclass(frozen=True, kw_only=True)
class Tuning(Settings):
    """How settings are searched.

    A part is the absolute difference between a model's accuracy on a set and the mean accuracy of
    retrained models there; mean losses where the task has no accuracy. The default is
    `gap`: by `validation` alone the best method is often one that does nothing, since an original
    is as good on validation records as a retrained model is.

    Attributes:
        objective: What is minimised: the mean of the parts on the forget set, the retain set and
            validation (`gap`), or on the last two (`validation`).
        target: Accuracies, by set, that take the place of the retrained models'; for models as
            damaged as those that someone reports. The objective is the mean over these.
        trials: Of each method, at most; the first is the method as given.
        seconds: Of unlearning, after which no further trial of a method begins.
        seed: Of the forget set, the original and the search.
    """

    objective: Literal["gap", "validation"] = "gap"
    target: Mapping[str, float] = field(default_factory=dict)
    trials: int = 20
    seconds: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise ValueError(f"expected at least 1 trial, got {self.trials}")
        if self.seconds is not None and not self.seconds > 0:
            raise ValueError(f"expected seconds above 0, got {self.seconds}")
        if self.seed < 0:
            raise ValueError(f"expected seed >= 0, got {self.seed}")
        for name, value in self.target.items():
            if name not in SETS:
                raise ValueError(suggest(name, SETS, "set"))
            if not 0 <= value < math.inf:
                raise ValueError(f"expected a target >= 0 for {name}, got {value}")

    @property
    def sets(self) -> tuple[str, ...]:
        """The sets whose parts are averaged."""
        return tuple(self.target) or OBJECTIVES[self.objective]


@dataclass(frozen=True, eq=False, kw_only=True)
class Plan:
    """What is searched, and on what.

    Attributes:
        spec: The spec, with forget sets to tune on and only those methods that are searched.
        tuning: How.
        problems: Those of `spec`, without their test sets.
        titles: What they are, told apart.
        unsearched: The other methods that were asked for: they have nothing to search.
        seed: Of the original and of the methods.
        controls: How many retrained models to compare with.
        device: Where tensors live.
    """

    spec: Spec
    tuning: Tuning
    problems: Sequence[Problem] = field(repr=False)
    titles: Sequence[str]
    unsearched: tuple[Method, ...]
    seed: int
    controls: int
    device: str = "cpu"


@dataclass(frozen=True, eq=False, kw_only=True)
class Tuned:
    """What a search found.

    Attributes:
        problem: On which it searched.
        title: What that is.
        method: As given.
        trials: In the order they were asked for.
        references: What a model is compared with, by set.
    """

    problem: Problem = field(repr=False)
    title: str
    method: Method
    trials: Sequence[Trial]
    references: Mapping[str, float]

    @property
    def best(self) -> Trial | None:
        """The trial with the least objective, the first of several; None if all diverged."""
        done = [t for t in self.trials if t.result.objective is not None]
        return min(done, key=lambda t: t.result.objective or 0.0, default=None)

    @property
    def seconds(self) -> float:
        """What unlearning took in all trials together."""
        return sum(t.result.seconds or 0.0 for t in self.trials)


Heed = Callable[[Sequence[Tuned]], None]


def unheeded(found: Sequence[Tuned]) -> None:
    """Do nothing about what was found so far."""
    del found


def prepared(spec: Spec, tuning: Tuning, names: Sequence[str] = (), device: str = "cpu") -> Plan:
    """Say what will be searched; read the data, and compute nothing.

    Args:
        spec: Whose methods are tuned.
        tuning: How.
        names: Of the methods to tune; none given, all that have something to search.
        device: Where tensors live.

    Raises:
        ValueError: In one sentence, for what cannot be tuned.
    """
    library()
    if not spec.retrained and not tuning.target:
        raise ValueError(
            "tuning compares with retrained models, but the spec has retrained = 0; set it to 1 "
            "or more, or give accuracies to aim at"
        )
    if spec.problems:
        raise ValueError(
            "tuning searches one grid, but the spec lists 'problems'; give it one of them as "
            "'data', 'models' and 'forget'"
        )
    searched, others = _divided(spec, names)
    wanted = replace(
        spec,
        forget=tuple(
            Apart(like=forget, reported=spec.forget, seed=tuning.seed)
            for forget in _kinds(spec.forget)
        ),
        methods=searched,
        audits=(),
        tied={},
    )
    posed = withheld(wanted, device)
    return Plan(
        spec=wanted,
        tuning=tuning,
        problems=posed,
        titles=titles(wanted),
        unsearched=others,
        seed=next(s for s in count(FIRST_SEED + tuning.seed) if s not in spec.seeds),
        controls=0 if tuning.target else min(CONTROLS, spec.retrained),
        device=device,
    )


def withheld(spec: Spec, device: str) -> list[Problem]:
    """Return the problems of a spec; validation records stand where the test set was."""
    return [
        replace(
            problem,
            sets=problem.sets._replace(test=problem.request.val),
            test=problem.request.val,
        )
        for problem in problems(spec, device)
    ]


def titles(spec: Spec) -> list[str]:
    """Return a name for each problem, in the order in which they are posed."""
    parts = (spec.data, spec.models, [vars(forget)["like"] for forget in spec.forget])
    data, models, forgets = (
        labels([{"name": p.card.name, "settings": plain(p)} for p in part]) for part in parts
    )
    return [f"{d} · {m} · {f}" for d in data for m in models for f in forgets]


def _kinds(forgets: Sequence[Forget]) -> list[Forget]:
    """Return the forget sets that differ in more than their seed."""
    found: dict[str, Forget] = {}
    for forget in forgets:
        settings = {name: value for name, value in plain(forget).items() if name != "seed"}
        found.setdefault(frozen(settings), forget)
    return list(found.values())


def _divided(spec: Spec, names: Sequence[str]) -> tuple[tuple[Method, ...], tuple[Method, ...]]:
    """Return the methods to search and those that have nothing to search.

    Raises:
        ValueError: When the spec has no such method, or nothing would be searched.
    """
    known = [method.card.name for method in spec.methods]
    for name in names:
        if name not in known:
            raise ValueError(suggest(name, set(known), "method of this spec"))
    asked = [m for m in spec.methods if not names or m.card.name in names]
    searched = tuple(m for m in asked if space(m))
    others = tuple(m for m in asked if not space(m))
    idle = [m.card.name for m in others if m.card.name in names]
    if idle or not searched:
        raise ValueError(
            f"{', '.join(idle or dict.fromkeys(known))}: no setting to search; name a method with "
            "a learning rate, or one whose card says what to search"
        )
    return searched, others


def scored(problem: Problem, method: Method, seed: int) -> Stage:
    """Return the stage that asks how well the unlearned model does on every set but the test set.

    Its facts are `values`, by set and measure, and the `seconds` that unlearning took; or why
    it `diverged`.
    """
    subject = stages.unlearned(problem, method, seed)
    request = problem.request
    sets = {name: getattr(request, name) for name in SETS}
    about = {
        "stage": "score",
        "version": VERSION,
        "subject": subject.key,
        "data": {name: problem.digests[name] for name in SETS},
    }

    def make(bench: Bench, meter: Meter) -> Artifact:
        del meter
        artifact = bench.result(subject)
        try:
            values = looked(stages.restored(artifact, problem, method.fresh), sets, request.task)
        except Diverged as error:
            return Artifact({}, {"diverged": str(error)})
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            return Artifact({}, {"diverged": f"its {', '.join(bad)} is not finite"})
        return Artifact({}, {"values": values, "seconds": artifact.facts["measured"]["seconds"]})

    return Stage(
        kind=SCORE,
        what=f"scores of {method.card.name}, seed {seed}",
        about=about,
        needs=(subject,),
        work=Cost(forward=sum(map(len, sets.values()))),
        make=make,
    )


class Order(NamedTuple):
    """A computation, told in a way that travels between processes.

    Attributes:
        kind: The weights that training starts from, an original, or a model and its scores.
        problem: Its number.
        method: That unlearns, or that trains its original in its own way.
        seed: Of the method.
        what: What it is, in words; for whoever watches.
    """

    kind: Literal["start", "original", "scores"]
    problem: int
    method: Method
    seed: int
    what: str

    def stage(self, problem: Problem) -> Stage:
        """Return the stage that is ordered."""
        if self.kind == "scores":
            return scored(problem, self.method, self.seed)
        if self.kind == "original":
            return stages.original(problem, self.method, self.seed)
        start = problem.recipe.start
        assert isinstance(start, Pretrained)
        return start.stage

    def main(self, problem: Problem) -> Stage:
        """Return the stage that takes the time: scores are read off in a moment."""
        stage = self.stage(problem)
        return replace(stage.needs[0] if self.kind == "scores" else stage, what=self.what)


class Room:
    """Where orders are fulfilled: problems at hand, and a bench."""

    def __init__(
        self, posed: Sequence[Problem], bench: Bench, listen: Listen = unheard, total: int = 0
    ) -> None:
        self._problems, self._bench, self._listen, self._total = posed, bench, listen, total

    def __call__(self, order: Order) -> Facts:
        """Return the facts of what was ordered, and whether it was in the store."""
        problem, store, meter = self._problems[order.problem], self._bench.store, Meter()
        stage, main = order.stage(problem), order.main(problem)
        cached = store.has(stage.kind, stage.key)
        if not store.has(main.kind, main.key):
            self._listen(Event("start", main, 0, self._total, meter))
            self._bench.make(main, meter)
        return {"cached": cached, **self._bench.result(stage).facts}


@dataclass(frozen=True)
class Hire:
    """Opens a room in another process; several GPUs are shared out among them."""

    spec: Spec
    root: Path
    device: str

    def __call__(self, number: int) -> Room:
        device = spread(self.device, number)
        return Room(withheld(self.spec, device), Bench(Store(self.root)))


def tune(
    plan: Plan,
    store: Store,
    *,
    jobs: int = 1,
    listen: Listen = unheard,
    heed: Heed = unheeded,
) -> list[Tuned]:
    """Search, and return what was found, for each problem and each method.

    Searches of several methods and problems go on side by side; only where there are more
    workers than searches does one search have several trials at once.

    Args:
        plan: What to search.
        store: What was computed before, by any run.
        jobs: Processes that work at the same time.
        listen: Told of everything that is computed.
        heed: Given what was found so far, after every trial.

    Raises:
        Diverged: If a retrained model did: there is nothing to compare with.
        ValueError: If `jobs` is less than 1.
    """
    if jobs < 1:
        raise ValueError(f"expected at least 1 job, got {jobs}")
    store.sweep()
    waves, searches = _groundwork(plan), len(plan.problems) * len(plan.spec.methods)
    total = sum(map(len, waves)) + searches * plan.tuning.trials
    crew: Crew = Processes(jobs, Hire(plan.spec, store.root, plan.device))
    if jobs == 1:
        crew = Alone(Room(plan.problems, Bench(store), listen, total))
    with crew:
        runner = _Runner(plan, crew, listen, total)
        facts: dict[str, Facts] = {}
        for wave in waves:
            facts |= runner.all(wave)
        references = [_references(plan, problem, facts) for problem in plan.problems]
        studies = _studies(plan, math.ceil(jobs / searches))

        def found() -> list[Tuned]:
            return [
                Tuned(
                    problem=plan.problems[number],
                    title=plan.titles[number],
                    method=study.method,
                    trials=study.trials,
                    references=references[number],
                )
                for (number, _), study in studies.items()
            ]

        for (number, place), trial, told in runner.search(studies):
            result = judged(told, references[number], plan.tuning.sets)
            studies[number, place].tell(trial, result)
            heed(found())
    return found()


Name = tuple[int, int]  # of a study: the numbers of its problem and of its method


def _studies(plan: Plan, abreast: int) -> dict[Name, Study]:
    return {
        (number, place): Study(
            method,
            seed=plan.tuning.seed,
            trials=plan.tuning.trials,
            seconds=plan.tuning.seconds,
            abreast=abreast,
        )
        for number in range(len(plan.problems))
        for place, method in enumerate(plan.spec.methods)
    }


def _groundwork(plan: Plan) -> list[dict[str, Order]]:
    """Return what comes before any trial, by key: each lot needs the lots before it alone."""
    starts: dict[str, Order] = {}
    models: dict[str, Order] = {}
    for number, problem in enumerate(plan.problems):
        if isinstance(problem.recipe.start, Pretrained):
            order = Order("start", number, Retrain(), 0, "pretraining")
            starts[order.stage(problem).key] = order
        what = f"original, seed {plan.seed}"
        orders = [
            Order("original", number, method, plan.seed, what)
            for method in plan.spec.methods
            if "original" in method.needs
        ]
        orders += [
            Order("scores", number, Retrain(), seed, f"retrain, seed {seed}")
            for seed in range(plan.controls)
        ]
        models |= {order.stage(problem).key: order for order in orders}
    return [starts, models]


class _Runner:
    """Gives orders to a crew and tells a listener what became of them."""

    def __init__(self, plan: Plan, crew: Crew, listen: Listen, total: int) -> None:
        self._problems, self._seed = plan.problems, plan.seed
        self._crew, self._listen, self._total = crew, listen, total
        self._number = 0
        self._orders: dict[Hashable, Order] = {}

    def all(self, orders: Mapping[str, Order]) -> dict[str, Facts]:
        """Fulfil all orders and return the facts by key."""
        left, found = dict(orders), dict[str, Facts]()
        while left or self._crew.busy:
            while left and self._crew.free:
                key = next(iter(left))
                self._give(key, left.pop(key))
            key, facts = self._take()
            found[key] = facts
        return found

    def search(self, studies: Mapping[Name, Study]) -> Iterator[tuple[Name, int, Facts]]:
        """Yield the facts of every trial; tell the study of them before going on."""
        while True:
            while self._crew.free and (name := _next(studies)) is not None:
                trial, method = studies[name].ask()
                what = f"{method.card.name}, trial {trial}"
                self._give((name, trial), Order("scores", name[0], method, self._seed, what))
            if not self._crew.busy:
                return
            (name, trial), facts = self._take()
            yield name, trial, facts

    def _give(self, tag: Hashable, order: Order) -> None:
        self._orders[tag] = order
        self._crew.give(tag, order)

    def _take(self) -> tuple[Any, Facts]:
        tag, facts = self._crew.take()
        order = self._orders.pop(tag)
        stage = order.main(self._problems[order.problem])
        self._number += 1
        kind = "cached" if facts["cached"] else "done"
        self._listen(Event(kind, stage, self._number, self._total, Meter()))
        return tag, facts


def _next(studies: Mapping[Name, Study]) -> Name | None:
    """Return the study that is furthest behind of those that can ask."""
    ready = [name for name, study in studies.items() if study.ready]
    behind = [(studies[name].running, len(studies[name].asked), name) for name in ready]
    return min(behind)[-1] if behind else None


def _references(plan: Plan, problem: Problem, facts: Mapping[str, Facts]) -> dict[str, float]:
    """Return what models are compared with, by set: the retrained models' mean, or the target."""
    if plan.tuning.target:
        return dict(plan.tuning.target)
    told = [facts[scored(problem, Retrain(), seed).key] for seed in range(plan.controls)]
    for control in told:
        if "diverged" in control:
            raise Diverged(
                f"a retrained model diverged, so that there is nothing to compare with: "
                f"{control['diverged']}"
            )
    measured = [_measured(control["values"]) for control in told]
    return {name: fmean(values[name] for values in measured) for name in SETS}


def _measured(values: Mapping[str, float]) -> dict[str, float]:
    """Return the accuracy on every set, or where there is none the mean loss."""
    return {name: values.get(f"{name}/accuracy", values[f"{name}/loss"]) for name in SETS}


def judged(facts: Facts, references: Mapping[str, float], sets: Sequence[str]) -> Result:
    """Return what the scores of a model say of its settings."""
    if "diverged" in facts:
        return Result(objective=None, parts={}, values={}, seconds=None, why=facts["diverged"])
    values = _measured(facts["values"])
    parts = {name: abs(values[name] - references[name]) for name in sets}
    return Result(
        objective=fmean(parts.values()), parts=parts, values=values, seconds=facts["seconds"]
    )
