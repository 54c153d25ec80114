"""Agreement of audits: all of them in one table, who contradicts whom, and shared records."""

from collections.abc import Mapping, Sequence
from typing import Any

from expunge.report import overlap
from expunge.report.figures import Album, Figure
from expunge.report.sections import Scope
from expunge.study import agreement, consensus
from expunge.study.consensus import CAPTION, FOUND, KINDS, SHARED, Study
from expunge.study.groups import Record
from expunge.study.rows import Column, Row
from expunge.study.summary import answers

SCOPE: Scope = "group"
MOST = 28  # combinations that fit side by side
TONES = {
    "leaks": "leaks",
    "overshoots": "over-unlearned",
    "like retraining": "forgotten",
    "like never trained": "forgotten",
    "cannot tell": "cannot tell",
}


def applies(records: Sequence[Record]) -> bool:
    """Return whether two audits of one model say which records they flag."""
    return agreement.holds(records)


def markdown(records: Sequence[Record]) -> str:
    """Return the tables as Markdown."""
    return consensus.markdown(records)


def view(rows: Sequence[Row], album: Album) -> Mapping[str, Any]:
    """Return the tables, the figures and their words."""
    found = consensus.study(rows[0].group)
    if found is None:
        raise ValueError("expected records of two audits with flags, got none; ask `applies` first")
    shown = found.largest[:MOST]
    counts = found.counts("method")
    return {
        "study": found,
        "kinds": KINDS,
        "tones": TONES,
        "split": consensus.split,
        "worst": agreement.worst,
        "dissent": agreement.dissent(found.models),
        "told": consensus.told,
        "among": consensus.among,
        "exact": exact,
        "matrices": _matrices(found, album),
        "upset": _upset(found, album),
        "steady": any(each.stability for each in found.agreements),
        "none": counts.get((), 0.0),
        "records": sum(counts.values()),
        "rest": sum(counts[key] for key in found.largest[MOST:]),
        "left": len(found.largest) - len(shown),
        "named": found.named(),
        "often": {
            k: sum(len(key) * n for key, n in told.items()) / sum(told.values())
            for k in found.kinds
            if (told := found.counts(k))
        },
        "caption": CAPTION,
        "shared": SHARED,
    }


def exact(row: Row, column: Column) -> str:
    """Return every model's share of records found, with its own interval over records."""
    told = [(a["values"].get(FOUND), a["intervals"].get(FOUND)) for a in answers(row, column.audit)]
    return "; ".join(
        f"{column.show(value)} [{column.show(ends[0])}, {column.show(ends[1])}]"
        for value, ends in told
        if value is not None and ends
    )


def _matrices(found: Study, album: Album) -> list[Figure]:
    return [
        figure
        for kind, words in KINDS.items()
        for figure in album.add(
            overlap.matrix(found.shared(kind), found.steady(kind), found.audits),
            words,
            "Jaccard index of the records that every two audits flag, below the diagonal; "
            "above it what chance would give, on it each audit with itself from seed to seed",
            kind="" if kind == "method" else kind,
        )
    ]


def _upset(found: Study, album: Album) -> list[Figure]:
    shown = found.largest[:MOST]
    chart = overlap.upset(
        {kind: found.counts(kind) for kind in found.kinds},
        {key: found.expected(key) for key in shown},
        shown,
        found.audits,
    )
    return list(
        album.add(
            chart,
            "Records flagged by exactly these audits",
            "how many records each combination of audits flags, with both controls",
            note="in the mean model",
        )
    )
