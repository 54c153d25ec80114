"""Expand a spec into stages, compute those that are missing, write the records."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Literal, NamedTuple

from expunge.bench import judging, stages
from expunge.bench.check import applicable, check, stand_in
from expunge.bench.problem import Pretraining, Problem, on_device, pose
from expunge.bench.record import record
from expunge.bench.spec import Spec
from expunge.bench.stages import Bench, Stage
from expunge.bench.store import Artifact, Store, write_text
from expunge.bench.traces import curve, traced
from expunge.config import plain
from expunge.core.cost import Meter
from expunge.data.forget import AtRandom, Forget
from expunge.data.memory import ByMemory
from expunge.method import Method
from expunge.study.folded import fold
from expunge.types import Architecture, Json, Sets, Source, Start


class Event(NamedTuple):
    """What a listener is told.

    Attributes:
        kind: `start` before a stage is computed, `done` after; `cached` if it need not be.
        stage: Which.
        number: Its place in the run, from 1.
        total: Stages in the run.
        meter: Counts the samples while the stage runs.
    """

    kind: Literal["start", "done", "cached"]
    stage: Stage
    number: int
    total: int
    meter: Meter


Listen = Callable[[Event], None]


def unheard(event: Event) -> None:
    """Tell nobody."""
    del event


@dataclass(frozen=True, eq=False)
class Cell:
    """One row of the grid: a method on a problem, with a seed.

    Attributes:
        problem: What is to be forgotten.
        method: By what.
        seed: Of the original and of the method.
        stage: Finds what there is to say of the result.
        trace: Watches the method; None where nobody asked for it.
    """

    problem: Problem
    method: Method
    seed: int
    stage: Stage = field(repr=False)
    trace: Stage | None = field(default=None, repr=False)


class Unready(ValueError):
    """A forget set that is chosen by models which have not been trained yet.

    Attributes:
        problem: Whose records and recipe they are of.
        stages: What trains them.
    """

    def __init__(self, problem: Problem, stages: Sequence[Stage], forget: Forget) -> None:
        super().__init__(
            f"the forget set '{forget.card.name}' is chosen by {len(stages)} shadow models, which "
            "have not been trained yet; `expunge run` trains them first"
        )
        self.problem, self.stages = problem, stages


def problems(spec: Spec, device: str = "cpu", store: Store | None = None) -> Iterator[Problem]:
    """Load the data and yield every problem of the grid, looked over.

    Args:
        spec: The grid.
        device: Where tensors live.
        store: Where the shadow models' answers are by which some forget sets are chosen.

    Raises:
        ValueError: In one sentence, for what does not fit together.
        Unready: For a forget set chosen by shadow models that are not in the store.
    """
    on_device(device)
    loaded: dict[Source, Sets] = {}

    def load(source: Source) -> Sets:
        if source not in loaded:
            loaded[source] = source.load()
        return loaded[source]

    for asked in spec.combinations():
        source, model, forget = asked.data, asked.model, asked.forget
        start = None
        if spec.pretraining is not None:
            other = load(spec.pretraining.data)
            start = beginning(spec.pretraining, other, model, device)
        given = partial(
            pose,
            load(source),
            model=model,
            training=asked.training or spec.training,
            holdout=spec.holdout,
            source=source,
            start=start,
            device=device,
        )
        if isinstance(forget, ByMemory):
            forget = ranked(forget, given(AtRandom(count=1)), store)
        problem = given(forget)
        check(problem, spec.methods, spec.audits)
        yield problem


def ranked(forget: ByMemory, problem: Problem, store: Store | None) -> ByMemory:
    """Return the forget set with what the shadow models say of every record.

    Args:
        forget: Chooses by it.
        problem: The same records, whatever is to be forgotten of them.
        store: Where the shadow models' answers are.

    Raises:
        Unready: Where some are not.
    """
    wanted = judging.shadows(problem, forget.shadows)
    if store is None or not all(store.has(stage.kind, stage.key) for stage in wanted):
        raise Unready(problem, wanted, forget)
    shadows = Bench(store).lab(problem).shadows(forget.shadows)
    return forget.seeing(shadows, problem.parts.test)


def beginning(pre: Pretraining, sets: Sets, model: Architecture, device: str) -> Start:
    """Return the weights that `model` starts from; nothing is trained yet."""
    data = sets.train.to(device)
    about = {"data": plain(pre.data), "descent": plain(pre.descent), "augment": plain(pre.augment)}
    return stages.pretraining(pre.recipe(sets, model), data, pre.seed, about)


def expand(spec: Spec, device: str = "cpu", store: Store | None = None) -> list[Cell]:
    """Return the grid's cells in the order of the spec."""
    cells = []
    for problem in problems(spec, device, store):
        audits = spec.audits or applicable(stand_in(problem), shadows=True)
        for method, seed in product(spec.methods, spec.seeds_of(problem.forget)):
            stage = judging.audited(problem, method, seed, audits, spec.retrained)
            trace = spec.trace and traced(problem, method, seed, spec.trace)
            cells.append(Cell(problem, method, seed, stage, trace))
    return cells


