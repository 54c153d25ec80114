"""A record: all that is known of one unlearned model, as one line of JSON."""

from collections.abc import Mapping, Sequence

from expunge.audit import Case, Finding
from expunge.bench.environment import environment
from expunge.bench.problem import Problem
from expunge.config import plain
from expunge.core.cost import Cost
from expunge.core.rng import fenced
from expunge.method import Method
from expunge.types import Json
from expunge.verdict import decide

SCHEMA = 1


def outcome(
    case: Case, findings: Sequence[Finding], unasked: Mapping[str, str] | None = None
) -> dict[str, Json]:
    """Return what was found of a model: facts, and apart from them what was measured.

    Args:
        case: Whose model.
        findings: What the audits found.
        unasked: Why others could not be asked, by their names.
    """
    return {
        "status": "done",
        "error": None,
        "findings": [finding.record() for finding in findings],
        "verdict": decide(findings)._asdict(),
        "cost": counts(case.unlearned.cost),
        "notes": dict(case.unlearned.notes) | ({"unasked": dict(unasked)} if unasked else {}),
        "measured": {
            **clock(case.unlearned.cost),
            "training_seconds": clock(case.original.cost)["seconds"],
            "retraining_seconds": [clock(c.cost)["seconds"] for c in case.retrained],
        },
    }


def failure(kind: str, error: Exception) -> dict[str, Json]:
    """Return what a record says of a model that could not be made."""
    return {
        "status": kind,
        "error": {"type": type(error).__name__, "message": str(error)},
        "findings": [],
        "verdict": {"kind": "failed", "sentence": str(error)},
        "cost": None,
        "notes": {},
        "measured": {**clock(None), "training_seconds": None, "retraining_seconds": []},
    }


def record(
    run: str,
    problem: Problem,
    method: Method | str,
    seed: int,
    found: Mapping[str, Json],
    key: str = "",
) -> dict[str, Json]:
    """Return the record; all but `measured` is the same in every run.

    Args:
        run: What the record belongs to.
        problem: What was to be forgotten.
        method: What made the model, or what to call it.
        seed: Of the model.
        found: What `outcome` or `failure` returned.
        key: Of the stage that found it, where there is one.
    """
    head = {"schema": SCHEMA, "key": key, "run": run} | about(problem) | {"method": _method(method)}
    facts = {k: v for k, v in found.items() if k != "measured"}
    return head | {"seed": seed} | facts | {"measured": found["measured"] | environment()}


def about(problem: Problem) -> dict[str, Json]:
    """Return what a record says of the problem."""
    request, sets, recipe = problem.request, problem.sets, problem.recipe
    parts = {n: len(getattr(request, n)) for n in ("forget", "retain", "val", "nonmembers")}
    with fenced(0):
        size = sum(p.numel() for p in recipe.drawn().parameters())
    records = {
        "train": len(sets.train),
        "test": len(sets.test),
        "classes": list(sets.classes),
        "digest": problem.digests["train"],
    }
    split = {"test": len(problem.test), "digest": problem.parts.digest}
    return {
        "data": _named(problem.source) | records,
        "forget": _named(problem.forget) | parts | split,
        "model": _named(recipe.model) | {"parameters": size},
        "training": {k: plain(getattr(recipe, k)) for k in ("descent", "augment", "task")}
        | {"start": None if recipe.start is None else dict(recipe.start.about)},
    }


def counts(cost: Cost | None) -> dict[str, int] | None:
    """Return the part of a cost that no hardware changes."""
    return None if cost is None else {"forward": cost.forward, "backward": cost.backward}


def clock(cost: Cost | None) -> dict[str, Json]:
    """Return the part of a cost that differs from run to run."""
    if cost is None:
        return {"seconds": None, "peak_bytes": None}
    return {"seconds": cost.seconds, "peak_bytes": cost.peak_bytes}


def _method(method: Method | str) -> dict[str, Json]:
    if isinstance(method, str):
        return {
            "name": method,
            "version": 0,
            "settings": {},
            "summary": "",
            "source": "",
            "mechanisms": [],
        }
    card, words = method.card, (type(method).__doc__ or "").strip().splitlines()
    told = {"version": card.version, "summary": words[0], "source": card.source}
    return _named(method) | told | {"mechanisms": list(card.mechanisms)}


def _named(settings: object) -> dict[str, Json]:
    table: Mapping[str, Json] = {} if settings is None else plain(settings)
    rest = {k: v for k, v in table.items() if k not in ("name", "version")}
    return {"name": table.get("name", "given"), "settings": rest}
