"""The study of forgetting rates: the tables and figures of the paper on Forsaken.

Liu et al., "Learn to Forget: Machine Unlearning via Neuron Masking", 2020,
https://arxiv.org/abs/2003.10933: Tables II to XVI with its numbers beside ours, and figures 2 to
12 and 16, from records alone.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from expunge.report import forgot
from expunge.report.figures import Album, Figure
from expunge.report.forgot import Mark, Point, Rule
from expunge.report.sections import Scope
from expunge.study import forgetting, forgetting_tables
from expunge.study.forgetting import Kind, Number, Trial, family, setting, titles, usual
from expunge.study.forgetting_cells import CAPTION, CONTROL, NAMES
from expunge.study.forgetting_tables import ITERATIONS, Reading
from expunge.study.groups import Record, gathered
from expunge.study.published import forsaken as paper
from expunge.study.rows import Row
from expunge.study.summary import answers

SCOPE: Scope = "run"

Ask = Callable[[Trial, Row | None], Number | None]


def fr(trial: Trial, row: Row | None) -> Number | None:
    """Return the forgetting rate."""
    return trial.told(row, "fr")


def cfr(trial: Trial, row: Row | None) -> Number | None:
    """Return the catastrophic forgetting rate."""
    return trial.told(row, "cfr")


def tested(trial: Trial, row: Row | None) -> Number | None:
    """Return the test accuracy."""
    return trial.told(row, "test", "accuracy")


RATES: Mapping[str, tuple[str, Ask]] = {
    "fr": ("Forgetting rate", fr),
    "cfr": ("Catastrophic forgetting rate", cfr),
}
MEASURES: Mapping[str, Ask] = {"FR": fr, "CFR": cfr, "test accuracy": tested}
KINDS: Mapping[Kind, str] = {"OOD": "outsiders", "ID": "records of the task"}


class Strip(NamedTuple):
    """Figures of one sort: which of the paper's, in words, and what is to be seen.

    Attributes:
        title: What they show.
        number: Of the paper's figure.
        words: How to read them.
        keys: Of the legend; what each is called by how it is drawn.
        figures: Side by side.
        wide: Whether they need room.
        aside: Whether they are shown to those who ask.
    """

    title: str
    number: str
    words: str
    keys: Mapping[str, str]
    figures: Sequence[Figure]
    wide: bool = True
    aside: bool = False


def applies(records: Sequence[Record]) -> bool:
    """Return whether any of the records tells a forgetting rate or an exposure."""
    return forgetting.holds(records)


def markdown(records: Sequence[Record]) -> str:
    """Return the tables as Markdown."""
    reading = Reading(forgetting.trials(records))
    parts = [table.markdown() for table in forgetting_tables.tables(reading)]
    return "\n\n".join([*parts, CAPTION]) + "\n" if parts else ""


def view(rows: Sequence[Row], album: Album) -> Mapping[str, Any]:
    """Return the tables, the figures and their words."""
    groups = {id(row.group): row.group for row in rows}.values()
    records = [record for group in groups for record in group.records]
    reading = Reading(forgetting.trials(records))
    if not reading.trials:
        raise ValueError("expected records of forgetting_rate, got none; ask `applies` first")
    glance = list(_glance(reading, album))
    strips = [
        _iterations(reading, album),
        _searches(reading, album),
        _sizes(reading, album),
        _lengths(reading, album),
        _poison(reading, album),
        _exposures(reading, album),
        *_planes(reading, album),
    ]
    return {
        "tables": forgetting_tables.tables(reading),
        "recipes": forgetting_tables.recipes(reading),
        "glance": [strip for strip in glance if strip.figures],
        "strips": [strip for strip in strips if strip.figures],
        "look": forgot.look,
        "outlines": forgot.OUTLINES,
        "caption": CAPTION,
        "source": paper.tables()["source"],
        "link": paper.tables()["link"],
        "hardware": paper.tables()["hardware"],
    }


def _keys(reading: Reading, of: Sequence[Trial]) -> dict[str, str]:
    return {"retrain": CONTROL} | reading.methods(of)


def _mark(
    row: str, key: str, name: str, number: Number | None, printed: float | None
) -> Iterator[Mark]:
    if number is not None and number.estimate is not None:
        e = number.estimate
        yield Mark(row, key, name, e.value, e.low, e.high, printed, " ".join(number.warnings))


def _glance(reading: Reading, album: Album) -> Iterator[Strip]:
    for kind, words in KINDS.items():
        of = [t for t in usual(reading.networks(kind)) if t.oracles]
        keys, figures = _keys(reading, of), []
        for rate, (title, ask) in RATES.items():
            marks = [
                mark
                for trial, data in zip(of, titles(of), strict=True)
                for key, name in keys.items()
                for mark in _mark(
                    data,
                    key,
                    name,
                    ask(trial, reading.asked(trial, key)),
                    _printed(rate, trial, key),
                )
            ]
            figures += album.add(forgot.rates(marks), title, f"{title.lower()} by method, {words}")
        yield Strip(
            f"Who forgets, and who forgets too much: {words}",
            "Tables III, XI" if kind == "OOD" else "Table IV",
            "Filled: ours, with the 95 % interval. Hollow: as the paper prints it. The goal is "
            "the diamond of retraining and not 100 %: a method that lies beyond it on the left "
            "and far out on the right has damaged what it should have kept. Faint: not to be "
            "read without the warning, which stands below the tables.",
            {key: name for key, name in keys.items() if any(reading.asked(t, key) for t in of)},
            figures,
        )


def _printed(rate: str, trial: Trial, key: str) -> float | None:
    told = paper.printed(rate, trial.data, key) if trial.printed else ()
    return told[0] / 100 if told else None


def _points(
    key: str, name: str, at: Iterable[tuple[int | float, Number | None]]
) -> Iterator[Point]:
    for x, number in at:
        if number is not None and number.estimate is not None:
            e = number.estimate
            yield Point(key, name, x, e.value, e.low, e.high, " ".join(number.warnings))


def _levels(pairs: Mapping[str, Number | None]) -> list[Rule]:
    return [Rule(k, n.value) for k, n in pairs.items() if n is not None and n.value is not None]


def _iterations(reading: Reading, album: Album) -> Strip:
    figures, of = [], reading.networks("OOD", "ID")
    for trial, title in zip(of, titles(of), strict=True):
        rows = sorted(family(trial, "forsaken", ITERATIONS), key=_steps)
        points = [
            point
            for measure, ask in MEASURES.items()
            for point in _points(
                measure,
                measure,
                [(0, ask(trial, trial.original)), *((_steps(r), ask(trial, r)) for r in rows)],
            )
        ]
        rules = _levels({"retrain": fr(trial, trial.retrained)})
        figures += album.add(
            forgot.lines(points, "iterations", rules) if rows else None,
            title,
            "forgetting rates and test accuracy by the iterations of Forsaken",
        )
    return Strip(
        "By iterations of Forsaken",
        "Fig. 5",
        "One run for each number of iterations; 0 is the original. The dotted line is the FR of "
        "retraining.",
        {measure: measure for measure in MEASURES} | {"retrain": "FR of retraining"},
        figures,
    )


def _steps(row: Row) -> int:
    return int(setting(row, ITERATIONS))


TRACED = {
    "divergence left": "kl",
    "accuracy on the probe": "probe_accuracy",
    "FR": "fr",
    "test accuracy": "test",
}


def _searches(reading: Reading, album: Album) -> Strip:
    figures, of = [], usual(reading.networks("OOD", "ID"))
    for trial, title in zip(of, titles(of), strict=True):
        row = reading.pick(trial, "forsaken")
        traces = [_followed(r) for r in row.records if _traced(r)] if row else []
        figures += album.add(
            forgot.lines(_trace(traces), "iteration"),
            title,
            "divergence and accuracy at every iteration of the search",
            note=_changed(traces),
        )
    return Strip(
        "Inside the search",
        "Fig. 5",
        "At every iteration of one run, mean over seeds: the divergence from what the model "
        "answers to records never trained on, as a share of that at the start, and accuracy on "
        "the retained records that the search looks at; the forgetting rate and the accuracy on "
        "test records where the spec traced them.",
        {key: key for key in TRACED},
        figures,
        wide=False,
    )


def _traced(record: Record) -> bool:
    return bool((record.get("notes") or {}).get("trace", {}).get("kl"))


def _followed(record: Record) -> Mapping[str, Any]:
    """Return a search's trace, with what was asked of the model after every iteration."""
    asked = record.get("curve") or {}
    more = {"fr": ("forgetting_rate", "fr"), "test": ("test", "accuracy")}
    found = {name: asked.get(part, {}).get(value) for name, (part, value) in more.items()}
    return record["notes"]["trace"] | {name: its for name, its in found.items() if its}


