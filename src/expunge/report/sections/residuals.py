"""Residuals: what is left inside, by how soon it is known again, with both controls in each.

Xiao, Ye, Hu, Zheng, Hu, Liang, Li and Jiao, "Reminiscence Attack on Residuals: Exploiting
Approximate Machine Unlearning for Privacy", ICCV 2025, https://arxiv.org/abs/2507.20573.
"""

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from expunge.report import residual_charts
from expunge.report.figures import Album, Figure, Section
from expunge.report.grids import data_uri
from expunge.report.residual_charts import Band, Mark
from expunge.report.sections import Scope
from expunge.study import residual_arrays as arrays
from expunge.study import residual_tables
from expunge.study.groups import Record
from expunge.study.published import reminiscence as paper
from expunge.study.residual_claims import expected
from expunge.study.residuals import (
    PRIOR,
    RECOVERY,
    Attack,
    Study,
    every,
    holds,
    name_of,
    studies,
    study,
)
from expunge.study.rows import Row
from expunge.study.table import literal

SCOPE: Scope = "group"
TONES = {"holds": "forgotten", "does not hold": "leaks", "cannot be resolved": "cannot tell"}
PLURAL = dict(zip(TONES, ("hold", "do not hold", "cannot be resolved"), strict=True))
BALANCED, RECOGNISED = "balanced_accuracy", "recognised"
MEASURES = {"recognised": "samples recognised", "loss": "denoising loss"}


class Grid(NamedTuple):
    """Samples of one model as one picture, a row for each class.

    Attributes:
        when: `before` or `after` the attack.
        source: The picture.
        classes: How many rows it has.
    """

    when: str
    source: str
    classes: int


class Samples(NamedTuple):
    """What a row's models draw, and the classes' names."""

    title: str
    kind: str
    grids: Sequence[Grid]
    classes: Sequence[str]


def applies(records: Sequence[Record]) -> bool:
    """Return whether any of the records was asked for residuals."""
    return holds(records)


def markdown(records: Sequence[Record]) -> str:
    """Return the tables and what became of expectations, as Markdown."""
    parts: list[str] = []
    for found in studies(records):
        parts.append(f"**Residuals: {literal(found.group.title)}**")
        parts += _claimed(found)
        parts += residual_tables.markdown(found)
    return "\n\n".join([*parts, residual_tables.CAPTION]) + "\n" if parts else ""


def _claimed(found: Study) -> Iterator[str]:
    claims = expected(found)
    if not claims:
        return
    lines = ["| expected | | found | test | n |", "| --- | --- | --- | --- | ---: |"]
    for claim in claims:
        said = "; ".join(_said(s.value, s.low, s.high, s.what, s.missing) for s in claim.statements)
        tests = ", ".join(claim.tests)
        lines.append(
            f"| {claim.id} | {literal(claim.text)} | **{claim.verdict}**: {literal(said)} "
            f"| {tests} | {claim.n or '—'} |"
        )
    yield "\n".join(lines)


def _said(value: float | None, low: float | None, high: float | None, what: str, gone: str) -> str:
    """Return a statement's number in words."""
    number = "" if value is None else f" {value:.3g}"
    ends = "" if low is None or high is None else f" [{low:.3g}, {high:.3g}]"
    return f"{what}:{number}{ends}{', ' if number and gone else ' ' if gone else ''}{gone}"


def view(rows: Sequence[Row], album: Album) -> Mapping[str, Any]:
    """Return the tables, the figures and their words."""
    found = study(rows[0].group)
    if found is None:
        raise ValueError("expected records of residuals, got none; ask `applies` first")
    claims = expected(found)
    return {
        "study": found,
        "claims": claims,
        "counts": {v: n for v in TONES if (n := sum(c.verdict == v for c in claims))},
        "tones": TONES,
        "plural": PLURAL,
        "glance": list(_glance(found, album)),
        "tables": residual_tables.tables(found),
        "courses": [_courses(found, attack, album) for attack in found.classwise],
        "decisions": [_decisions(found, attack, album) for attack in found.classwise],
        "gains": [_gains(found, attack, album) for attack in found.samplewise],
        "recovery": [
            _recovery(found, label, what, album)
            for label in found.labelled(RECOVERY)
            for what in MEASURES
        ],
        "samples": [s for label in found.labelled(RECOVERY) for s in _samples(found, label)],
        "retrained": found.control("retrained") is not None,
        "prior": bool(found.labelled(*PRIOR)),
        "printed": found.printed is not None,
        "caption": residual_tables.CAPTION,
        "sources": residual_tables.sources(found),
    }


def _kind(row: Row) -> str:
    return "unlearned" if row.kind == "method" else row.kind


def _tone(row: Row) -> str:
    return row.verdict or row.kind


def _band(found: Study, label: str, value: str) -> Band | None:
    """Return where the retrained models lie."""
    values = every(found.control("retrained"), label, value)
    return Band(min(values), fmean(values), max(values)) if values else None


