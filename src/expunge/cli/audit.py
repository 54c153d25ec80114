"""`expunge audit`: before and after checkpoints, perhaps retrained ones, to findings."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from expunge.cli.flags import Conditions, Names, Paths, Switch, Work, flat
from expunge.cli.inputs import Inputs

if TYPE_CHECKING:
    from torch import nn

    from expunge.audit import Audit as Question
    from expunge.audit import Finding
    from expunge.bench.problem import Problem
    from expunge.bench.stages import Stage
    from expunge.cli.gate import Gate
    from expunge.core.cost import Cost

GATE_FAILED = 3


class Given(NamedTuple):
    """What was handed in, read and found fit.

    Attributes:
        problem: What was to be forgotten.
        models: The original, the unlearned model, and retrained ones.
        audits: What is asked.
        gates: Conditions to judge.
    """

    problem: "Problem"
    models: "Sequence[nn.Module]"
    audits: "Sequence[Question]"
    gates: "Sequence[Gate]"


@dataclass(frozen=True, kw_only=True)
class Audit(Inputs):
    """Ask whether records are forgotten, given the model before and after.

    Exits with 3 when a condition of `--fail-if` holds, so that it can gate a pipeline.

    Attributes:
        before: The original, as safetensors.
        after: The unlearned model, as safetensors.
        retrained: Models trained without the records, as safetensors, if you have any.
        retrain: How many such models to train now, as the original was.
        audits: Which audits to ask; left out, all of them.
        fail_if: Conditions such as 'loss_attack.auc>0.6'.
        out: Folder for records and report.
        store: Where models that were trained now are kept.
        plan: Print what `--retrain` would take, and stop.
        json: Print JSON on standard output.
    """

    before: Path
    after: Path
    retrained: Paths = ()
    retrain: int = 0
    audits: Names = ()
    fail_if: Conditions = ()
    out: Path = Path("audit")
    store: Path = Path("runs/store")
    plan: Switch = False
    json: Switch = False

    def prepare(self) -> Work:
        from expunge import api, registry
        from expunge.bench.check import applicable, check, stand_in
        from expunge.bench.store import probe
        from expunge.cli import gate

        named = flat(self.audits, "--audits")
        audits = [registry.audits.build({"name": name}) for name in named]
        if self.retrain < 0:
            raise ValueError(f"expected --retrain >= 0, got {self.retrain}")
        known = named or tuple(registry.audits.known())
        gates = gate.parse(flat(self.fail_if, "--fail-if"), known)
        paths = (self.before, self.after, *flat(self.retrained, "--retrained"))
        if not self.plan:
            probe(self.out)
            probe(self.store)
        problem = self.problem()
        check(problem, audits=audits)
        audits = audits or applicable(stand_in(problem))
        if self.plan:
            return lambda: self._plan(problem)
        models = [api.load(path, problem.recipe, self.device) for path in paths]
        return lambda: self._work(Given(problem, models, audits, gates))

    def _work(self, given: Given) -> int:
        from expunge import api
        from expunge.cli.console import spinner
        from expunge.subject import WhiteBox

        before, after, *controls = given.models
        controls = [*controls, *self._trained(given.problem)]
        with spinner(f"auditing {2 + len(controls)} models"):
            findings = api.audit(
                given.problem,
                before,
                WhiteBox(after, cost=told_cost(self.after)),
                controls,
                audits=given.audits,
                seed=self.seed,
            )
        return self._conclude(given, findings)

    def _conclude(self, given: Given, findings: "list[Finding]") -> int:
        import json

        from expunge.bench.record import outcome, record
        from expunge.bench.store import write_text
        from expunge.cli.console import emit
        from expunge.cli.report import conclude

        found = outcome(findings[0].case, findings)
        name = self.out.resolve().name
        line = record(name, given.problem, self.after.stem, self.seed, found)
        values = {f["audit"]: f["unlearned"]["values"] for f in line["findings"]}
        failed = [str(gate) for gate in given.gates if gate.holds(values)]
        write_text(self.out / "records.jsonl", json.dumps(line) + "\n")
        page = conclude([line], self.out / "report.html", quiet=self.json)
        if self.json:
            emit({"report": str(page), "failed": failed, "record": line})
        else:
            _tell(findings, line["verdict"], failed)
        return GATE_FAILED if failed else 0

    def _controls(self, problem: "Problem") -> "tuple[Stage, ...]":
        from expunge.bench import stages

        return stages.controls(problem, self.retrain)

    def _trained(self, problem: "Problem") -> list[Any]:
        from expunge.bench.run import compute
        from expunge.bench.stages import Bench
        from expunge.bench.store import Store
        from expunge.cli.console import progress
        from expunge.types import Recipe

        bench, wanted = Bench(Store(self.store)), self._controls(problem)
        if not wanted:
            return []
        with progress(quiet=self.json) as board:
            for number, stage in enumerate(wanted, 1):
                compute(bench, stage, number, len(wanted), board.listen)
        return [bench.subject(stage, problem, Recipe.fresh) for stage in wanted]

    def _plan(self, problem: "Problem") -> int:
        from expunge.bench.plan import price
        from expunge.bench.store import Store
        from expunge.cli.console import spinner
        from expunge.cli.run import tell_plan

        store = Store(self.store)
        owned = [(stage, problem) for stage in self._controls(problem)]
        with spinner("timing a few steps"):
            items = price(owned, store)
        return tell_plan(items, store, as_json=self.json)


def told_cost(checkpoint: Path) -> "Cost | None":
    """Return what `expunge unlearn` wrote beside a checkpoint of what it cost, if it did."""
    import json

    from expunge.core.cost import Cost

    try:
        facts = json.loads(checkpoint.with_suffix(".json").read_text(encoding="utf-8"))
        measured = {name: facts["measured"][name] for name in ("seconds", "peak_bytes")}
        return Cost(**facts["cost"], **measured)
    except (OSError, ValueError, KeyError, TypeError):  # none, or another program's
        return None


def _tell(findings: "list[Finding]", verdict: dict[str, str], failed: list[str]) -> None:
    from expunge.cli.console import say

    for finding in findings:
        say(f"• {finding}")
    say(f"\nVerdict: {verdict['kind']}. {verdict['sentence']}", style="bold")
    for gate in failed:
        say(f"Gate failed: {gate}", style="red")