def _trace(traces: Sequence[Mapping[str, Any]]) -> list[Point]:
    """Return the mean of several runs' traces; a run that ended stays where it was."""
    points = []
    for name, key in TRACED.items():
        every = [[v for v in trace.get(key) or () if v is not None] for trace in traces]
        runs = [run for run in every if run]
        if key == "kl":
            runs = [[value / (run[0] or 1.0) for value in run] for run in runs]
        for at in range(max(map(len, runs), default=0)):
            mean = fmean(run[min(at, len(run) - 1)] for run in runs)
            points.append(Point(name, name, at, mean))
    return points


def _changed(traces: Sequence[Mapping[str, Any]]) -> str:
    """Return the share of weights that a search changed, in words."""
    ends = [trace["nonzeros"][-1] for trace in traces if trace.get("nonzeros")]
    return f"{100 * fmean(ends):.3g} % of weights changed" if ends else ""


def _sizes(reading: Reading, album: Album) -> Strip:
    figures, found = [], forgetting_tables.sized(reading)
    of = [trial for trials in found.values() for trial in trials.values()]
    keys = _keys(reading, of)
    for title, trials in found.items():
        for measure, ask in {"FR": fr, "test accuracy": tested}.items():
            points = _along(reading, keys, sorted(trials.items()), ask)
            figures += album.add(
                forgot.lines(points, "records to forget"),
                f"{title}: {measure}",
                f"{measure} by records to forget",
            )
    return Strip(
        "By records to forget",
        "Fig. 4, Fig. 16",
        "Mean over seeds, with the 95 % interval.",
        keys,
        figures,
    )