def _marks(found: Study, label: str, value: str) -> list[Mark]:
    """Return every row's value of an audit."""
    cells = [(row, found.cell(row, label, value)) for row in found.rows]
    told = [(row, cell.estimate) for row, cell in cells if cell is not None]
    return [Mark(row.label, _kind(row), e.value, e.low, e.high) for row, e in told]


def _beside(found: Study, attack: Attack, mark: Mark) -> Mark:
    """Return a mark with the best attack before, and what the earlier version prints."""
    row = found.row(mark.name)
    prior = [found.cell(row, label, BALANCED) for label in found.labelled(*PRIOR)]
    known = [cell.estimate.value for cell in prior if cell is not None]
    share = float(attack.settings.get("share", 0))
    printed = paper.attack(found.printed, name_of(row), share)[0]
    return mark._replace(
        prior=max(known, default=None), printed=[t.numbers[0] / 100 for t in printed]
    )


def _glance(found: Study, album: Album) -> Iterator[Figure]:
    """Draw what each attack on a class makes of every model."""
    for attack in found.classwise:
        own = [_beside(found, attack, m) for m in _marks(found, attack.label, BALANCED)]
        yield from album.add(
            residual_charts.marks(own, _band(found, attack.label, BALANCED), 0.5, share=True),
            f"Attack on the class: {attack.title}",
            "balanced accuracy of every model, beside the best attack before",
        )
    for label in found.labelled(RECOVERY):
        yield from album.add(
            residual_charts.marks(
                _marks(found, label, RECOGNISED), _band(found, label, RECOGNISED), None, share=True
            ),
            "How soon the class is drawn again",
            "share of samples in which a classifier sees the class, mean over rounds of the attack",
            note="samples recognised, mean over rounds",
        )


def _gains(found: Study, attack: Attack, album: Album) -> Section:
    """Draw what fine-tuning brought back, by both ways to score."""
    figures: list[Figure] = []
    for value, words in {"gain": "online", "gain_offline": "offline"}.items():
        figures += album.add(
            residual_charts.marks(
                _marks(found, attack.label, value), _band(found, attack.label, value), 0.0
            ),
            f"Gain, {words} scores",
            f"area under the ROC curve after fine-tuning minus before, {attack.title}",
        )
    return Section(attack.title, figures)


def _courses(found: Study, attack: Attack, album: Album) -> Section:
    """Draw how every model learns the forgotten class again."""
    figures: list[Figure] = []
    controls = {kind: _forgotten(found.control(kind), attack) for kind in ("original", "retrained")}
    level = float(attack.settings.get("accuracy", 0.9))
    for row in found.rows:
        own = arrays.course(row, attack)
        if own is None:
            continue
        beside = controls if row.kind == "method" else {}
        figures += album.add(
            residual_charts.courses(own, {_kind(row): own.forgotten} | dict(beside), level),
            row.label,
            f"accuracy on candidates by step of relearning, {attack.title} attack",
            kind=_tone(row),
        )
    return Section(attack.title, figures)


def _forgotten(row: Row | None, attack: Attack) -> Sequence[float]:
    own = arrays.course(row, attack)
    return own.forgotten if own else ()


def _decisions(found: Study, attack: Attack, album: Album) -> Section:
    """Draw the scores of all trials, with the threshold."""
    figures: list[Figure] = []
    within = arrays.edges(found.rows, attack)
    for row in found.rows:
        own = arrays.decision(row, attack, within)
        if own is None:
            continue
        cell = found.cell(row, attack.label, BALANCED)
        figures += album.add(
            residual_charts.decisions(own, _kind(row)),
            row.label,
            f"scores of trials on members and never-trained classes, {attack.title} attack",
            note=f"{100 * cell.estimate.value:.1f} %" if cell else "",
            kind=_tone(row),
        )
    return Section(attack.title, figures)


def _recovery(found: Study, label: str, what: str, album: Album) -> Section:
    """Draw how soon every method's models draw the class again."""
    figures: list[Figure] = []
    controls = {
        k: arrays.recovered(found.control(k), label, what) for k in ("original", "retrained")
    }
    for row in found.methods:
        own = arrays.recovered(row, label, what)
        if own is None:
            continue
        shown = {k: v for k, v in ({"unlearned": own} | controls).items() if v is not None}
        figures += album.add(
            residual_charts.recovery(shown, share=what == RECOGNISED),
            row.label,
            f"{MEASURES[what]} by round of the attack, with both controls",
            kind=_tone(row),
        )
    return Section(MEASURES[what], figures)


def _samples(found: Study, label: str) -> Iterator[Samples]:
    """Yield what every model draws, before the attack and after it."""
    classes = found.group.first["data"].get("classes") or ()
    for row in found.rows:
        kept = arrays.samples(row, label)
        grids = [_grid(when, pixels) for when, pixels in kept.items() if pixels]
        if grids:
            names = list(classes) if len(classes) == grids[0].classes else ()
            yield Samples(row.label, _tone(row), grids, names)


def _grid(when: str, pixels: Sequence[Any]) -> Grid:
    return Grid(when, data_uri(pixels), len(pixels))
