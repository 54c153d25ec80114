"""`expunge list`: what there is, from the cards."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro


@dataclass(frozen=True, kw_only=True)
class List:
    """List methods, audits, data sets or models.

    Attributes:
        kind: What to list.
        json: Print a JSON list of objects on standard output.
    """

    kind: Annotated[Literal["methods", "audits", "data", "models", "forget"], tyro.conf.Positional]
    json: bool = False

    def __call__(self) -> int:
        from rich.table import Table

        from expunge.cli.console import emit, out

        cards = describe(self.kind)
        if self.json:
            emit(cards)
            return 0
        shown = [k for k in ("name", "summary", "source") if any(c.get(k) for c in cards)]
        table = Table(*shown)
        for card in cards:
            table.add_row(*(str(card.get(k, "")) for k in shown))
        out.print(table)
        return 0


def describe(kind: str) -> list[dict[str, Any]]:
    """Return each registered class of a kind: its card, its settings, its first line."""
    import dataclasses

    from expunge import registry
    from expunge.config import plain

    found = []
    for name, cls in getattr(registry, kind).known().items():
        card = vars(cls)["card"]
        facts = {f.name: getattr(card, f.name) for f in dataclasses.fields(card)}
        settings = {
            f.name: None if f.default is dataclasses.MISSING else plain(f.default)
            for f in dataclasses.fields(cls)
            if f.compare
        }
        summary = (cls.__doc__ or "").strip().splitlines()[0]
        found.append({"name": name, "summary": summary} | plain(facts) | {"settings": settings})
    return found
