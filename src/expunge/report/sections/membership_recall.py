"""Membership recall: the tables and figures of its paper, with both controls in each."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from expunge.report import charts, evidence, recalled
from expunge.report.figures import Album, Figure, Section
from expunge.report.sections import Scope
from expunge.study import recall
from expunge.study.groups import Record
from expunge.study.recall import CAPTION, PARTS, SHARE, Attack, Study
from expunge.study.rows import Row

SCOPE: Scope = "group"


def applies(records: Sequence[Record]) -> bool:
    """Return whether any of the records was attacked."""
    return bool(recall.attacks(records))


def markdown(records: Sequence[Record]) -> str:
    """Return the tables as Markdown."""
    return recall.markdown(records)


def view(rows: Sequence[Row], album: Album) -> Mapping[str, Any]:
    """Return the tables, the figures and their words."""
    found = recall.study(rows[0].group)
    if found is None:
        raise ValueError("expected records of membership_recall, got none; ask `applies` first")
    classes = _names(found)
    return {
        "study": found,
        "parts": PARTS,
        "glance": [_glance(found, attack, album) for attack in found.attacks],
        "classes": [
            _classes(found, attack, album) for attack in found.attacks if attack.case != "distilled"
        ],
        "confusions": list(_confusions(found, album)),
        "sparse": len(classes) > charts.FEW,
        "renormed": any(line.renormed for line in found.lines(found.attacks[0], "forget")),
        "retrained": _retrained(found) is not None,
        "marks": recall.MARKS,
        "share": SHARE,
        "reach": recall.reach,
        "aside": recall.aside(found.data) if found.printed else "",
        "caption": CAPTION,
    }


def _glance(found: Study, attack: Attack, album: Album) -> Section:
    figures = [
        figure
        for part, words in PARTS.items()
        for figure in album.add(
            recalled.dumbbells(found.lines(attack, part)),
            f"On {words}",
            f"accuracy before and after the attack ({attack.title}), with both controls",
        )
    ]
    return Section(attack.heading, figures)


def _classes(found: Study, attack: Attack, album: Album) -> Section:
    figures: list[Figure] = []
    retrained = _retrained(found)
    for row in found.rows:
        if row.kind != "method":
            continue
        kinds = {kind: (row, kind) for kind in ("after", "before", "renormed")}
        accuracy = {
            kind: evidence.per_class(whose, attack.audit, f"{what}_forget")
            for kind, (whose, what) in (kinds | {"retrained": (retrained, "after")}).items()
        }
        figures += album.add(
            recalled.classes(accuracy, _names(found)),
            row.label,
            f"accuracy on each forgotten class before and after the attack ({attack.title})",
        )
    return Section(attack.heading, figures)


def _confusions(found: Study, album: Album) -> Iterator[Figure]:
    for row in found.rows:
        yield from album.add(
            recalled.confusions(_stages(found, row), _names(found)),
            row.label,
            "confusion matrices on the records to forget, from the unlearned model to the "
            "recalled ones",
            kind="" if row.kind == "method" else row.kind,
        )


def _stages(found: Study, row: Row) -> dict[str, np.ndarray]:
    """Return a row's confusion matrices before, with fresh statistics, and after each attack."""
    first = found.attacks[0]
    wanted = {"ULM": (first, "before"), "BN only": (first, "renormed")}
    wanted |= {attack.component: (attack, "after") for attack in found.attacks}
    counts = {
        title: evidence.confusion(row, attack.audit, f"{kind}_forget")
        for title, (attack, kind) in wanted.items()
    }
    return {title: table for title, table in counts.items() if table is not None}


def _retrained(found: Study) -> Row | None:
    return next((row for row in found.rows if row.kind == "retrained"), None)


def _names(found: Study) -> Sequence[str]:
    return found.group.first["data"].get("classes") or ()
