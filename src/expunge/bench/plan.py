"""What a run would compute, what is there already, and what the rest would take."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from expunge.bench.problem import Problem
from expunge.bench.run import Cell, order
from expunge.bench.stages import ANSWER, MODEL, RECORD, Stage
from expunge.bench.store import Store
from expunge.core.cost import Cost
from expunge.core.descent import Pass, descend
from expunge.core.rng import derive, fenced, generator
from expunge.core.state import mode

STEPS = 4  # timed after one untimed step; enough to tell minutes from hours


@dataclass(frozen=True)
class Item:
    """One stage of a plan.

    Attributes:
        stage: What would be computed.
        cached: Whether it is in the store.
        seconds: Estimated time; 0 where it is cached, or where another stage leaves it.
        size: Estimated bytes on disk; 0 where it is cached.
    """

    stage: Stage
    cached: bool
    seconds: float
    size: int


@dataclass(frozen=True)
class Pace:
    """Measured seconds per sample, on this machine, now."""

    forward: float
    step: float

    def seconds(self, work: Cost) -> float:
        """Return how long `work` would take; a step is a forward and a backward."""
        steps = work.backward
        return steps * self.step + max(0, work.forward - steps) * self.forward


def plan(cells: Sequence[Cell], store: Store) -> list[Item]:
    """Return every stage of a grid with its price."""
    owner = {s.key: cell.problem for cell in cells for s in order([cell])}
    return price([(stage, owner[stage.key]) for stage in order(cells)], store)


def price(owned: Sequence[tuple[Stage, Problem]], store: Store) -> list[Item]:
    """Price stages; for those not cached a few steps of training are timed."""
    paces: dict[str, Pace] = {}
    items, left = [], set[str]()
    for stage, problem in owned:
        cached = store.has(stage.kind, stage.key)
        free = cached or stage.key in left
        if not free and problem.key not in paces:
            paces[problem.key] = pace(problem)
        seconds = paces[problem.key].seconds(stage.work) if not free else 0.0
        if not cached and stage.kind == RECORD:
            seconds += _judging(stage, problem)
        if not cached:
            left |= {by_the_way.key for by_the_way in stage.leaves}
        items.append(Item(stage, cached, seconds, 0 if cached else _size(stage, problem)))
    return items


def pace(problem: Problem) -> Pace:
    """Time some steps of training, and some of prediction, on a throw-away network."""
    recipe, data = problem.recipe, problem.sets.train
    size = min(recipe.descent.batch_size, len(data))
    some = data.select(torch.arange(min(len(data), size * STEPS)))
    with fenced(derive(0, "pace")):
        model = recipe.drawn().to(data.y.device)
        teach = Pass(some, lambda batch: recipe.task.loss(model, batch), "update")

        def once() -> float:
            start = time.perf_counter()
            descend(model, [[teach]], recipe.descent, recipe, generator(0, "pace"))
            return time.perf_counter() - start

        once()
        step = once() / len(some)
        start = time.perf_counter()
        with torch.no_grad(), mode(model, training=False):
            for batch in recipe.ordered(some, 500, generator(0, "pace")):
                model(batch.x)
        forward = (time.perf_counter() - start) / len(some)
    return Pace(forward, step)


def _judging(stage: Stage, problem: Problem) -> float:
    """Return the seconds of the audits themselves, apart from the models' answers.

    Attacks and bootstraps grow with the forget set. The numbers were measured with all
    five audits on one core of a server of 2023; faster and slower ones are near enough.
    """
    models = len(stage.needs)
    return models * (0.06 + 7e-4 * len(problem.request.forget))


def _size(stage: Stage, problem: Problem) -> int:
    if stage.kind == MODEL:
        with fenced(0):
            state = problem.recipe.drawn().state_dict().values()
        return sum(t.numel() * t.element_size() for t in state)
    if stage.kind == ANSWER:
        return 4 * len(problem.pool)  # a margin per record
    return 40 * len(problem.request.forget) + 100_000  # a risk per record, tables, curves
