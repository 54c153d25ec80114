"""What a search found: lines of JSON for every trial, and TOML to paste into a spec."""

import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from expunge.bench.search import Trial, space
from expunge.bench.tune import SETS, Plan, Tuned
from expunge.config import plain
from expunge.method import Method
from expunge.types import Json

BARE = re.compile(r"[A-Za-z0-9_-]+")


def lines(plan: Plan, found: Sequence[Tuned]) -> Iterator[Json]:
    """Yield a line of plain data for every trial."""
    for tuned in found:
        head = {
            "spec": plan.spec.name,
            "problem": _problem(tuned),
            "seed": plan.seed,
            "tuning": plain(plan.tuning),
            "retrained": plan.controls,
            "references": dict(tuned.references),
            "given": plain(tuned.method),
            "space": {name: search._asdict() for name, search in space(tuned.method).items()},
        }
        for trial in tuned.trials:
            yield head | _told(trial)


def _problem(tuned: Tuned) -> Json:
    problem = tuned.problem
    return {
        "title": tuned.title,
        "data": plain(problem.source),
        "model": plain(problem.recipe.model),
        "forget": plain(problem.forget),
        "records": {name: len(getattr(problem.request, name)) for name in SETS},
        "split": problem.parts.digest,
    }


def _told(trial: Trial) -> Json:
    result = trial.result
    return {
        "trial": trial.number,
        "settings": dict(trial.settings),
        "method": plain(trial.method),
        "status": "diverged" if result.objective is None else "done",
        "objective": result.objective,
        "parts": dict(result.parts),
        "values": dict(result.values),
        "seconds": result.seconds,
        "error": result.why,
    }


def fragment(plan: Plan, found: Sequence[Tuned]) -> str:
    """Return the best settings as entries of a spec, with the facts of the search as comments."""
    parts = [commented(_facts(plan))]
    for title, group in groupby(found, key=lambda tuned: tuned.title):
        of_one = list(group)
        forgotten = len(of_one[0].problem.request.forget)
        aim = spelled(of_one[0].references)
        parts.append(commented([f"{title}: {forgotten:,} other records to forget; aim: {aim}"]))
        parts += map(_entry, of_one)
        parts += [commented(["nothing to search"]) + entry(m) for m in plan.unsearched]
    return "\n".join(parts)


def _facts(plan: Plan) -> Iterator[str]:
    tuning = plan.tuning
    limit = f" or {tuning.seconds:g} s of unlearning" if tuning.seconds is not None else ""
    yield f"Settings for the spec '{plan.spec.name}', searched by `expunge tune` on forget sets and"
    yield f"originals that the spec does not use (seed {tuning.seed}); no test set was read."
    yield f"At most {tuning.trials} trials{limit} for each method, the given settings first."
    aim = "given values" if tuning.target else f"the mean of {plan.controls} retrained models"
    yield f"Minimised: the mean distance to {aim} on {', '.join(tuning.sets)}."


def _entry(tuned: Tuned) -> str:
    best, trials = tuned.best, tuned.trials
    failed = sum(t.result.objective is None for t in trials)
    told = f"{len(trials)} trials, {failed} diverged, {tuned.seconds:.3g} s of unlearning"
    ranges = ", ".join(f"{k} from {s.low:g} to {s.high:g}" for k, s in space(tuned.method).items())
    comments = [f"{ranges}: {told}"]
    if best is None:
        comments.append("every trial diverged; these are the settings as given")
        return commented(comments) + entry(tuned.method)
    first = trials[0].result.objective
    given = "diverged" if first is None else f"{first:.4g}"
    parts = spelled(best.result.parts)
    comments.append(f"distance {best.result.objective:.4g} ({parts}); as given: {given}")
    return commented(comments) + entry(best.method)


def spelled(values: Mapping[str, float]) -> str:
    """Return named numbers in words."""
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())


def commented(comments: Iterable[str]) -> str:
    """Return each comment on a line of its own, whatever is in it."""
    return "".join(f"# {' '.join(comment.splitlines())}\n" for comment in comments)


def entry(method: Method) -> str:
    """Return a method as an entry of a spec: its name, and what differs from its defaults."""
    settings = differing(method)
    unsaid = [f"{k}: none, for which TOML has no word" for k, v in settings.items() if v is None]
    pairs = {"name": method.card.name} | {k: v for k, v in settings.items() if v is not None}
    body = "".join(f"{name} = {toml(value)}\n" for name, value in pairs.items())
    return commented(unsaid) + "[[methods]]\n" + body


def differing(method: Method) -> dict[str, Json]:
    """Return the settings that are not the method's defaults, table within table."""
    found = {}
    for f in dataclasses.fields(method):
        value = plain(getattr(method, f.name))
        default = f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
        if default is not dataclasses.MISSING:
            value = _beyond(plain(default), value)
        if value != {}:
            found[f.name] = value
    return found


def _beyond(default: Json, value: Json) -> Json:
    """Return what of a value differs from the default; an empty table where nothing does."""
    if default == value:
        return {}
    if not isinstance(default, dict) or not isinstance(value, dict) or "name" in value:
        return value
    return {k: v for k, v in value.items() if k not in default or default[k] != v}


def toml(value: Json) -> str:
    """Return plain data as a value of TOML, on one line.

    Raises:
        TypeError: For None, which TOML has no word for.
    """
    if isinstance(value, Mapping):
        # What is left out has its default, which is how TOML says none.
        pairs = (f"{_key(k)} = {toml(v)}" for k, v in value.items() if v is not None)
        return f"{{ {', '.join(pairs)} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, str):
        # JSON's strings are TOML's, but for one character that JSON leaves as it is.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    raise TypeError(f"TOML has no word for {value!r}")


def _key(text: str) -> str:
    return text if BARE.fullmatch(text) else toml(text)
