"""Rows to tables: for the terminal and for the docs."""

from collections.abc import Sequence
from itertools import groupby
from textwrap import wrap

from rich.box import SIMPLE_HEAD
from rich.console import Group as Lines
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from expunge.study.estimate import Estimate
from expunge.study.read import read as read
from expunge.study.rows import Cell, Column, Row
from expunge.study.summary import summarise as summarise

NONE = "—"
WARNED = "⚠"
ROOM = 5  # numbers of a row in a terminal of 80 columns
LABEL = 26  # of them for a row's name, which goes on below
MARKS = {
    "forgotten": ("✓", "green"),
    "leaks": ("✗", "red"),
    "over-unlearned": ("!", "yellow"),
    "cannot tell": ("?", "blue"),
    "diverged": ("✖", "magenta"),
    "failed": ("✖", "magenta"),
}
CAPTION = (
    "Mean [95 % interval]: Student's t over seeds where two or more differ; * over the retrained "
    "models, and where several seeds share these over both; in a single run ° over its records "
    "(bootstrap). Δ: minus the mean of retraining; ≈ in its place: no larger than chance between "
    "retrained models makes it. "
    "∅: where records never trained on would put the value, if nothing was retrained. "
    "Damaged: a test accuracy that far below retraining's; a verdict is about forgetting alone."
)
BRIEF = (
    "The worst verdict of any seed; means over seeds. ≈: no farther from retraining than "
    "retrained models are from each other by chance. †: damaged, with a test accuracy far below "
    "retraining's. ⚠: not to be read without the warning in the report. Intervals and the rest are "
    "in the report."
)


def text(rows: Sequence[Row]) -> RenderableType:
    """Return the rows for the terminal, a table for each group: what decides, and the price."""
    every = dict.fromkeys(column for row in rows for column in row.columns if column.brief)
    columns = fitting([*every])
    left = len(every) - len(columns)
    more = f" {left} more audits are there too." if left > 1 else " One more audit is there too."
    caption = BRIEF + more * (left > 0)
    groups = [list(part) for _, part in groupby(rows, key=lambda row: row.group.title)]
    parts: list[RenderableType] = []
    for group in groups:
        if len(groups) > 1:
            parts.append(Text(f"\n{group[0].group.title}", style="bold"))
        parts.append(_table(group, columns))
    return Lines(*parts, Text(caption, style="dim italic"))


def _table(rows: Sequence[Row], columns: Sequence[Column]) -> Table:
    """Return the rows of one group; columns that none of them has are left out."""
    table = Table(box=SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("model", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    shown = [column for column in columns if any(column in row.cells for row in rows)]
    for column in shown:
        heading = f"{column.title} %" if column.share else column.title
        table.add_column(escape(heading), justify="right", overflow="fold")
    for row in rows:
        cells = [escape(short(row.cells.get(c), c)) for c in shown]
        table.add_row(escape("\n".join(wrap(row.label, LABEL))), _badge(row), *cells)
    return table


def fitting(columns: Sequence[Column]) -> list[Column]:
    """Return as many columns as a terminal has room for: what was kept, its price, the first."""
    always = [column for column in columns if not column.decides or column.value == "test"]
    room = max(0, ROOM - len(always))
    chosen = {*always, *[column for column in columns if column not in always][:room]}
    return [column for column in columns if column in chosen]


def markdown(rows: Sequence[Row]) -> str:
    """Return the rows as Markdown, a table for each group."""
    parts = []
    for title, part in groupby(rows, key=lambda row: row.group.title):
        group = list(part)
        columns = group[0].columns
        head = ["model", "verdict", *(c.heading for c in columns), "time"]
        lines = []
        for row in group:
            cells = [said(row.cells.get(c), c) for c in columns]
            seconds = NONE if row.seconds is None else duration(row.seconds.value)
            lines.append([row.label, counted(row), *cells, seconds])
        parts.append(f"**{literal(title)}**\n\n{ruled(head, lines, words=2)}")
        parts += [f"{WARNED} {literal(line)}" for line in cautions(group)]
    return "\n\n".join([*parts, CAPTION]) + "\n"


def cautions(rows: Sequence[Row]) -> list[str]:
    """Return what rows' numbers must not be read without, each once and whom it is about."""
    about: dict[str, list[str]] = {}
    for row in rows:
        for text in row.warnings:
            about.setdefault(text, []).append(row.label)
    return [f"{', '.join(labels)}: {text}" for text, labels in about.items()]


def ruled(head: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 1) -> str:
    """Return a Markdown table whose first `words` columns are words, the rest numbers."""
    rule = ["---"] * words + ["---:"] * (len(head) - words)
    lines = [[literal(cell) for cell in cells] for cells in (head, *rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (lines[0], rule, *lines[1:]))


def said(cell: Cell | None, column: Column) -> str:
    """Return a cell in words: the value, its interval, and its gap to retraining."""
    if cell is None:
        return NONE
    value = column.show(cell.estimate.value) + interval(cell.estimate, column)
    return " ".join([value, *gap(cell, column), *([WARNED] if cell.warnings else [])])


def short(cell: Cell | None, column: Column) -> str:
    """Return a cell's value, marked where it is no farther from retraining than by chance."""
    if cell is None:
        return NONE
    value = ("≈" if cell.within else "") + column.show(cell.estimate.value)
    return value + WARNED * bool(cell.warnings)


def gap(cell: Cell, column: Column) -> list[str]:
    """Return the gap in words, or what unseen records would give, where there is either."""
    if cell.gap is None:
        return [f"∅{interval(cell.unseen, column, mark=False)}"] if cell.unseen else []
    # No space: a narrow terminal would break the line at it.
    return [f"{'≈' if cell.within else 'Δ'}{column.show(cell.gap.value, signed=True)}"]


def interval(estimate: Estimate, column: Column, *, mark: bool = True) -> str:
    """Return ` [low, high]`, marked by what varied; empty where there is none."""
    if estimate.low is None or estimate.high is None:
        return ""
    sign = {"records": "°", "models": "*"}.get(estimate.basis, "") if mark else ""
    return f" [{column.show(estimate.low)}, {column.show(estimate.high)}]{sign}"


def counted(row: Row) -> str:
    """Return the row's verdict and how many of its seeds came to it."""
    if not row.verdicts:
        return "control"
    told = ", ".join(f"{kind} {n}/{row.seeds}" for kind, n in row.verdicts.items())
    return told if row.damage is None else f"{told}; damaged, {100 * row.damage:.0f} points"


def duration(seconds: float) -> str:
    """Return a time as a person says it."""
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes = seconds / 60
    return f"{minutes:.3g} min" if minutes < 100 else f"{minutes / 60:.3g} h"


def _badge(row: Row) -> str:
    if not row.verdicts:
        return "[dim]control[/dim]"
    mark, colour = MARKS.get(row.verdict, ("?", "white"))
    words = f"{row.verdict} {row.verdicts[row.verdict]}/{row.seeds}" + "†" * (
        row.damage is not None
    )
    return f"[{colour}]{mark} {escape(words)}[/{colour}]"


def literal(text: str) -> str:
    """Return text that Markdown takes literally: names may come from anyone's data."""
    for mark in "\\`*_|<[":
        text = text.replace(mark, f"\\{mark}")
    return text.replace("\n", " ")
