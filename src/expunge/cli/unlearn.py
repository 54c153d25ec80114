"""`expunge unlearn`: my checkpoint, my data, my list of ids, one method."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from expunge.cli.flags import MaybePath, Switch, Work
from expunge.cli.inputs import Inputs

if TYPE_CHECKING:
    from expunge.bench.problem import Problem
    from expunge.method import Method, Outcome


@dataclass(frozen=True, kw_only=True)
class Unlearn(Inputs):
    """Remove records from a checkpoint by the method that is named last.

    The method's own settings follow its name, as in
    `expunge unlearn --data digits --model mlp --forget ids.txt --checkpoint model.safetensors
    salun --fraction 0.3`; `expunge unlearn salun --help` lists them.

    Attributes:
        checkpoint: The trained model, as safetensors.
        out: Where the unlearned model goes; what it cost goes beside it, as JSON.
        mask: Where to write what was taken from each weight, as safetensors; `expunge mask`
            shows and applies it.
        json: Print JSON on standard output.
    """

    checkpoint: Path
    out: Path = Path("unlearned.safetensors")
    mask: MaybePath = None
    json: Switch = False

    @property
    def chosen(self) -> "Method":
        """The method; the field is added by `with_methods`, which imports them all."""
        return vars(self)["method"]

    def prepare(self) -> Work:
        from expunge import api
        from expunge.bench.check import check
        from expunge.bench.store import probe

        for name, file in (("out", self.out), ("mask", self.mask)):
            if file is None:
                continue
            if file.suffix != ".safetensors":
                raise ValueError(f"expected --{name} to end in .safetensors, got {file}")
            probe(file.parent)
            if file.is_dir():
                raise ValueError(f"--{name} {file} is a folder; name a file")
        if self.mask is not None and self.mask.resolve() == self.out.resolve():
            raise ValueError(f"--out and --mask are both {self.out}; name two files")
        if self.chosen.trains:
            raise ValueError(
                f"{self.chosen.card.name} unlearns from an original that it has trained its own "
                "way, and from what that left behind, which no checkpoint holds; run it from a "
                "spec (`expunge run`), or in Python by `api.train` and `api.unlearn`"
            )
        problem = self.problem()
        check(problem, [self.chosen])
        original = api.load(self.checkpoint, problem.recipe, self.device)
        return lambda: self._work(problem, original)

    def _work(self, problem: "Problem", original: Any) -> int:
        from expunge import api
        from expunge.cli.console import progress
        from expunge.core.cost import Meter
        from expunge.method import Sizes

        meter, work = Meter(), self.chosen.work(Sizes.of(problem.request))
        with progress(quiet=self.json) as board:
            board.begin(self.chosen.card.name, work.passes, meter)
            done = api.unlearn(original, problem, self.chosen, seed=self.seed, meter=meter)
        api.save(done.model, self.out)
        self._tell(problem, done)
        if self.mask is not None:
            api.mask(original, done, self.chosen.card.name).save(self.mask)
        return 0

    def _tell(self, problem: "Problem", done: "Outcome") -> None:
        import json

        from expunge.bench.environment import environment
        from expunge.bench.record import about, clock, counts
        from expunge.bench.store import write_text
        from expunge.cli.console import duration, emit, say
        from expunge.config import plain

        facts = {"method": plain(self.chosen), "seed": self.seed, "cost": counts(done.cost)}
        facts |= {"notes": dict(done.notes), "measured": clock(done.cost) | environment()}
        facts |= about(problem)
        write_text(self.out.with_suffix(".json"), json.dumps(facts, indent=2) + "\n")
        if self.json:
            emit({"checkpoint": str(self.out)} | facts)
            return
        say(
            f"{self.chosen.card.name} ran on {len(problem.request.forget):,} of "
            f"{len(problem.sets.train):,} records in {duration(done.cost.seconds)} "
            f"({done.cost.backward:,} samples backward) -> {self.out}\n"
            "Whether they are forgotten is another question: ask it with `expunge audit`."
        )


def with_methods(arguments: Sequence[str]) -> type[Unlearn]:
    """Return the command with a subcommand for every registered method.

    Raises:
        ValueError: When the arguments name a method that there is not.
    """
    from expunge import registry

    named = method_in(arguments)
    if named is not None:
        registry.methods.find(named)

    def subcommand(name: str, cls: type) -> Any:
        # A list of methods has a line for each; the help of one tells all.
        line = None if named else (cls.__doc__ or "").strip().splitlines()[0]
        return Annotated[cls, tyro.conf.subcommand(name, prefix_name=False, description=line)]

    union: Any = reduce(or_, (subcommand(*item) for item in registry.methods.known().items()))
    # Without a name of its own the field gives its flags no prefix: `--descent.lr`.
    return dataclasses.make_dataclass(
        "Unlearn",
        [("method", Annotated[union, tyro.conf.arg(name="")])],
        bases=(Unlearn,),
        frozen=True,
        kw_only=True,
        namespace={"__doc__": Unlearn.__doc__},
    )


def method_in(arguments: Sequence[str]) -> str | None:
    """Return the first argument that is neither a flag nor the value of one."""
    switches = {f"--{f.name}" for f in dataclasses.fields(Unlearn) if f.default is False}
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("-"):
            return argument
        if argument in ("-h", "--help"):
            return None
        if argument not in switches and "=" not in argument:
            next(rest, None)
    return None
