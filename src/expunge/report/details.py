"""The report's words and small print: what was done, every value, every setting."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from expunge.report import evidence
from expunge.study.estimate import mean_answer
from expunge.study.groups import Record, flat, spoken
from expunge.study.rows import Row
from expunge.study.summary import findings
from expunge.study.table import duration

Facts = dict[str, str]

MEANING = {
    "forgotten": "no audit that can tell finds a sign of the records",
    "leaks": "an audit still finds the records, as in the original",
    "over-unlearned": "the records are treated unlike ones never seen, which shows too",
    "cannot tell": "no audit could have told a difference, or a control is missing",
    "diverged": "the method ended in weights that are not finite",
    "failed": "the method stopped with an error",
}


class Value(NamedTuple):
    """One value of an audit: of the unlearned model and of both controls, as text."""

    name: str
    unlearned: str
    original: str
    retrained: str


class Asked(NamedTuple):
    """What one audit found of a method, over its seeds."""

    audit: str
    question: str
    settings: str
    statements: list[tuple[str, str]]
    values: list[Value]


def size(count: int | float) -> str:
    """Return a count with separators: 45,000."""
    return f"{count:,.0f}"


def memory(count: int | float | None) -> str:
    """Return bytes in the unit a person would choose."""
    if count is None:
        return "not measured"
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def asked(row: Row, controls: Mapping[str, Row | None]) -> list[Asked]:
    """Return what every audit found of a method."""
    audits = dict.fromkeys(a for record in row.records for a in findings(record))
    return [_asked(row, audit, controls) for audit in audits]


def _asked(row: Row, audit: str, controls: Mapping[str, Row | None]) -> Asked:
    found = [(r["seed"], f) for r in row.records if (f := findings(r).get(audit))]
    first = found[0][1]
    models = {"unlearned": row} | dict(controls)
    answers = {k: evidence.answers(r, audit) if r else [] for k, r in models.items()}
    values = [
        Value(
            name, *(_said(answers[kind], name) for kind in ("unlearned", "original", "retrained"))
        )
        for name in first["unlearned"]["values"]
    ]
    return Asked(
        audit=audit,
        question=first["question"],
        settings=", ".join(f"{k} {spoken(v)}" for k, v in flat(first["settings"]).items()),
        statements=[(f"seed {seed}", f["statement"]) for seed, f in found],
        values=values,
    )


def _said(answers: Sequence[Mapping[str, Any]], name: str) -> str:
    estimate = mean_answer(answers, name, "seeds")
    if estimate is None:
        return "—"
    text = f"{estimate.value:.4g}"
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} [{estimate.low:.4g}, {estimate.high:.4g}]"


def problem(record: Record) -> Facts:
    """Return what was to be forgotten, from which model, and every setting of it."""
    data, forget, model = record["data"], record["forget"], record["model"]
    return {
        "Data": f"{data['name']}: {size(data['train'])} training and {size(data['test'])} "
        "test records" + (f", {len(data['classes'])} classes" if data.get("classes") else ""),
        "Data digest": data.get("digest") or "not recorded",
        "Forget set": f"{forget['name']}: {size(forget['forget'])} to forget, "
        f"{size(forget['retain'])} to keep, {size(forget['val'])} for validation, "
        f"{size(forget['nonmembers'])} never trained on, {size(forget['test'])} for testing",
        "Model": f"{model['name']}, {size(model['parameters'])} parameters",
        **_settings("Data", data),
        **_settings("Forget set", forget),
        **_settings("Model", model),
        **{f"Training: {k}": spoken(v) for k, v in flat(record["training"]).items()},
    }


def _settings(head: str, part: Mapping[str, Any]) -> Facts:
    return {f"{head}: {k}": spoken(v) for k, v in flat(part.get("settings") or {}).items()}


def method(row: Row) -> Facts:
    """Return a method's every setting, and what it used."""
    first = row.records[0]["method"]
    facts = {"Version": str(first.get("version", "")), "Source": first.get("source", "")}
    facts |= {k: spoken(v) for k, v in flat(first.get("settings") or {}).items()}
    facts["Seeds"] = ", ".join(str(record["seed"]) for record in row.records)
    if row.passes:
        facts["Forward equivalents"] = size(row.passes.value)
    if row.seconds:
        facts["Time"] = duration(row.seconds.value)
    facts["Peak memory"] = memory(row.peak_bytes)
    return {name: text for name, text in facts.items() if text}


def errors(row: Row) -> dict[str, list[int]]:
    """Return what went wrong, and under which seeds."""
    out: dict[str, list[int]] = {}
    for record in row.records:
        if record.get("error"):
            fault = f"{record['error']['type']}: {record['error']['message']}"
            out.setdefault(fault, []).append(record["seed"])
    return out


def environment(records: Sequence[Record]) -> list[Facts]:
    """Return the distinct machines and versions that records come from."""
    out: list[Facts] = []
    for record in records:
        measured = record["measured"]
        hardware = dict(measured.get("hardware") or {})
        facts = {"memory": memory(hardware.pop("memory_bytes", None))}
        facts |= {k: "none" if v is None else spoken(v) for k, v in hardware.items()}
        facts |= {k: str(v) for k, v in (measured.get("versions") or {}).items()}
        if facts not in out:
            out.append(facts)
    return out


def keys(records: Sequence[Record]) -> list[tuple[str, int, str, str, str]]:
    """Return every record's method, seed, status, key and forget set's digest."""
    return [
        (
            record["method"]["name"],
            record["seed"],
            record["status"],
            record["key"][:16] or "—",
            (record["forget"].get("digest") or "")[:16] or "—",
        )
        for record in records
    ]


def slim(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Return the records without their arrays, which are most of their size."""
    return [
        {**record, "findings": [_slim(finding) for finding in record["findings"]]}
        for record in records
    ]


def _slim(finding: Mapping[str, Any]) -> dict[str, Any]:
    def bare(answer: Mapping[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in answer.items() if k != "arrays"}

    return {
        **finding,
        "unlearned": bare(finding["unlearned"]),
        "original": bare(finding["original"]),
        "retrained": [bare(answer) for answer in finding["retrained"]],
    }
