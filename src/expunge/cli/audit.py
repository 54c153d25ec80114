"""`expunge audit`: before and after checkpoints, perhaps retrained ones, to findings."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.cli.inputs import Inputs

if TYPE_CHECKING:
    from expunge.audit import Finding
    from expunge.bench.problem import Problem

GATE_FAILED = 3


@dataclass(frozen=True, kw_only=True)
class Audit(Inputs):
    """Ask whether records are forgotten, given the model before and after.

    Attributes:
        before: The original, as safetensors.
        after: The unlearned model, as safetensors.
        retrained: Models trained without the records, as safetensors, if you have any.
        retrain: How many such models to train now, by the recipe below.
        audits: Which audits to ask; left out, all of them.
        fail_if: Conditions such as 'loss_attack.auc>0.6'; where one holds, exit with 3.
        out: Where records and report go.
        store: Where retrained models are kept.
        plan: Print what `--retrain` would cost, and stop.
        json: Print JSON on standard output.
    """

    before: Path
    after: Path
    retrained: tuple[Path, ...] = ()
    retrain: int = 0
    audits: tuple[str, ...] = ()
    fail_if: tuple[str, ...] = ()
    out: Path = Path("audit")
    store: Path = Path("runs/store")
    plan: bool = False
    json: bool = False

    def __call__(self) -> int:
        import json

        from expunge import api, registry
        from expunge.bench.record import outcome, record
        from expunge.bench.store import write_text
        from expunge.cli import gate
        from expunge.cli.console import emit
        from expunge.cli.report import conclude

        names = self.audits or tuple(registry.audits.known())
        for name in names:
            registry.audits.find(name)
        if self.retrain < 0:
            raise ValueError(f"expected --retrain >= 0, got {self.retrain}")
        gates = gate.parse(self.fail_if, names)
        problem = self.problem()
        if self.plan:
            return self._plan(problem)
        before, after, *given = (
            api.load(path, problem.recipe, self.device)
            for path in (self.before, self.after, *self.retrained)
        )
        controls = [*given, *self._trained(problem)]
        findings = api.audit(
            problem, before, after, controls, audits=self.audits or None, seed=self.seed
        )
        found = outcome(findings[0].case, findings)
        line = record(self.out.name, problem, self.after.stem, self.seed, found)
        write_text(self.out / "records.jsonl", json.dumps(line) + "\n")
        page = conclude([line], self.out / "report.html", quiet=self.json)
        values = {f["audit"]: f["unlearned"]["values"] for f in line["findings"]}
        failed = [str(g) for g in gates if g.holds(values)]
        if self.json:
            emit({"report": str(page), "failed": failed, "record": line})
        else:
            _tell(findings, line["verdict"], failed)
        return GATE_FAILED if failed else 0

    def _controls(self, problem: "Problem") -> list[Any]:
        from expunge.bench import stages

        return list(stages.controls(problem, self.retrain))

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
        from expunge.cli.run import tell_plan

        store = Store(self.store)
        owned = [(stage, problem) for stage in self._controls(problem)]
        return tell_plan(price(owned, store), store, as_json=self.json)


def _tell(findings: "list[Finding]", verdict: dict[str, str], failed: list[str]) -> None:
    from expunge.cli.console import out

    for finding in findings:
        out.print(f"• {finding}", highlight=False, markup=False)
    out.print(f"\nVerdict: [bold]{verdict['kind']}[/bold]. {verdict['sentence']}", highlight=False)
    for gate in failed:
        out.print(f"Gate failed: {gate}", style="red", highlight=False)
