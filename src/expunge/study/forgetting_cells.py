"""What tables of forgetting rates are made of: cells that hold our number and the paper's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from expunge.study.estimate import Estimate
from expunge.study.forgetting import Number, Trial, setting
from expunge.study.rows import Column, Row
from expunge.study.table import NONE, interval, literal, ruled

NAMES = {"forsaken": "Forsaken", "smu": "SMU", "sisa": "SISA", "sisa_dp": "SISA-DP"}
CONTROL = "Full retraining"
ITERATIONS = "iterations"
SHARE = Column("", "", "", "%")
MARKS = {"models": "*", "records": "°"}  # what an interval is over, if not over seeds
CAPTION = (
    "Rates and accuracies in %, mean [95 % interval]: Student's t over seeds where two or more "
    "differ; * over the retrained models, and where several seeds share these over both (two such "
    "intervals, their reaches in quadrature; of losses of accuracy Welch's, of models and "
    "originals, of which one alone counts as known); ° over the records of one run (bootstrap; of "
    "a class's recall Clopper and Pearson's). Var.: variance over seeds, of retraining over models "
    "too, in points². FR = (AF - BF) / BT, of the records that the oracle called members before "
    "(BT), how many more it calls no members after; CFR, the same of retained records. More is "
    "not better: retraining says what is right. The original has 0 of both. Losses of accuracy "
    "are in points since before unlearning, where all methods have the one original of their "
    "seed, SISA too; its rates are about an original of its own. Where a method has several "
    "settings, tables of methods have those that most data sets share. Paper: average / variance "
    "as printed, of other networks, data and hardware."
)


class Cell(NamedTuple):
    """One cell: our number, what is beside it, and the paper's.

    Attributes:
        text: Our number.
        value: By which the column is sorted.
        lines: Its interval and what else belongs to it.
        paper: The paper's number.
        marks: Numbers of the warnings below the table.
    """

    text: str = NONE
    value: float | None = None
    lines: tuple[str, ...] = ()
    paper: str = ""
    marks: tuple[int, ...] = ()

    def __str__(self) -> str:
        marks = "".join(f" ⚠{mark}" for mark in self.marks)
        ours = " ".join([f"{self.text}{marks}", *self.lines])
        return f"{ours} · paper {self.paper}" if self.paper else ours


class Line(NamedTuple):
    """A row: what it is about, and a cell for each column."""

    title: str
    cells: Sequence[Cell]


class Span(NamedTuple):
    """A heading over several columns."""

    title: str
    columns: int


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of the paper.

    Attributes:
        number: The paper's, such as `Table III`.
        title: What it is about.
        head: Of every column; the first is that of the rows' titles.
        spans: Headings above these, for all but the first.
        lines: Its rows.
        notes: What to know of the paper's numbers, and of ours.
        warnings: What audits warned of, in the order of their numbers.
        words: How many columns, the first, are words.
    """

    number: str
    title: str
    head: Sequence[str]
    lines: Sequence[Line]
    spans: Sequence[Span] = ()
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()
    words: int = 1

    def markdown(self) -> str:
        """Return the table as Markdown, with what is said below it."""
        spans = [span.title for span in self.spans for _ in range(span.columns)]
        over = ["", *(spans or [""] * (len(self.head) - 1))]
        head = [f"{s}: {h}" if s else h for s, h in zip(over, self.head, strict=True)]
        rows = [[line.title, *map(str, line.cells)] for line in self.lines]
        below = [f"⚠{i} {text}" for i, text in enumerate(self.warnings, 1)]
        said = [literal(text) for text in (*below, *self.notes)]
        return "\n\n".join(
            [
                f"**{self.number}: {literal(self.title)}**",
                ruled(head, rows, words=self.words),
                *said,
            ]
        )


class Warned:
    """Numbers the warnings of a table, each once."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def __call__(self, number: Number | None) -> tuple[int, ...]:
        said = number.warnings if number else ()
        return tuple(self._known.setdefault(text, len(self._known) + 1) for text in said)

    @property
    def texts(self) -> list[str]:
        return [text[:1].upper() + text[1:] + "." for text in self._known]


def percent(
    number: Number | None,
    printed: Sequence[float] = (),
    warned: Warned | None = None,
    *,
    signed: bool = False,
    varied: bool = False,
) -> Cell:
    """Return the cell of a share: a rate, an accuracy, or the loss of one."""
    told = paired(printed)
    if number is None:
        return Cell(paper=told)
    marks = warned(number) if warned else ()
    if number.estimate is None:
        return Cell("no number", None, (), told, marks)
    lines = [interval(number.estimate, SHARE).strip()]
    if varied and number.variance is not None:
        points = 1e4 * number.variance
        lines.append(f"var. {points:,.0f}" if points >= 10 else f"var. {points:.2g}")
    if number.missing:
        lines.append(f"{number.missing} without a number")
    text = SHARE.show(number.estimate.value, signed=signed)
    return Cell(text, number.estimate.value, tuple(filter(None, lines)), told, marks)


def plain(number: Number | None) -> Cell:
    """Return the cell of a number that is no share."""
    if number is None or number.estimate is None:
        return Cell()
    e = number.estimate
    sign = MARKS.get(e.basis, "")
    ends = () if e.low is None or e.high is None else (f"[{e.low:.3g}, {e.high:.3g}]{sign}",)
    return Cell(f"{e.value:.3g}", e.value, ends)


def paired(printed: Sequence[float]) -> str:
    """Return what the paper prints, average / variance."""
    return " / ".join(f"{value:.10g}" for value in printed)


def clock(seconds: float) -> str:
    """Return seconds with as many digits as are worth reading."""
    return f"{seconds:,.0f}" if seconds >= 100 else f"{seconds:.3g}"


def count(samples: int | float) -> str:
    """Return a number of samples as a person says it."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if samples >= size:
            return f"{samples / (1e3 if unit == 'k' else size):.3g} {unit}"
    return f"{samples:,.0f}"


def timed(
    trial: Trial, row: Row | None, printed: Sequence[float] = (), *, steps: bool = False
) -> Cell:
    """Return the cell of a run time: seconds, samples, and its share of retraining's.

    With `steps` it says after how many iterations it ended, if before all were made.
    """
    number, told = trial.seconds(row), paired(printed)
    if row is None or number is None or number.estimate is None:
        return Cell(paper=told)
    value, lines = number.estimate.value, [_ends(number.estimate)]
    if (samples := trial.samples(row)) is not None:
        lines.append(f"{count(samples)} samples")
    whole = trial.seconds(trial.retrained)
    if steps and (made := ran(row)):
        lines.append(f"ended after {made}")
    if row is not trial.retrained and whole and whole.value:
        lines.append(f"{100 * value / whole.value:.3g} % of retraining")
    return Cell(clock(value), value, tuple(filter(None, lines)), told)


def ran(row: Row) -> str:
    """Return how many iterations were made, where they were fewer than allowed."""
    if row.kind != "method":
        return ""
    wanted = setting(row, ITERATIONS)
    traces = [r["notes"]["trace"]["kl"] for r in row.records if "trace" in (r.get("notes") or {})]
    made = sorted({len(trace) - 1 for trace in traces})
    if not made or made == [wanted]:
        return ""
    return f"{made[0]}" if len(made) == 1 else f"{made[0]} to {made[-1]}"


def _ends(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    sign = MARKS.get(estimate.basis, "")
    return f"[{clock(max(0.0, estimate.low))}, {clock(estimate.high)}]{sign}"