def order(cells: Sequence[Cell]) -> list[Stage]:
    """Return every stage once, each after those it needs."""
    found: dict[str, Stage] = {}

    def visit(stage: Stage) -> None:
        if stage.key not in found:
            for needed in stage.needs:
                visit(needed)
            found[stage.key] = stage

    for cell in cells:
        if cell.trace is not None:  # first: it leaves the model that the other asks for
            visit(cell.trace)
        visit(cell.stage)
    return list(found.values())


def run(
    spec: Spec,
    folder: Path,
    store: Store,
    *,
    device: str = "cpu",
    listen: Listen = unheard,
) -> list[Json]:
    """Compute what is missing and write `records.jsonl` and the splits to `folder`.

    It may be killed at any moment; the same call then goes on where it was.

    Args:
        spec: What to compute.
        folder: Where records go; every record is written as soon as it is known.
        store: What was computed before, by any run.
        device: Where tensors live.
        listen: Told of every stage.

    Returns:
        One record per cell, in the order of the spec.
    """
    while True:
        try:
            cells = expand(spec, device, store)
        except Unready as first:
            bench, total = Bench(store), len(first.stages)
            for number, stage in enumerate(first.stages, start=1):
                compute(bench, stage, number, total, listen)
        else:
            return walk(spec.name, cells, folder, store, listen=listen)


def walk(
    name: str,
    cells: Sequence[Cell],
    folder: Path,
    store: Store,
    *,
    listen: Listen = unheard,
) -> list[Json]:
    """Do what `run` does, for cells at hand."""
    store.sweep()
    bench, total = Bench(store), len(order(cells))
    keep_splits(cells, folder)
    done, seen = set[str](), set[str]()
    records, lines = list[Json](), list[str]()
    for cell, before in zip(cells, [None, *cells], strict=False):
        if before is None or before.problem is not cell.problem:
            bench.clear()
        for stage in order([cell]):
            if stage.key not in done:
                done.add(stage.key)
                compute(bench, stage, len(done), total, listen)
        found = bench.result(cell.stage).facts
        if cell.trace is not None:
            found = {**found, "curve": curve(bench.result(cell.trace))}
        records.append(record(name, cell.problem, cell.method, cell.seed, found, cell.stage.key))
        lines.append(json.dumps(fold(records[-1], seen)) + "\n")
        write_text(folder / "records.jsonl", "".join(lines))
    return records


def compute(bench: Bench, stage: Stage, number: int, total: int, listen: Listen) -> Artifact:
    """Return one stage's result, computed unless it is in the store; tell the listener."""
    meter = Meter()
    kept = bench.store.get(stage.kind, stage.key)
    if kept is None:
        listen(Event("start", stage, number, total, meter))
    found = kept or bench.make(stage, meter)
    listen(Event("cached" if kept else "done", stage, number, total, meter))
    return found


def keep_splits(cells: Sequence[Cell], folder: Path) -> None:
    """Write each split as index tensors, named by its hash."""
    splits = Store(folder)
    for parts in {cell.problem.parts.digest: cell.problem.parts for cell in cells}.values():
        if not splits.has("splits", parts.digest):
            splits.put("splits", parts.digest, Artifact(parts.tensors(), {"digest": parts.digest}))