def _along(
    reading: Reading, keys: Mapping[str, str], at: Sequence[tuple[int | float, Trial]], ask: Ask
) -> list[Point]:
    """Return a measure of every method along what trials differ in."""
    return [
        point
        for key, name in keys.items()
        for point in _points(key, name, [(x, ask(t, _who(reading, t, key))) for x, t in at])
    ]


def _who(reading: Reading, trial: Trial, key: str) -> Row | None:
    return trial.original if key == "original" else reading.asked(trial, key)


def _lengths(reading: Reading, album: Album) -> Strip:
    figures, of = [], reading.networks("OOD", "ID")
    keys = _keys(reading, of)
    for same in gathered(of, lambda t: (t.kind, t.data, t.size, t.network)).values():
        for measure, ask in {"FR": fr, "test accuracy": tested}.items():
            at = sorted(((t.epochs, t) for t in same), key=lambda pair: pair[0])
            figures += album.add(
                forgot.lines(_along(reading, keys, at, ask), "epochs of training"),
                f"{same[0].data}: {measure}",
                f"{measure} by epochs of training",
                note=f"{same[0].size} records to forget",
            )
    return Strip(
        "By epochs of training",
        "Fig. 6",
        "The longer the original was trained, the more it remembers; each length has an oracle "
        "of its own.",
        keys,
        figures,
    )


def _poison(reading: Reading, album: Album) -> Strip:
    of = [trial for trial in reading.trials if trial.kind == "poison"]
    keys, figures = {"original": "Original"} | _keys(reading, of), []
    measures: Mapping[str, Ask] = {
        "test accuracy": tested,
        "recall of the poisoned class": forgetting_tables.recalled,
    }
    for same in gathered(of, lambda t: (t.data, t.network)).values():
        at = sorted(((forgetting_tables.poisoned(t), t) for t in same), key=lambda pair: pair[0])
        for measure, ask in measures.items():
            points = _along(reading, keys, [(100 * rate, t) for rate, t in at], ask)
            figures += album.add(
                forgot.lines(points, "poison, % of the training records"),
                f"{same[0].data}: {measure}",
                f"{measure} by the rate of poison",
            )
    return Strip("Forgetting poison", "Fig. 11", "Mean over seeds.", keys, figures)


