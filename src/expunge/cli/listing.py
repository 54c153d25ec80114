"""`expunge list`: what there is, from the cards."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from expunge.cli.flags import Switch, Work


@dataclass(frozen=True, kw_only=True)
class List:
    """List methods, audits, data sets, models or ways to choose a forget set.

    Attributes:
        kind: What to list.
        json: Print a JSON list of objects on standard output.
    """

    kind: Annotated[
        Literal["methods", "audits", "data", "models", "forget"],
        tyro.conf.Positional,
        tyro.conf.arg(help_behavior_hint=""),
    ]
    json: Switch = False

    def prepare(self) -> Work:
        cards = describe(self.kind)
        return lambda: self._work(cards)

    def _work(self, cards: list[dict[str, Any]]) -> int:
        from expunge.cli.console import emit, out

        if self.json:
            emit(cards)
        else:
            out.print(_table(cards))
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
            if f.compare and f.init
        }
        summary = (cls.__doc__ or "").strip().splitlines()[0]
        found.append({"name": name, "summary": summary} | plain(facts) | {"settings": settings})
    return found


def _table(cards: list[dict[str, Any]]) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 1, 0))
    table.add_column("name", no_wrap=True, style="bold")
    table.add_column("what it is")
    for card in cards:
        settings = ", ".join(card["settings"])
        lines = [card["summary"]]
        lines += [card["source"]] if card.get("source") else []
        lines += [f"settings: {settings}"] if settings else []
        told = Text("\n".join(lines))
        told.stylize("dim", len(card["summary"]))
        table.add_row(Text(card["name"]), told)
    return table
