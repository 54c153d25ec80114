"""Which approach does what: the comparative study's Table I, from the cards of our methods.

Salgado Herrera, Thouvenot, Héliou and Becue, "Comparative Analysis of Machine Unlearning
Approaches for Data Protection", CAID 2024, https://hal.science/hal-05046594v1
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from expunge.study.comparative import NAMES
from expunge.study.groups import Record

# The paper's columns, and which mechanisms of a card amount to a tick.
COLUMNS: dict[str, frozenset[str]] = {
    "Re-initialised weights": frozenset(
        {"re-initialise weights", "permute weights", "prune weights", "add noise"}
    ),
    "Re-initialised gradients": frozenset({"choose by gradients"}),
    "Fine-tuned on validation": frozenset({"train on validation"}),
    "Fine-tuned on forget": frozenset({"train on forget"}),
    "Fine-tuned on retain": frozenset({"train on retain"}),
}
# Table I's ticks, by the columns' places.
PUBLISHED: dict[str, frozenset[int]] = {
    "distillation": frozenset({0, 2, 4}),
    "rotate": frozenset({0, 4}),
    "pseudo_label": frozenset({3, 4}),
    "pruning": frozenset({0, 4}),
    "deviation": frozenset({0, 4}),
    "gradient_reset": frozenset({0, 1, 4}),
    "divergence": frozenset({3, 4}),
}


class Tick(NamedTuple):
    """A cell: what our card says, and what the paper does; None where it says nothing."""

    ours: bool
    published: bool | None

    @property
    def agree(self) -> bool:
        return self.published is None or self.ours == self.published


class Line(NamedTuple):
    """A method's row.

    Attributes:
        label: The paper's name, or ours where it has none.
        place: In the competition.
        ticks: By column.
        rest: What it does that no column is about.
    """

    label: str
    place: int | None
    ticks: Mapping[str, Tick]
    rest: list[str]


def table(records: Sequence[Record]) -> list[Line]:
    """Return a row for each method, the compared ones first and in the paper's order."""
    cards = {r["method"]["name"]: r["method"].get("mechanisms") or [] for r in records}
    order = [name for name in NAMES if name in cards]
    order += [name for name in cards if name not in NAMES and cards[name]]
    return [_line(name, cards[name]) for name in order]


def _line(name: str, mechanisms: Sequence[str]) -> Line:
    label, place = NAMES.get(name, (name, None))
    published = PUBLISHED.get(name)
    ticks = {
        column: Tick(bool(kinds & set(mechanisms)), None if published is None else i in published)
        for i, (column, kinds) in enumerate(COLUMNS.items())
    }
    plain = {kind for kinds in COLUMNS.values() if len(kinds) == 1 for kind in kinds}
    plain |= {"re-initialise weights"}
    return Line(label, place, ticks, [m for m in mechanisms if m not in plain])
