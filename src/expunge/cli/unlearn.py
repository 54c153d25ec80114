"""`expunge unlearn`: my checkpoint, my data, my list of ids, one method."""

import dataclasses
from dataclasses import dataclass
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Annotated, Any

import tyro

from expunge.cli.inputs import Inputs


@dataclass(frozen=True, kw_only=True)
class Unlearn(Inputs):
    """Remove records from a checkpoint; the method comes last, then its settings.

    `expunge unlearn --help` lists the methods, and
    `expunge unlearn ... salun --help` the settings of one.

    Attributes:
        checkpoint: The trained model, as safetensors.
        out: Where the unlearned model goes, as safetensors; its cost goes beside it.
        json: Print JSON on standard output.
    """

    checkpoint: Path
    out: Path = Path("unlearned.safetensors")
    json: bool = False

    def __call__(self) -> int:
        import json

        from expunge import api
        from expunge.bench.environment import environment
        from expunge.bench.record import about, clock, counts
        from expunge.bench.store import write_text
        from expunge.cli.console import duration, emit, out, progress
        from expunge.config import plain
        from expunge.core.cost import Meter
        from expunge.method import Sizes

        method: Any = self.method  # pyright: ignore[reportAttributeAccessIssue] see `with_methods`
        problem = self.problem()
        original = api.load(self.checkpoint, problem.recipe, self.device)
        meter = Meter()
        work = method.work(Sizes.of(problem.request))
        with progress(quiet=self.json) as board:
            board.begin(method.card.name, work.passes, meter)
            done = api.unlearn(original, problem, method, seed=self.seed, meter=meter)
        api.save(done.model, self.out)
        facts = {"method": plain(method), "seed": self.seed, "cost": counts(done.cost)}
        facts |= {"measured": clock(done.cost) | environment()} | about(problem)
        write_text(self.out.with_suffix(".json"), json.dumps(facts, indent=2) + "\n")
        if self.json:
            emit({"checkpoint": str(self.out)} | facts)
            return 0
        out.print(
            f"{method.card.name} forgot {len(problem.request.forget):,} of "
            f"{len(problem.sets.train):,} records in {duration(done.cost.seconds)} "
            f"({done.cost.backward:,} samples backward) -> {self.out}\n"
            "Whether they are forgotten is another question: ask it with `expunge audit`.",
            highlight=False,
        )
        return 0


def with_methods() -> type[Unlearn]:
    """Return the command with a subcommand for every registered method."""
    from expunge import registry

    union: Any = reduce(
        or_,
        (
            Annotated[cls, tyro.conf.subcommand(name, prefix_name=False)]
            for name, cls in registry.methods.known().items()
        ),
    )
    method = Annotated[union, tyro.conf.arg(prefix_name=False)]
    return dataclasses.make_dataclass(
        "Unlearn",
        [("method", method)],
        bases=(Unlearn,),
        frozen=True,
        kw_only=True,
        namespace={"__doc__": Unlearn.__doc__},
    )
