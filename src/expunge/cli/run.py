"""`expunge run`: compute a grid, resume it, price it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from expunge.cli.flags import MaybePath, Switch, Work
from expunge.cli.inputs import look_in

if TYPE_CHECKING:
    from expunge.bench.plan import Item
    from expunge.bench.run import Cell, Unready
    from expunge.bench.spec import Spec
    from expunge.bench.store import Store


@dataclass(frozen=True, kw_only=True)
class Run:
    """Compute a grid of data, models, forget sets, methods, seeds and audits.

    What was computed before, by any run, is fetched from the store. A run that was
    killed goes on with the same command.

    Attributes:
        spec: The TOML file that says what to compute.
        out: Where records and report go; left out, runs/ and the name of the spec.
        store: Where models and findings are kept.
        data_root: Folder to look for data sets in before any download.
        device: cpu, cuda or mps.
        jobs: How many processes compute side by side.
        plan: Print what would be computed, what is cached and what the rest would
            take, and stop.
        json: Print JSON on standard output.
    """

    spec: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SPEC")]
    out: MaybePath = None
    store: Path = Path("runs/store")
    data_root: MaybePath = None
    device: str = "cpu"
    jobs: int = 1
    plan: Switch = False
    json: Switch = False

    def prepare(self) -> Work:
        from expunge.bench import spec
        from expunge.bench.store import Store

        if self.jobs < 1:
            raise ValueError(f"expected --jobs >= 1, got {self.jobs}")
        look_in(self.data_root)
        wanted = spec.read(self.spec)
        if not self.plan:
            out = self.out or Path("runs") / wanted.name
            begun = computing(wanted, out, self.store, device=self.device, as_json=self.json)
            return begun if self.jobs == 1 else lambda: self._ahead(wanted) or begun()
        store = Store(self.store)
        cells = expanded(wanted, self.device, store)
        return lambda: planned(cells, store, as_json=self.json)

    def _ahead(self, spec: "Spec") -> int:
        """Compute the stages in several processes; what follows finds them in the store."""
        from expunge.bench.side_by_side import ahead
        from expunge.bench.store import Store
        from expunge.cli.console import progress

        with progress(quiet=self.json) as board:
            ahead(spec, Store(self.store), self.jobs, self.device, board.listen)
        return 0


def expanded(spec: "Spec", device: str, store: "Store") -> "list[Cell] | Unready":
    """Read the data and return every cell of the grid, or what it waits for.

    Raises:
        ValueError: In one sentence, for what does not fit together.
    """
    from expunge.bench import run
    from expunge.cli.console import spinner

    with spinner("reading data"):
        try:
            return run.expand(spec, device, store)
        except run.Unready as first:
            return first


def computing(spec: "Spec", out: Path, store: Path, *, device: str, as_json: bool) -> Work:
    """Check that a run can start, and return what runs it and writes its report."""
    from expunge.bench.store import Store, probe

    probe(out)
    probe(store)
    kept = Store(store)
    cells = expanded(spec, device, kept)
    return lambda: _compute(spec, cells, out, kept, device=device, as_json=as_json)


def _compute(
    spec: "Spec",
    cells: "Sequence[Cell] | Unready",
    out: Path,
    store: "Store",
    *,
    device: str,
    as_json: bool,
) -> int:
    from expunge.bench import run
    from expunge.cli.console import emit, progress
    from expunge.cli.report import conclude

    with progress(quiet=as_json) as board:
        if isinstance(cells, run.Unready):
            records = run.run(spec, out, store, device=device, listen=board.listen)
        else:
            records = run.walk(spec.name, cells, out, store, listen=board.listen)
    page = conclude(records, out / "report.html", quiet=as_json)
    if as_json:
        emit({"records": str(out / "records.jsonl"), "report": str(page), "count": len(records)})
    return 0


def planned(cells: "Sequence[Cell] | Unready", store: "Store", *, as_json: bool) -> int:
    """Print the plan of a grid, or of what must be trained before there is one."""
    from expunge.bench.plan import plan, price
    from expunge.bench.run import Unready
    from expunge.cli.console import say, spinner

    with spinner("timing a few steps"):
        if isinstance(cells, Unready):
            items = price([(stage, cells.problem) for stage in cells.stages], store)
        else:
            items = plan(cells, store)
    if isinstance(cells, Unready):
        say(
            "Shadow models choose a forget set of this grid. What they take is listed here; the "
            "rest follows when they are trained."
        )
    return tell_plan(items, store, as_json=as_json)


def tell_plan(items: "list[Item]", store: "Store", *, as_json: bool) -> int:
    """Print every stage, whether it is cached, and what the rest would take."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from expunge.cli.console import duration, emit, out, say, size

    missing = [item for item in items if not item.cached]
    seconds, bytes_ = sum(i.seconds for i in missing), sum(i.size for i in missing)
    if as_json:
        stages = [
            {
                "what": i.stage.what,
                "key": i.stage.key,
                "cached": i.cached,
                "seconds": i.seconds,
                "bytes": i.size,
            }
            for i in items
        ]
        emit({"stages": stages, "missing": len(missing), "seconds": seconds, "bytes": bytes_})
        return 0
    table = Table("stage", "state", box=SIMPLE_HEAD)
    table.add_column("time", justify="right")
    table.add_column("disk", justify="right")
    for item in items:
        rest = ("cached", "", "")
        if not item.cached:
            rest = ("to compute", duration(item.seconds), size(item.size))
        table.add_row(Text(item.stage.what), *rest)
    out.print(table)
    known = f"{len(items)} stages, {len(items) - len(missing)} cached, {len(missing)} missing."
    say(
        f"{known} They would take about {duration(seconds)}, and {size(bytes_)} in "
        f"{store.root}, on this machine. Nothing was computed."
        if missing
        else f"{known} There is nothing to compute."
    )
    return 0