def _exposures(reading: Reading, album: Album) -> Strip:
    of = [t for t in reading.trials if forgetting_tables.exposure(t)]
    figures: list[Figure] = []
    for trial, title in zip(of, titles(of), strict=True):
        rows = sorted(family(trial, "forsaken", ITERATIONS), key=_steps)
        label = forgetting_tables.exposure(trial)

        def exposed(trial: Trial, row: Row | None, label: str = label) -> Number | None:
            return trial.told(row, "exposure", label)

        asked: Mapping[str, tuple[Ask, bool]] = {
            "exposure, in bits": (exposed, False),
            "FR": (fr, True),
            "test accuracy": (tested, True),
        }
        for measure, (ask, share) in asked.items():
            at = [(0, ask(trial, trial.original)), *((_steps(r), ask(trial, r)) for r in rows)]
            points = list(_points("forsaken", "Forsaken", at))
            rules = _levels({"retrain": ask(trial, trial.retrained)})
            figures += album.add(
                forgot.lines(points, "iterations", rules, share=share) if rows else None,
                f"{title}: {measure}",
                f"{measure} by the iterations of Forsaken",
            )
    return Strip(
        "Secrets in running text",
        "Fig. 12",
        "0 is the original, the dotted line retraining. By rank, exposure cannot exceed the "
        "logarithm of the number of references; the paper calls less than 10 bits safe.",
        {"forsaken": NAMES["forsaken"], "retrain": CONTROL},
        figures,
        wide=False,
    )


def _planes(reading: Reading, album: Album) -> Iterator[Strip]:
    joint, apart = [], []
    for trial in reading.trials:
        row = reading.pick(trial, "forsaken")
        for oracle, audit in trial.oracles.items():
            told = next((a for a in answers(row, audit) if _placed(a)), None) if row else None
            if told is None:
                continue
            title = f"{titles(reading.trials)[_at(reading, trial)]}, {oracle.replace('_', ' ')}"
            joint += _pair(album, told, title, trial, audit)
            apart += _pair(album, told, title, trial, audit, joint=False)
    keys = {group: f"{group} records" if group != "to forget" else group for group in forgot.GROUPS}
    yield Strip(
        "Where the records lie: one plane",
        "Fig. 7 to 10",
        "t-SNE of the oracle's three numbers of each record, before and after Forsaken in one "
        "plane: what has moved has moved. Thin lines run from where a record to forget was. "
        "Distances in such a plane mean little; which share of the records to forget is nearer "
        "to training than to test records is told of the numbers themselves.",
        keys,
        joint,
    )
    yield Strip(
        "Where the records lie: as in the paper",
        "Fig. 7 to 10",
        "The same, each fitted alone: places before have nothing to do with places after.",
        keys,
        apart,
        aside=True,
    )


def _at(reading: Reading, trial: Trial) -> int:
    return next(i for i, other in enumerate(reading.trials) if other is trial)


def _placed(answer: Mapping[str, Any]) -> bool:
    return bool(answer["arrays"].get("embedding_group"))


def _pair(
    album: Album,
    told: Mapping[str, Any],
    title: str,
    trial: Trial,
    audit: str,
    *,
    joint: bool = True,
) -> Iterator[Figure]:
    arrays, way = told["arrays"], "joint" if joint else "apart"
    before, after = (arrays[f"embedding_{way}_{when}"] for when in ("before", "after"))
    groups = arrays["embedding_group"]
    charts = {
        "before": forgot.plane(before, groups, None, after if joint else None),
        "after": forgot.plane(after, groups, *((before, before) if joint else ())),
    }
    for when, chart in charts.items():
        yield from album.add(
            chart,
            f"{title}: {when}",
            f"records in a plane {when} unlearning",
            note=_near(told, trial, audit, when),
        )


def _near(told: Mapping[str, Any], trial: Trial, audit: str, when: str) -> str:
    """Return how many of the records to forget lie nearer to training records, in words."""
    share = told["values"].get(f"near_training_{when}")
    if share is None:
        return ""
    said = f"{100 * share:.0f} % nearer to training"
    retrained = trial.told(trial.retrained, "near_training_after", audit)
    if when == "before" or retrained is None or retrained.value is None:
        return said
    return f"{said}, retrained {100 * retrained.value:.0f} %"
