"""`expunge demo`: the whole story on bundled data, in about a minute."""

from dataclasses import dataclass
from pathlib import Path

from expunge.cli.flags import MaybePath, Switch, Work


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Unlearn 100 handwritten digits from a small network, audit, report.

    Attributes:
        out: Where records and report go.
        store: Where models and findings are kept; left out, in `out`.
        device: cpu, cuda or mps.
        json: Print JSON on standard output.
    """

    out: Path = Path("expunge-demo")
    store: MaybePath = None
    device: str = "cpu"
    json: Switch = False

    def prepare(self) -> Work:
        from expunge.bench.demo import demo
        from expunge.cli.run import computing

        store = self.store or self.out / "store"
        return computing(demo(), self.out, store, device=self.device, as_json=self.json)
