"""The rows of a table of results: what each model did, number by number."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from expunge.study.estimate import Estimate
from expunge.study.groups import Group, Record

UTILITY = ("accuracy", "test")
DAMAGED = 0.05  # share of the test records, beyond what chance between retrained models makes


@dataclass(frozen=True)
class Column:
    """A value of an audit.

    Attributes:
        audit: Its label among the group's audits.
        value: Its name among the audit's values.
        title: What to call it.
        unit: In which it is shown; fractions are shown in percent.
        headline: Whether the audit's gap and floor are about it.
        decides: Whether it bears on the verdict, and so has a gap: two retrained models
            differ in their weights and in what they cost, and that means nothing.
        bounded: Whether it cannot leave [0, 1], beyond which Student's t may reach.
    """

    audit: str
    value: str
    title: str
    unit: str = ""
    headline: bool = False
    decides: bool = True
    bounded: bool = False

    @property
    def brief(self) -> bool:
        """Whether it belongs where there is room for little."""
        brief = self.headline and self.decides
        return brief or (self.audit, self.value) in (UTILITY, ("cost", "of_retraining"))

    @property
    def share(self) -> bool:
        return self.unit.startswith("%")

    @property
    def heading(self) -> str:
        """The title with its unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    def show(self, value: float, *, signed: bool = False) -> str:
        """Return the value with as many digits as are worth reading."""
        value, sign = 100 * value if self.share else value, "+" if signed else ""
        if self.share:
            return f"{value:{sign}.1f}"
        small = value != 0 and not 1e-3 <= abs(value) < 1e4
        return f"{value:{sign}.1e}" if small else f"{value:{sign}.3f}"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number of one row.

    Attributes:
        estimate: The value itself.
        gap: The value minus the retrained models' mean; None where there are none.
        floor: Gaps up to this are no more than retraining anew makes by chance.
        unseen: Where records that were never trained on would put the value; it stands in
            for the gap where there are no retrained models.
        warnings: What the number must not be read without.
    """

    estimate: Estimate
    gap: Estimate | None = None
    floor: float | None = None
    unseen: Estimate | None = None
    warnings: tuple[str, ...] = ()

    @property
    def within(self) -> bool:
        """Whether the gap is too small to mean anything."""
        return self.gap is not None and self.floor is not None and abs(self.gap.value) <= self.floor


@dataclass(frozen=True, eq=False, kw_only=True)
class Row:
    """A method, or a control, over all its seeds.

    Attributes:
        kind: What the row is about.
        label: The method's name, told apart from namesakes by its settings.
        group: The problem.
        records: The method's; for a control, every record of the group.
        columns: The numbers the group's rows have.
        cells: The numbers this row has.
        seconds: Wall-clock time; None where it was not measured.
        peak_bytes: Most memory held at once, over all seeds.
        passes: Samples through the network, a backward counted as two forwards.
        verdicts: How many seeds came to which verdict, the worst first.
    """

    kind: Literal["method", "original", "retrained"]
    label: str
    group: Group
    records: Sequence[Record] = field(repr=False)
    columns: Sequence[Column]
    cells: Mapping[Column, Cell]
    seconds: Estimate | None = None
    peak_bytes: int | None = None
    passes: Estimate | None = None
    verdicts: Mapping[str, int] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """The worst that any seed came to; empty for a control."""
        return next(iter(self.verdicts), "")

    @property
    def damage(self) -> float | None:
        """By what share of test records it is worse than retrained models, where that is much.

        A verdict is about forgetting alone: a network that answers nothing rightly any more
        forgets well.
        """
        cells = (cell for c, cell in self.cells.items() if (c.audit, c.value) == UTILITY)
        cell = next(cells, None)
        if self.kind != "method" or cell is None or cell.gap is None:
            return None
        return -cell.gap.value if cell.gap.value < -(cell.floor or 0.0) - DAMAGED else None

    @property
    def warnings(self) -> list[str]:
        """What its numbers must not be read without, and why audits were not asked, each once."""
        told = [f"{c.title}: {text}" for c, cell in self.cells.items() for text in cell.warnings]
        if self.kind == "method":
            unasked = ((r.get("notes") or {}).get("unasked") or {} for r in self.records)
            told += [f"{a} was not asked: {why}" for each in unasked for a, why in each.items()]
        return [*dict.fromkeys(told)]

    @property
    def seeds(self) -> int:
        return len(self.records)

    @property
    def sentence(self) -> str:
        """The words of the first record that came to the row's verdict."""
        told = (r["verdict"]["sentence"] for r in self.records if kind(r) == self.verdict)
        return next(told, "")


def kind(record: Record) -> str:
    """Return a record's verdict; one that diverged says so."""
    return "diverged" if record["status"] == "diverged" else record["verdict"]["kind"]
