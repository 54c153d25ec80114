"""Learning curves of unlearning: how often a model is right, and how wrong, after every round.

A trace is a stage of its own, beside the model's. Watching changes no result, so the model's
key does not depend on it: switching traces on computes no original, no control and no finding
again. A method that has not run yet runs once, watched, and leaves its model behind as well.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from expunge.audit import Audit, Case
from expunge.bench.judging import further
from expunge.bench.problem import Problem
from expunge.bench.stages import Bench, Stage, original, restored, unlearn, unlearned
from expunge.bench.store import Artifact
from expunge.config import plain
from expunge.core.cost import Cost, Meter
from expunge.core.descent import Diverged
from expunge.core.rng import derive, generator
from expunge.method import Method, Sizes
from expunge.relapse import UNLABELLED, look
from expunge.subject import WhiteBox
from expunge.types import Data, Json, Refused, Settings, Task, later

log = logging.getLogger(__name__)

TRACE = "traces"
VERSION = 1

Curves = dict[str, Tensor]
Look = Callable[[nn.Module], Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class Tracing(Settings):
    """What is looked at after every round.

    Attributes:
        retain: Retained records that are asked, drawn once; left out, all of them.
        audits: What else is asked after every round: a forgetting rate, say.
    """

    retain: int | None = None
    audits: tuple[Audit, ...] = later(())

    def __post_init__(self) -> None:
        if self.retain is not None and self.retain < 1:
            raise ValueError(f"expected at least 1 retained record, got {self.retain}")
        for audit in self.audits:
            if audit.needs.unlearned or audit.needs.unlearned_shadows:
                raise ValueError(
                    f"{audit.card.name} has the method run again, which cannot be done after every "
                    "round; ask it under [[audits]]"
                )

    def sets(self, problem: Problem) -> dict[str, Data]:
        """Return the records that are asked, by the name of their set."""
        request = problem.request
        retain = request.retain
        if self.retain is not None and self.retain < len(retain):
            order = torch.randperm(len(retain), generator=generator(0, "trace"))
            retain = retain.select(order[: self.retain].sort().values)
        return {
            "retain": retain,
            "forget": request.forget,
            "val": request.val,
            "test": problem.test,
        }


class Watcher:
    """Looks at a model after every round.

    Attributes:
        sets: What it asks of.
        seen: By name, what it saw: one number for each look.
    """

    def __init__(self, sets: Mapping[str, Data], task: Task, more: Look | None = None) -> None:
        self.sets = sets
        self.seen: dict[str, list[float]] = {}
        self._task = task
        self._more = more

    def __call__(self, model: nn.Module, number: int) -> None:
        del number
        found = looked(model, self.sets, self._task)
        if self._more is not None:
            found |= self._more(model)
        for name, value in found.items():
            self.seen.setdefault(name, []).append(value)

    def ended(self, model: nn.Module) -> None:
        """Look at the result, which may differ from what the last round left.

        It stands in the last round's place; without rounds it is the first look.
        """
        rounds = len(next(iter(self.seen.values()))) - 1
        if rounds:
            for values in self.seen.values():
                values.pop()
        self(model, rounds)

    @property
    def curves(self) -> Curves:
        return {k: torch.tensor(v, dtype=torch.double) for k, v in self.seen.items()}


def looked(model: nn.Module, sets: Mapping[str, Data], task: Task) -> dict[str, float]:
    """Return the accuracy, where the task has one, and the mean loss on every set."""
    values = {}
    for name, data in sets.items():
        loss, accuracy = look(model, data, task, 0)
        if task.card.name not in UNLABELLED:
            values[f"{name}/accuracy"] = accuracy
        values[f"{name}/loss"] = loss
    return values


def traced(problem: Problem, method: Method, seed: int, tracing: Tracing) -> Stage | None:
    """Return the stage that runs the method watched; None for one that starts anew.

    Retraining has no original to start a curve from, and running it again for one would
    double the dearest stage there is.
    """
    if "original" not in method.needs:
        return None
    before, subject = original(problem, method, seed), unlearned(problem, method, seed)
    sets = tracing.sets(problem)
    about = {
        "stage": "trace",
        "version": VERSION,
        "subject": subject.key,
        "original": before.key,
        "settings": plain(tracing),
        "data": {name: problem.digests[name] for name in ("retain", "forget", "val", "test")},
    }

    def make(bench: Bench, meter: Meter) -> Artifact:
        task = problem.request.task
        watcher = Watcher(sets, task)
        facts: dict[str, Json] = {"records": {name: len(data) for name, data in sets.items()}}
        try:
            if tracing.audits:
                watcher = Watcher(sets, task, asking(bench, problem, method, seed, tracing.audits))
            watcher(restored(bench.result(before), problem, method.fresh), 0)
        except (Diverged, Refused):
            return Artifact({}, facts)
        made = unlearn(bench, problem, method, seed, meter, watch=watcher)
        if not bench.store.has(subject.kind, subject.key):
            bench.store.put(subject.kind, subject.key, made)
        if made.tensors:  # there is a model: it neither diverged nor was refused
            watcher.ended(restored(made, problem, method.fresh))
        return Artifact({f"curve/{k}": v for k, v in watcher.curves.items()}, facts)

    looks = 2 + _rounds(method)
    asked = sum(len(data) for data in sets.values())
    return Stage(
        kind=TRACE,
        what=f"{method.card.name} watched, seed {seed}",
        about=about,
        needs=(before, *further(problem, method, seed, tracing.audits)),
        work=method.work(Sizes.of(problem.request)) + Cost(forward=looks * asked),
        make=make,
        leaves=(subject,),
    )


def asking(
    bench: Bench, problem: Problem, method: Method, seed: int, audits: Sequence[Audit]
) -> Look:
    """Return what asks audits of a model half-way, without controls but for the original.

    What an audit cannot be asked of such a model is NaN in that round: its refusal is no refusal
    of the method that is being watched.
    """
    before = bench.subject(original(problem, method, seed), problem, method.fresh)
    lab = bench.lab(problem, seed, train=bench.trained)
    known: dict[str, tuple[str, ...]] = {}  # what each audit gave of the original

    def look(model: nn.Module) -> dict[str, float]:
        subject, found = WhiteBox(model), dict[str, float]()
        case = Case(
            original=before,
            unlearned=subject,
            request=lab.request,
            test=problem.test,
            alike=problem.alike,
            unseen=problem.sets.unseen,
            lab=lab,
        )
        for audit in audits:
            own = audit.card.name
            try:
                audit.check(case)
                values = audit.ask(subject, case, derive(seed, "audit")).values
            except Refused as reason:
                if own not in known:  # the original: there is no curve to start
                    raise
                log.warning("%s was left out of a round: %s", own, reason)
                values = dict.fromkeys(known[own], float("nan"))
            known[own] = tuple(values)
            found |= {f"{own}/{name}": value for name, value in values.items()}
        return found

    return look


def _rounds(method: Method) -> int:
    """Return about how many rounds there are, for the price of looking at them."""
    own = getattr(method, "iterations", 0)
    return getattr(getattr(method, "descent", None), "epochs", own)


def curve(artifact: Artifact) -> Json:
    """Return a trace as a record holds it.

    Returns:
        `epoch`, from 0, which is the original, to the last, which is the result; `records`, how
        many were asked of each set; and by set and `accuracy` or `loss` a number for each
        epoch, None where it was not finite. None where there is no original.
    """
    if not artifact.tensors:
        return None
    out: dict[str, Json] = {"records": artifact.facts["records"]}
    for name, values in artifact.tensors.items():
        _, part, kind = name.split("/")
        numbers = [round(v, 6) if math.isfinite(v) else None for v in values.tolist()]
        out["epoch"] = list(range(len(numbers)))
        out.setdefault(part, {})[kind] = numbers
    return out
