"""Membership recall in the layout of the paper's tables, with the controls it went without.

Of every model: the accuracy before the attack (ULM, the unlearned model), with fresh
BatchNorm statistics and nothing else, after the attack (RCM, the recalled model), and what
was gained. The original and the retrained models were attacked alike and are rows too: a
label that is recalled from a model that never saw the record was not remembered.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from expunge.study.estimate import number
from expunge.study.groups import Group, Record, group, labels
from expunge.study.published import recall as paper
from expunge.study.rows import Cell, Column, Row
from expunge.study.summary import answers, findings, tabulate
from expunge.study.table import NONE, interval, literal, ruled

AUDIT = "membership_recall"
PARTS = {"forget": "records to forget", "test": "test records"}
CASES = {  # in the order in which the paper adds their components
    "distilled": ("DST", "the student only follows the model's answers"),
    "closed": ("DST+STU", "the student also learns the images both are surest of"),
    "open": ("DST+STU+TCH", "the unlearned model itself learns them too"),
}
MARKS = {"largest": "▲", "smallest": "▽", "": ""}
KINDS = ("before", "renormed", "after", "gain")
SHARE = Column("", "", "", "%")
CAPTION = (
    "Accuracy in %, mean [95 % interval]: Student's t over seeds where two or more differ; * over "
    "the retrained models, and where several seeds share these over both; in a single run ° over "
    "its records (bootstrap). ULM: the unlearned "
    "model before the attack; in a control's row, that control. BN only: the same model with "
    "BatchNorm statistics of the attacker's images, and nothing trained. RCM: the recalled "
    "model, after the attack. RCM - retrained: minus the mean of the same attack on models "
    "that never saw the records; ≈, on records to forget: no larger than chance between "
    "those makes it; in their own row, the lowest and the highest. "
    "▲ the two largest differences RCM - ULM of any method, ▽ the two smallest."
)

Mark = Literal["largest", "smallest", ""]


@dataclass(frozen=True)
class Attack:
    """One way to attack.

    Attributes:
        audit: Its label among the group's audits.
        case: `distilled`, `closed` or `open`.
        title: The case, told apart from its namesakes by settings.
    """

    audit: str
    case: str
    title: str

    @property
    def component(self) -> str:
        """What the paper's ablation calls it, with the settings that tell it apart."""
        return CASES[self.case][0] + self.title.removeprefix(self.case)

    @property
    def heading(self) -> str:
        """The component and what it is."""
        return f"{self.component}: {self.case}, {CASES[self.case][1]}"

    def column(self, kind: str, part: str) -> Column:
        """Return the column of `before`, `renormed`, `after` or `gain` on a set of records."""
        return Column(
            self.audit,
            f"{kind}_{part}",
            f"{kind} {part}",
            "%",
            headline=(kind, part) == ("after", "forget"),
            bounded=kind != "gain",
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Line:
    """What one attack did to one row's models, on one set of records.

    Attributes:
        row: The method or the control.
        before: Accuracy before the attack.
        renormed: Accuracy with fresh BatchNorm statistics; None where there are none.
        after: Accuracy after the attack; its `gap` is to the attacked retrained models.
        gain: After minus before.
        mark: Whether the gain is among the two largest or smallest of all methods.
        told: For the retrained models, the accuracy after every attack on one of them.
        published: What the paper prints of this method on this data set.
    """

    row: Row
    before: Cell
    renormed: Cell | None
    after: Cell
    gain: Cell
    mark: Mark = ""
    told: Sequence[float] = ()
    published: paper.Told | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Study:
    """Every recall attack on one group's models."""

    group: Group
    attacks: Sequence[Attack]
    rows: Sequence[Row] = field(repr=False)

    @cached_property
    def data(self) -> str:
        return str(self.group.first["data"]["name"])

    @cached_property
    def _lines(self) -> Mapping[tuple[Attack, str], Mapping[str, Line]]:
        return {(a, part): self._table(a, part) for a in self.attacks for part in PARTS}

    def lines(self, attack: Attack, part: str) -> list[Line]:
        """Return the table of an attack on a set of records: the controls first."""
        return list(self._lines[attack, part].values())

    def line(self, row: Row, attack: Attack, part: str) -> Line | None:
        """Return one row of such a table; None where the attack was not made."""
        return self._lines[attack, part].get(row.label)

    def first(self, row: Row, part: str) -> Line | None:
        """Return the row's line of the first attack that was made: all start alike."""
        lines = (self.line(row, attack, part) for attack in self.attacks)
        return next((line for line in lines if line is not None), None)

    def _table(self, attack: Attack, part: str) -> dict[str, Line]:
        gain = attack.column("gain", part)
        rows = [row for row in self.rows if gain in row.cells]
        methods = [row for row in rows if row.kind == "method"]
        marks = marked({row.label: row.cells[gain].estimate.value for row in methods})
        return {r.label: self._line(r, attack, part, marks.get(r.label, "")) for r in rows}

    def _line(self, row: Row, attack: Attack, part: str, mark: Mark) -> Line:
        every = [number(a["values"].get(f"after_{part}")) for a in answers(row, attack.audit)]
        known = [value for value in every if value is not None]
        name, control = row.records[0]["method"]["name"], row.kind != "method"
        return Line(
            row=row,
            before=row.cells[attack.column("before", part)],
            renormed=row.cells.get(attack.column("renormed", part)),
            after=row.cells[attack.column("after", part)],
            gain=row.cells[attack.column("gain", part)],
            mark=mark,
            told=known if row.kind == "retrained" else (),
            published=None if control else paper.told(self.data, name, attack.case, part),
        )

    @property
    def printed(self) -> bool:
        """Whether the paper has numbers of this data set and any of these methods."""
        methods = {str(record["method"]["name"]) for record in self.group.records}
        return any(paper.told(self.data, name, "closed", "forget") for name in methods)


def marked(gains: Mapping[str, float], count: int = 2) -> Mapping[str, Mark]:
    """Return which gains are among the `count` largest and which among the smallest.

    Of few methods fewer are marked, so that none is both; ties are marked together, unless
    they would be both.
    """
    count = min(count, len(gains) // 2)
    if not count:
        return {}
    ordered = sorted(gains.values())
    low, high = ordered[count - 1], ordered[-count]
    if low >= high:
        return {}
    marks: dict[str, Mark] = {}
    for name, gain in gains.items():
        if not low < gain < high:
            marks[name] = "largest" if gain >= high else "smallest"
    return marks


def attacks(records: Sequence[Record]) -> list[Attack]:
    """Return the recall attacks that records hold, in the order of their components."""
    found: dict[str, Mapping[str, object]] = {}
    for record in records:
        for label, finding in findings(record).items():
            if finding["audit"] == AUDIT:
                found.setdefault(label, finding["settings"])
    ordered = sorted(found.items(), key=lambda pair: list(CASES).index(str(pair[1]["case"])))
    things = [
        {"name": s["case"], "settings": {k: v for k, v in s.items() if k != "case"}}
        for _, s in ordered
    ]
    return [
        Attack(label, str(settings["case"]), title)
        for (label, settings), title in zip(ordered, labels(things), strict=True)
    ]


def study(of: Group) -> Study | None:
    """Return the recall attacks on a group's models, or None where there are none."""
    known = attacks(of.records)
    if not known:
        return None
    shown = [attack.column(k, part) for attack in known for k in KINDS for part in PARTS]
    return Study(group=of, attacks=known, rows=tabulate(of, shown))


def markdown(records: Sequence[Record]) -> str:
    """Return the tables of every group that was attacked, as Markdown; empty for none."""
    studies = [found for each in group(records) if (found := study(each))]
    parts = [part for found in studies for part in _parts(found)]
    return "\n\n".join([*parts, CAPTION]) + "\n" if parts else ""


def _parts(found: Study) -> Iterator[str]:
    yield f"**Membership recall: {literal(found.group.title)}**"
    for attack in found.attacks:
        for part, words in PARTS.items():
            yield f"{literal(attack.heading)}; {words}"
            yield _table(found.lines(attack, part), beside=found.printed)
    if len(found.attacks) > 1:
        for part, words in PARTS.items():
            yield f"Ablation, {words}"
            yield _ablation(found, part)
    if found.printed:
        yield aside(found.data)


def _table(lines: Sequence[Line], *, beside: bool) -> str:
    head = ["model", "ULM", "BN only", "RCM", "RCM - ULM", "RCM - retrained"]
    rows = [
        [
            line.row.label,
            *(spoken(cell) for cell in (line.before, line.renormed, line.after)),
            f"{MARKS[line.mark]} {spoken(line.gain, signed=True)}".strip(),
            beyond(line),
            *([quoted(line.published)] if beside else []),
        ]
        for line in lines
    ]
    return ruled([*head, *(["paper: ULM → RCM"] if beside else [])], rows)


def _ablation(found: Study, part: str) -> str:
    head = ["model", "ULM", "BN only", *(attack.component for attack in found.attacks)]
    rows = []
    for row in found.rows:
        first = found.first(row, part)
        if first is None:
            continue
        lines = [found.line(row, attack, part) for attack in found.attacks]
        told = [spoken(line and line.after) for line in lines]
        cells = [row.label, spoken(first.before), spoken(first.renormed), *told]
        rows.append(cells + ([stepped(found, row, part)] if found.printed else []))
    return ruled([*head, *(["paper"] if found.printed else [])], rows)


def spoken(cell: Cell | None, *, signed: bool = False) -> str:
    """Return a cell's value with its interval."""
    if cell is None:
        return NONE
    return SHARE.show(cell.estimate.value, signed=signed) + interval(cell.estimate, SHARE)


def beyond(line: Line) -> str:
    """Return how far the attack went beyond itself on retrained models; their own spread."""
    if line.told:
        return f"{reach(line)} in {len(line.told)} attacks"
    if line.after.gap is None:
        return NONE
    value = SHARE.show(line.after.gap.value, signed=True)
    return ("≈" if line.after.within else "") + value + interval(line.after.gap, SHARE)


def reach(line: Line) -> str:
    """Return the lowest and the highest accuracy after attacks on retrained models."""
    return " to ".join(SHARE.show(end) for end in (min(line.told), max(line.told)))


def quoted(told: paper.Told | None) -> str:
    """Return the paper's numbers in the unit of ours."""
    if told is None:
        return NONE
    ends = f"{SHARE.show(told.unlearned)} → {SHARE.show(told.recalled)}"
    return f"{ends} ({SHARE.show(told.difference, signed=True)})"


def stepped(found: Study, row: Row, part: str) -> str:
    """Return the paper's ablation of a method, component by component."""
    lines = [found.line(row, attack, part) for attack in found.attacks]
    told = [line.published for line in lines if line is not None]
    return " → ".join(SHARE.show(each.recalled) for each in told if each) or NONE


def aside(data: str) -> str:
    """Return what the paper's numbers are about, which is not what ours are about."""
    about, source = paper.tables()["data"][data], paper.tables()["source"]
    original = about["original"]
    return (
        f"Paper: {source}, {paper.tables()['link']}. Another model at another scale, tuned by "
        f"its authors, without our controls: {about['unlearned']} attacked by "
        f"{about['student']}, both with ImageNet weights; {about['train']:,} training images, "
        f"{about['forget']:,} of them to forget, half of each of five classes; {about['test']:,} "
        "for testing. "
        f"Its original is right on {SHARE.show(original['forget'])} % of the images to forget "
        f"and {SHARE.show(original['test'])} % of the others."
    )
