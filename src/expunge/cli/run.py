"""`expunge run`: compute a grid, resume it, price it."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from expunge.bench.plan import Item
    from expunge.bench.spec import Spec
    from expunge.bench.store import Store


@dataclass(frozen=True, kw_only=True)
class Run:
    """Compute a grid of data, models, forget sets, methods, seeds and audits.

    What was computed before, by any run, is fetched from the store. A run that was
    killed goes on with the same command.

    Attributes:
        spec: The TOML file that says what to compute.
        out: Where records and report go; left out, `runs/<name of the spec>`.
        store: Where models and findings are kept.
        data_root: Folder to look for data sets in before any download.
        device: cpu, cuda or mps.
        plan: Print what would be computed, what is cached and what the rest would
            take, and stop.
        json: Print JSON on standard output.
    """

    spec: Annotated[Path, tyro.conf.Positional]
    out: Path | None = None
    store: Path = Path("runs/store")
    data_root: Path | None = None
    device: str = "cpu"
    plan: bool = False
    json: bool = False

    def __call__(self) -> int:
        from expunge.bench import run, spec
        from expunge.bench.plan import plan
        from expunge.bench.store import Store
        from expunge.cli.console import spinner

        if self.data_root:
            os.environ["EXPUNGE_DATA"] = str(self.data_root)
        wanted = spec.read(self.spec)
        out = self.out or Path("runs") / wanted.name
        if self.plan:
            with spinner("reading data and timing a few steps", quiet=self.json):
                store = Store(self.store)
                items = plan(run.expand(wanted, self.device), store)
            return tell_plan(items, store, as_json=self.json)
        return finish(wanted, out, self.store, device=self.device, as_json=self.json)


def finish(spec: "Spec", out: Path, store: Path, *, device: str, as_json: bool) -> int:
    """Run a spec with progress, write its report, print its table."""
    from expunge.bench import run
    from expunge.bench.store import Store
    from expunge.cli.console import emit, progress
    from expunge.cli.report import conclude

    with progress(quiet=as_json) as board:
        records = run.run(spec, out, Store(store), device=device, listen=board.listen)
    page = conclude(records, out / "report.html", quiet=as_json)
    if as_json:
        emit({"records": str(out / "records.jsonl"), "report": str(page), "count": len(records)})
    return 0


def tell_plan(items: "list[Item]", store: "Store", *, as_json: bool) -> int:
    """Print every stage, whether it is cached, and what the rest would take."""
    from rich.table import Table

    from expunge.cli.console import duration, emit, out, size

    missing = [item for item in items if not item.cached]
    seconds, bytes_ = sum(i.seconds for i in missing), sum(i.size for i in missing)
    if as_json:
        stages = [
            {"what": i.stage.what, "key": i.stage.key, "cached": i.cached, "seconds": i.seconds}
            for i in items
        ]
        emit({"stages": stages, "missing": len(missing), "seconds": seconds, "bytes": bytes_})
        return 0
    table = Table("stage", "state", "time", "disk")
    for item in items:
        rest = ("cached", "", "") if item.cached else _price(item.seconds, item.size)
        table.add_row(item.stage.what, *rest)
    out.print(table)
    out.print(
        f"{len(items)} stages, {len(items) - len(missing)} cached. The other {len(missing)} "
        f"take about {duration(seconds)} and {size(bytes_)} in {store.root} on this machine. "
        "Nothing was computed."
    )
    return 0


def _price(seconds: float, bytes_: int) -> tuple[str, str, str]:
    from expunge.cli.console import duration, size

    return "to compute", duration(seconds), size(bytes_)
