"""`expunge tune`: settings for the methods of a spec, searched where nothing is reported on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from expunge.cli.flags import MaybePath, Names, Switch, Work, flat
from expunge.cli.inputs import look_in

if TYPE_CHECKING:
    from rich.table import Table

    from expunge.bench.tune import Plan, Tuned

MaybeSeconds = Annotated[float | None, tyro.conf.arg(metavar="S", help_behavior_hint="")]
Aims = Annotated[
    tuple[tuple[str, ...], ...],
    tyro.conf.UseAppendAction,
    tyro.conf.arg(metavar="SET=VALUE ...", help_behavior_hint=""),
]


@dataclass(frozen=True, kw_only=True)
class Tune:
    """Search settings for the methods of a spec, against retrained models.

    The search has forget sets and originals of its own, and no test set, so that nothing that
    results are reported on is looked at. A search that was killed goes on with the same command.

    Attributes:
        spec: The TOML file whose methods are tuned.
        method: Which of its methods; left out, all that have something to search.
        objective: What is minimised: the mean distance to retrained models' accuracy on
            forget, retain and validation records (gap), or on the last two (validation).
        target: Accuracies to aim at in place of the retrained models', as in
            `forget=0.05 val=0.3`; only the sets that are named count.
        trials: How many settings of each method to try, those of the spec included.
        seconds: After how many seconds of unlearning no further trial of a method begins.
        jobs: How many trials run at the same time, each in a process of its own.
        seed: Of the forget set, the original and the search.
        out: Where the TOML to paste into a spec goes, with every trial beside it as JSON
            lines; left out, runs/, the name of the spec and tuned.toml.
        store: Where models and scores are kept.
        data_root: Folder to look for data sets in before any download.
        device: cpu, cuda or mps.
        json: Print JSON on standard output.
    """

    spec: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SPEC")]
    method: Names = ()
    objective: Literal["gap", "validation"] = "gap"
    target: Aims = ()
    trials: int = 20
    seconds: MaybeSeconds = None
    jobs: int = 1
    seed: int = 0
    out: MaybePath = None
    store: Path = Path("runs/store")
    data_root: MaybePath = None
    device: str = "cpu"
    json: Switch = False

    def prepare(self) -> Work:
        from expunge.bench import spec, tune
        from expunge.bench.store import probe
        from expunge.cli.console import spinner

        look_in(self.data_root)
        wanted = spec.read(self.spec)
        tuning = tune.Tuning(
            objective=self.objective,
            target=aims(flat(self.target, "--target")),
            trials=self.trials,
            seconds=self.seconds,
            seed=self.seed,
        )
        if self.jobs < 1:
            raise ValueError(f"expected --jobs >= 1, got {self.jobs}")
        out = self.out or Path("runs") / wanted.name / "tuned.toml"
        if out.suffix != ".toml":
            raise ValueError(f"expected --out to end in .toml, got {out}")
        probe(out.parent)
        probe(self.store)
        with spinner("reading data"):
            plan = tune.prepared(wanted, tuning, flat(self.method, "--method"), self.device)
        return lambda: self._work(plan, out)

    def _work(self, plan: "Plan", out: Path) -> int:
        import json

        from expunge.bench.store import Store, write_text
        from expunge.bench.tune import tune
        from expunge.bench.tuned import fragment, lines
        from expunge.cli import console

        trials = out.with_suffix(".jsonl")

        def keep(found: "Sequence[Tuned]") -> None:
            text = "".join(json.dumps(line) + "\n" for line in lines(plan, found))
            write_text(trials, text)

        with console.progress(quiet=self.json) as board:
            found = tune(plan, Store(self.store), jobs=self.jobs, listen=board.listen, heed=keep)
        write_text(out, fragment(plan, found))
        if self.json:
            best = [best_of(tuned) for tuned in found]
            console.emit({"spec": str(out), "trials": str(trials), "best": best})
            return 0
        console.out.print(table(found))
        console.say(f"Settings to paste into a spec: {out}\nEvery trial: {trials}")
        return 0


def aims(texts: Sequence[str]) -> dict[str, float]:
    """Read values to aim at, such as `forget=0.05`.

    Raises:
        ValueError: When one is not of that form, or a set is named twice.
    """
    found: dict[str, float] = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            number = float(value)
        except ValueError:
            raise ValueError(
                f"--target: expected SET=VALUE, as in 'forget=0.05', got '{text}'"
            ) from None
        if name in found:
            raise ValueError(f"--target: expected one value for '{name}', got several")
        found[name] = number
    return found


def best_of(tuned: "Tuned") -> dict[str, object]:
    """Return the best settings of a method, for a program to read."""
    best = tuned.best
    return {
        "problem": tuned.title,
        "method": tuned.method.card.name,
        "trials": len(tuned.trials),
        "settings": None if best is None else dict(best.settings),
        "objective": None if best is None else best.result.objective,
        "given": tuned.trials[0].result.objective,
    }


def table(found: "Sequence[Tuned]") -> "Table":
    """Return what was found as a table for the terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from expunge.bench.tuned import spelled
    from expunge.cli.console import duration

    made = Table(box=SIMPLE_HEAD)
    made.add_column("method", no_wrap=True)
    made.add_column("settings", overflow="fold", min_width=18)
    for heading in ("distance", "as given", "trials", "diverged", "time"):
        made.add_column(heading, justify="right")
    several = len({tuned.title for tuned in found}) > 1
    title = None
    for tuned in found:
        if several and tuned.title != title:
            title = tuned.title
            made.add_section()
            made.add_row(Text(title, style="bold"))
        best, results = tuned.best, [trial.result for trial in tuned.trials]
        made.add_row(
            Text(tuned.method.card.name),
            Text("every trial diverged" if best is None else spelled(best.settings)),
            *(
                "—" if r is None or r.objective is None else f"{r.objective:.4f}"
                for r in (best and best.result, results[0])
            ),
            str(len(results)),
            str(sum(r.objective is None for r in results)),
            duration(tuned.seconds),
        )
    return made
