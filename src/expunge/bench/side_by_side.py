"""The stages of a grid computed by several processes; what they make lies in the store."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from expunge.bench.problem import Problem
from expunge.bench.run import Event, Listen, Unready, expand, order
from expunge.bench.spec import Spec
from expunge.bench.stages import Bench, Stage
from expunge.bench.store import Store
from expunge.bench.workers import Facts, Processes, spread
from expunge.core.cost import Meter


@dataclass(frozen=True)
class Hand:
    """What a process is hired with.

    Attributes:
        spec: Of the grid.
        root: Of the store.
        device: Where tensors live; several GPUs are dealt out.
    """

    spec: Spec
    root: Path
    device: str

    def __call__(self, number: int) -> "Desk":
        """Read the data and return what computes a stage."""
        store = Store(self.root)
        return Desk(Bench(store), planned(self.spec, spread(self.device, number), store))


class Desk:
    """Where a process computes stages, by their keys."""

    def __init__(self, bench: Bench, stages: Sequence[tuple[Stage, Problem]]) -> None:
        self._bench = bench
        self._stages = {stage.key: (stage, problem) for stage, problem in stages}
        self._problem: Problem | None = None

    def __call__(self, key: str) -> Facts:
        """Compute the stage and keep it."""
        stage, problem = self._stages[key]
        if problem is not self._problem:
            self._bench.clear()
            self._problem = problem
        self._bench.make(stage, Meter())
        return {}


def planned(spec: Spec, device: str, store: Store) -> list[tuple[Stage, Problem]]:
    """Return every stage that can be told by now, each with a problem it is for."""
    try:
        cells = expand(spec, device, store)
    except Unready as first:
        return [(stage, first.problem) for stage in first.stages]
    owner: dict[str, Problem] = {}
    for cell in cells:
        for stage in order([cell]):
            owner.setdefault(stage.key, cell.problem)
    return [(stage, owner[stage.key]) for stage in order(cells)]


def ahead(spec: Spec, store: Store, jobs: int, device: str, listen: Listen) -> None:
    """Compute every stage of the grid that is not in the store, `jobs` at the same time.

    It may be killed at any moment; whole results are kept, and the same call goes on.

    Args:
        spec: The grid.
        store: Where results go.
        jobs: How many processes.
        device: Where tensors live.
        listen: Told of every stage that is done.
    """
    while True:
        stages = [stage for stage, _ in planned(spec, device, store)]
        if all(store.has(stage.kind, stage.key) for stage in stages):
            return
        _compute(stages, store, Hand(spec, store.root, device), jobs, listen)


def _compute(stages: Sequence[Stage], store: Store, hand: Hand, jobs: int, listen: Listen) -> None:
    by_key = {stage.key: stage for stage in stages}
    at_work: dict[str, Stage] = {}
    left = [stage for stage in stages if not store.has(stage.kind, stage.key)]
    with Processes(jobs, hand) as crew:
        while left or crew.busy:
            for stage in _ready(left, at_work, store):
                if not crew.free:
                    break
                crew.give(stage.key, stage.key)
                at_work[stage.key] = stage
            key, _ = crew.take()
            stage = at_work.pop(key)
            left = [s for s in left if not store.has(s.kind, s.key)]
            done = len(by_key) - len(left)
            listen(Event("done", stage, done, len(by_key), Meter()))


def _ready(left: Sequence[Stage], at_work: Mapping[str, Stage], store: Store) -> Iterator[Stage]:
    """Yield stages whose needs are there, but for those that one at work leaves."""
    coming = {by_the_way.key for stage in at_work.values() for by_the_way in stage.leaves}
    for stage in left:
        if stage.key in at_work or stage.key in coming:
            continue
        if all(store.has(needed.kind, needed.key) for needed in stage.needs):
            coming |= {by_the_way.key for by_the_way in stage.leaves}
            yield stage
