"""The tables of the paper on Forsaken, in its layout: its numbers beside ours, controls in each.

A table is drawn where records hold something of it. What the paper's own numbers do not agree
in is told below it, and so is what an audit warned of.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from expunge.study.estimate import Estimate, counted, fraction, number, over_models
from expunge.study.forgetting import (
    EXPOSURE,
    OWN,
    Kind,
    Number,
    Trial,
    by_data,
    family,
    main,
    mean_of,
    name_of,
    setting,
    settings_of,
    titles,
    usual,
)
from expunge.study.forgetting_cells import (
    CONTROL,
    ITERATIONS,
    NAMES,
    SHARE,
    Cell,
    Line,
    Span,
    Table,
    Warned,
    count,
    paired,
    percent,
    plain,
    timed,
)
from expunge.study.groups import gathered, spoken
from expunge.study.published import forsaken as paper
from expunge.study.rows import Row
from expunge.study.summary import Answer, answers, findings, retrained
from expunge.study.table import NONE

OTHERS = {"amnesiac": "Amnesiac"}
PENALTY, WEIGHTS, SHARDS = "penalty", "omega", "shards"
NOTED = "In the paper: "
QUALITIES = ("accuracy", "precision", "recall")


@dataclass(frozen=True, eq=False)
class Reading:
    """All trials of some records, and which of a method's rows a table of methods has."""

    trials: Sequence[Trial]

    def __post_init__(self) -> None:
        object.__setattr__(self, "pick", main(self.trials))

    pick: Callable[[Trial, str], Row | None] = field(init=False)

    def networks(self, *kinds: Kind) -> list[Trial]:
        """Return the trials of these kinds; of linear models only where there is no network."""
        found = []
        for same in by_data([t for t in self.trials if t.kind in kinds]):
            found += [t for t in same if t.model == "NN"] or same
        return found

    def methods(self, of: Sequence[Trial]) -> dict[str, str]:
        """Return the methods of a table's columns: the paper's, and whatever else was run.

        Of data that the paper has no numbers of, only those that were run.
        """
        run = dict.fromkeys(name_of(r) for t in of for r in t.rows if r.kind == "method")
        more = {name: OTHERS.get(name, name) for name in run if name not in (*NAMES, "retrain")}
        printed = any(trial.printed for trial in of)
        return {name: words for name, words in NAMES.items() if printed or name in run} | more

    def asked(self, trial: Trial, method: str) -> Row | None:
        """Return a method's row; `retrain` is the retrained models'."""
        return trial.retrained if method == "retrain" else self.pick(trial, method)


# Tables whose columns are methods.


def rates(reading: Reading, kind: Kind, number: str) -> Table | None:
    """Tables III and IV: the forgetting rate of every method."""
    of = _main(reading, kind)
    if not of:
        return None
    methods, warned, lines = reading.methods(of), Warned(), []
    for trial, title in zip(of, titles(of), strict=True):
        cells = [_parameters(trial), _memorised(trial)]
        for method in ("retrain", *methods):
            told = trial.told(reading.asked(trial, method), "fr")
            printed = paper.printed("fr", trial.data, method) if trial.printed else ()
            cells.append(_unseen(percent(told, printed, warned, varied=True), trial, told))
        lines.append(Line(title, cells))
    what = "outsiders" if kind == "OOD" else "records of the task"
    return Table(
        number=f"Table {number}",
        title=f"forgetting rate, {what}",
        head=["data", "parameters", "BT (BF)", CONTROL, *methods.values()],
        lines=lines,
        notes=_notes(number),
        warnings=warned.texts,
    )


def _unseen(cell: Cell, trial: Trial, told: Number | None) -> Cell:
    """Add where unseen records would put a rate, where nothing was retrained."""
    if told is None or told.unseen is None or trial.retrained is not None:
        return cell
    low, high = (SHARE.show(end) for end in told.unseen)
    return cell._replace(lines=(*cell.lines, f"∅ [{low}, {high}]"))


def _parameters(trial: Trial) -> Cell:
    ours = trial.first["model"]["parameters"]
    told = _about(trial, "parameters")
    return Cell(count(ours), ours, (), f"{told / 1e6:.4g} M" if told else "")


def _about(trial: Trial, what: str) -> float | None:
    return paper.tables()["data"][trial.data].get(what) if trial.printed else None


def _memorised(trial: Trial) -> Cell:
    asked = answers(trial.original, trial.audit) if trial.original else []
    bt, bf = (mean_of([answer["values"].get(name) for answer in asked]) for name in ("bt", "bf"))
    printed = paper.printed("memorised", trial.data) if trial.printed else ()
    told = "{:g} ({:g})".format(*printed) if printed else ""
    if bt is None or bf is None:
        return Cell(paper=told)
    return Cell(f"{bt:.4g} ({bf:.4g})", bt, (), told)


def _main(reading: Reading, *kinds: Kind) -> list[Trial]:
    """Return the trials of a table of methods; TinyImage has a table of its own."""
    found = usual(reading.networks(*kinds))
    return [t for t in found if t.data != "TinyImage" and t.oracles]


def _notes(number: str) -> list[str]:
    note = paper.note(number)
    return [f"{NOTED}{note}"] if note else []


def losses(reading: Reading, kind: Kind, number: str) -> Table | None:
    """Figures 2 and 3, in numbers: test accuracy after unlearning, and its loss."""
    of = [t for t in _main(reading, kind) if t.drop(t.retrained) or _dropped(reading, t)]
    if not of:
        return None
    methods, lines = reading.methods(of), []
    for trial, title in zip(of, titles(of), strict=True):
        cells = [percent(trial.told(trial.original, "test", "accuracy"))]
        for method in ("retrain", *methods):
            row = reading.asked(trial, method)
            cell, lost = (
                percent(trial.told(row, "test", "accuracy")),
                percent(trial.drop(row), signed=True),
            )
            more = () if lost.value is None else (f"loss {' '.join((lost.text, *lost.lines))}",)
            cells.append(Cell(cell.text, cell.value, more))
        lines.append(Line(title, cells))
    what = "outsiders" if kind == "OOD" else "records of the task"
    return Table(
        number=number,
        title=f"test accuracy after forgetting {what}, and its loss",
        head=["data", "original", CONTROL, *methods.values()],
        lines=lines,
        notes=["The paper draws it and prints no numbers."],
    )


def _dropped(reading: Reading, trial: Trial) -> bool:
    return any(trial.drop(reading.pick(trial, method)) for method in NAMES)


def times(reading: Reading) -> Table | None:
    """Table V: how long every method takes."""
    of = _main(reading, "OOD", "ID")
    if not of:
        return None
    methods = reading.methods(of)
    lines = [
        Line(
            title,
            [
                timed(trial, reading.asked(trial, m), paper.printed("seconds", trial.data, m))
                for m in ("retrain", *methods)
            ],
        )
        for trial, title in zip(of, titles(of), strict=True)
    ]
    return Table(
        number="Table V",
        title="running time in seconds, and samples through the network",
        head=["data", CONTROL, *methods.values()],
        lines=lines,
        notes=[*_notes("V"), "A backward counts as two forwards in the samples."],
    )


def damage(reading: Reading) -> Table | None:
    """Table XI: the catastrophic forgetting rate of every method."""
    of = _main(reading, "OOD", "ID")
    if not of:
        return None
    methods, warned = reading.methods(of), Warned()
    lines = [
        Line(
            title,
            [
                percent(
                    trial.told(reading.asked(trial, m), "cfr"),
                    paper.printed("cfr", trial.data, m),
                    warned,
                )
                for m in ("retrain", *methods)
            ],
        )
        for trial, title in zip(of, titles(of), strict=True)
    ]
    return Table(
        number="Table XI",
        title="catastrophic forgetting rate",
        head=["data", CONTROL, *methods.values()],
        lines=lines,
        notes=_notes("XI"),
        warnings=warned.texts,
    )


def tiny(reading: Reading) -> Table | None:
    """Table XV: TinyImageNet as the target."""
    of = [t for t in usual(reading.networks("OOD")) if t.data == "TinyImage"]
    if not of:
        return None
    trial, warned = of[0], Warned()
    methods = reading.methods([trial])
    asked = {m: reading.asked(trial, m) for m in ("retrain", *methods)}

    def printed(table: str, method: str) -> Sequence[float]:
        return paper.printed(table, "TinyImage", method)

    fr = [percent(trial.told(r, "fr"), printed("fr", m), warned) for m, r in asked.items()]
    lost = [percent(trial.drop(r), printed("drop", m), signed=True) for m, r in asked.items()]
    took = [timed(trial, r, printed("seconds", m)) for m, r in asked.items()]
    rows = {"FR": fr, "loss of test accuracy": lost, "seconds": took}
    return Table(
        number="Table XV",
        title="TinyImageNet as the target",
        head=["", CONTROL, *methods.values()],
        lines=[Line(title, cells) for title, cells in rows.items()],
        notes=_notes("XV"),
        warnings=warned.texts,
    )


# Tables of what a method's settings do.


def shards(reading: Reading) -> list[Table]:
    """Table VI: SISA by the number of shards, one table for each trial that varied it."""
    return [made for t in reading.trials if (made := _by_shards(reading, t))]


def _by_shards(reading: Reading, trial: Trial) -> Table | None:
    found = {m: {setting(r, SHARDS): r for r in family(trial, m, SHARDS)} for m in OWN}
    every = sorted({number for rows in found.values() for number in rows})
    if not every:
        return None
    table, warned, lines = paper.tables()["by_shards"], Warned(), []
    constant = {"retrain": trial.retrained, "forsaken": reading.pick(trial, "forsaken")}
    for place, shard in enumerate(every):
        halves: list[list[Cell]] = [[], []]
        for method in (*constant, *OWN):
            if method in constant and place:
                cells = (Cell(""), Cell(""))
            else:
                row = found.get(method, constant).get(shard if method in found else method)
                printed = table.get(method, ())
                told = printed.get(str(shard), ()) if isinstance(printed, Mapping) else printed
                cells = (
                    percent(trial.told(row, "fr"), told[:1], warned),
                    percent(trial.drop(row), told[1:], signed=True),
                )
            for half, cell in zip(halves, cells, strict=True):
                half.append(cell)
        lines.append(Line(str(shard), halves[0] + halves[1]))
    head = [CONTROL, *(NAMES[m] for m in ("forsaken", *OWN))]
    about = [] if trial.data == table["data"] else [f"The paper's numbers are {table['data']}'s."]
    return Table(
        number="Table VI",
        title=f"SISA by number of shards, {_titled(reading, trial)}",
        head=["shards", *head, *head],
        spans=[Span("FR", 4), Span("loss of test accuracy", 4)],
        lines=lines,
        notes=[*_notes("VI"), *about],
        warnings=warned.texts,
    )


def _titled(reading: Reading, trial: Trial) -> str:
    at = next(i for i, other in enumerate(reading.trials) if other is trial)
    return titles(reading.trials)[at]


def iterations(reading: Reading) -> Table | None:
    """Table VII: how long Forsaken takes by its iterations."""
    found = _families(reading, ITERATIONS)
    every = sorted({number for rows in found.values() for number in rows})
    if not every:
        return None
    of = list(found)
    lines = [
        Line(
            title,
            [timed(trial, trial.retrained)]
            + [
                timed(
                    trial,
                    found[trial].get(n),
                    paper.printed("by_iterations", trial.data, str(n)),
                    steps=True,
                )
                for n in every
            ],
        )
        for trial, title in zip(of, titles(of), strict=True)
    ]
    return Table(
        number="Table VII",
        title="running time of Forsaken in seconds by iterations",
        head=["data", CONTROL, *(f"{n} iterations" for n in every)],
        lines=lines,
        notes=_notes("VII"),
    )


def _families(reading: Reading, varied: str) -> dict[Trial, dict[int, Row]]:
    """Return, of the trials in which a setting of Forsaken varies, the rows by that setting."""
    found = {t: family(t, "forsaken", varied) for t in reading.networks("OOD", "ID")}
    return {t: {setting(r, varied): r for r in rows} for t, rows in found.items() if rows}


def strength(row: Row) -> tuple[bool, float]:
    """Return whether a penalty has weights, and the penalty; without one, weights are nothing."""
    value = float(setting(row, PENALTY) or 0)
    return bool(setting(row, WEIGHTS)) and value > 0, value


def penalties(reading: Reading) -> Table | None:
    """Table VIII: forgetting rate and loss of accuracy by the penalty of Forsaken."""
    found = {
        t: {strength(row): row for row in rows}
        for t in reading.networks("OOD", "ID")
        if (rows := family(t, "forsaken", PENALTY, WEIGHTS))
    }
    every = sorted({place for rows in found.values() for place in rows})
    if not every:
        return None
    warned, lines, of = Warned(), [], list(found)
    for trial, title in zip(of, titles(of), strict=True):
        printed = [
            paper.printed("by_penalty", trial.data, f"{value:g}{'w' * weighted}")
            for weighted, value in every
        ]
        rows = [trial.retrained, *(found[trial].get(place) for place in every)]
        pairs = list(zip(rows, [(), *printed], strict=True))
        fr = [percent(trial.told(row, "fr"), p[:1], warned) for row, p in pairs]
        lost = [percent(trial.drop(row), p[1:], signed=True) for row, p in pairs]
        lines += [Line(f"{title}: FR", fr), Line(f"{title}: loss of accuracy", lost)]
    head = [f"λ = {value:g}" for _, value in every]
    bare = sum(not weighted for weighted, _ in every)
    spans = [Span("", 1), Span("without weights", bare), Span("with weights", len(every) - bare)]
    return Table(
        number="Table VIII",
        title="Forsaken by penalty",
        head=["data", CONTROL, *head],
        spans=[span for span in spans if span.columns],
        lines=lines,
        notes=_notes("VIII"),
        warnings=warned.texts,
    )


def sizes(reading: Reading) -> Table | None:
    """Table XVI: how long Forsaken takes by the records to forget."""
    found = sized(reading)
    every = sorted({size for trials in found.values() for size in trials})
    if not every:
        return None
    lines = []
    for title, trials in found.items():
        data = next(iter(trials.values())).data
        largest = trials[max(trials)]
        cells = [timed(largest, largest.retrained)]
        for size in every:
            trial, printed = trials.get(size), paper.printed("by_size", data, str(size))
            row = trial and reading.pick(trial, "forsaken")
            cells.append(timed(trial, row, printed) if trial else Cell(paper=paired(printed)))
        lines.append(Line(title, cells))
    return Table(
        number="Table XVI",
        title="running time of Forsaken in seconds by records to forget",
        head=["data", CONTROL, *(f"{size:,} records" for size in every)],
        lines=lines,
        notes=[*_notes("XVI"), "Retraining is that of the largest forget set."],
    )


def sized(reading: Reading) -> dict[str, dict[int, Trial]]:
    """Return, of each data set whose trials differ in size, the trials by size."""
    of = reading.networks("OOD", "ID")
    named = zip(titles(of, sizes=False), of, strict=True)
    found = {
        str(title): {trial.size: trial for _, trial in reversed(same)}
        for title, same in gathered(named, lambda pair: pair[0]).items()
    }
    return {title: trials for title, trials in found.items() if len(trials) > 1}


# Tables of oracles, models and networks.


def oracles(reading: Reading) -> Table | None:
    """Table IX: the forgetting rate by both oracles."""
    of = [t for t in _main(reading, "OOD", "ID") if {"black_box", "white_box"} <= set(t.oracles)]
    if not of:
        return None
    warned, lines = Warned(), []
    for trial, title in zip(of, titles(of), strict=True):
        printed = paper.printed("by_oracle", trial.data)
        cells = []
        for place, oracle in enumerate(("black_box", "white_box")):
            for method in ("retrain", "forsaken"):
                told = trial.told(reading.asked(trial, method), "fr", trial.oracles[oracle])
                beside = printed[place : place + 1] if method == "forsaken" else ()
                cells.append(percent(told, beside, warned))
        lines.append(Line(title, cells))
    return Table(
        number="Table IX",
        title="forgetting rate by oracle",
        head=["data", *[CONTROL, "Forsaken"] * 2],
        spans=[Span("black-box oracle", 2), Span("white-box oracle", 2)],
        lines=lines,
        notes=_notes("IX"),
        warnings=warned.texts,
    )


def models(reading: Reading) -> Table | None:
    """Table X: networks, softmax regression and support vector machines."""
    lists = [usual(s) for s in by_data([t for t in reading.trials if t.oracles])]
    found = [{t.model: t for t in reversed(same)} for same in lists]
    found = [by_model for by_model in found if len(by_model) > 1]
    if not found:
        return None
    warned, lines = Warned(), []
    for by_model in found:
        data, fr, lost = next(iter(by_model.values())).data, [], []
        for model in ("NN", "LR", "SVM"):
            trial, printed = by_model.get(model), paper.printed("by_model", data, model)
            for method in ("retrain", "forsaken"):
                row = reading.asked(trial, method) if trial else None
                told = printed if method == "forsaken" else ()
                fr.append(percent(trial and trial.told(row, "fr"), told[:1], warned))
                lost.append(percent(trial and trial.drop(row), told[1:], signed=True))
        lines += [Line(f"{data}: FR", fr), Line(f"{data}: loss of accuracy", lost)]
    return Table(
        number="Table X",
        title="Forsaken on other types of model",
        head=["data", *[CONTROL, "Forsaken"] * 3],
        spans=[
            Span("neural network", 2),
            Span("logistic regression", 2),
            Span("support vector machine", 2),
        ],
        lines=lines,
        notes=_notes("X"),
        warnings=warned.texts,
    )


def networks(reading: Reading) -> Table | None:
    """Table XIII: accuracies with the outsiders and without, and how many are learnt."""
    of = [t for t in _main(reading, "OOD") if t.told(t.original, "test", "accuracy")]
    if not of:
        return None
    lines = []
    for trial, title in zip(of, titles(of), strict=True):
        printed = [[value] for value in paper.printed("networks", trial.data)] or [[]] * 5
        asked = [
            (trial.original, "retain"),
            (trial.original, "test"),
            (trial.retrained, "retain"),
            (trial.retrained, "test"),
        ]
        told = [trial.told(row, value, "accuracy") for row, value in asked]
        cells = [percent(*pair) for pair in zip(told, printed, strict=False)]
        learnt = trial.told(trial.original, "forget", "accuracy")
        of_all = f"{trial.size * learnt.value:.4g}" if learnt and learnt.value is not None else NONE
        cells.append(
            Cell(of_all, learnt and learnt.value, (f"of {trial.size}",), paired(printed[4]))
        )
        lines.append(Line(title, cells))
    return Table(
        number="Table XIII",
        title="accuracy with the outsiders and without, and outsiders that are learnt",
        head=["data", "training", "testing", "training", "testing", "as labelled"],
        spans=[Span("original, with outsiders", 2), Span("retrained, without", 2), Span("", 1)],
        lines=lines,
        notes=[*_notes("XIII"), "Ours in training are of the records that are kept."],
    )


def quality(reading: Reading) -> Table | None:
    """Table XIV: accuracy, precision and recall of every oracle."""
    of = _main(reading, "OOD", "ID", "poison", "secrets")
    warned, lines = Warned(), []
    for trial, title in zip(of, titles(of), strict=True):
        for oracle, audit in trial.oracles.items():
            printed = paper.printed("oracles", trial.data) if oracle == "black_box" else ()
            told = [trial.told(trial.original, f"oracle_{v}", audit) for v in QUALITIES]
            if not any(told):
                continue
            beside = [printed[i : i + 1] for i in range(len(QUALITIES))]
            cells = [percent(n, p, warned) for n, p in zip(told, beside, strict=True)]
            words = oracle.replace("_", " ")
            lines.append(Line(f"{title}: {words}" if len(trial.oracles) > 1 else title, cells))
    if not lines:
        return None
    return Table(
        number="Table XIV",
        title="the membership oracles",
        head=["data", *QUALITIES],
        lines=lines,
        notes=[*_notes("XIV"), "Ours are of records that the oracle was not fitted on."],
        warnings=warned.texts,
    )


# Figures of which we print the numbers.


def poison(reading: Reading) -> Table | None:
    """Figure 11: accuracy and recall of the poisoned class, by the rate of poison."""
    of = sorted((t for t in reading.trials if t.kind == "poison"), key=poisoned)
    if not of:
        return None
    methods, warned, lines = reading.methods(of), Warned(), []
    for trial in of:
        rows = [trial.original, *(reading.asked(trial, m) for m in ("retrain", *methods))]
        title = f"{trial.data}, {100 * poisoned(trial):g} %"
        measures = {
            "test accuracy": [percent(trial.told(r, "test", "accuracy")) for r in rows],
            f"recall of {victim(trial)}": [percent(recalled(trial, r)) for r in rows],
            "FR": [percent(trial.told(r, "fr"), (), warned) for r in rows],
        }
        lines += [Line(f"{title}: {what}", cells) for what, cells in measures.items()]
    return Table(
        number="Fig. 11",
        title="forgetting poison: labels of one class turned into another's",
        head=["data, rate", "original", CONTROL, *methods.values()],
        lines=lines,
        notes=[
            "The paper draws it, and says that poison costs about 1 point of accuracy and 8.4 "
            "points of recall, of which Forsaken restores the latter."
        ],
        warnings=warned.texts,
    )


def poisoned(trial: Trial) -> float:
    """Return the rate of poison."""
    return float(trial.setting("rate") or 0.0)


def victim(trial: Trial) -> str:
    """Return the name of the class that was poisoned."""
    named, classes = trial.setting("flip_from"), trial.first["data"].get("classes") or ()
    at = named if isinstance(named, int) else -1
    return str(classes[at]) if 0 <= at < len(classes) else str(named)


def recalled(trial: Trial, row: Row | None) -> Number | None:
    """Return the recall of the poisoned class."""
    classes = [str(name) for name in trial.first["data"].get("classes") or ()]
    name = victim(trial)
    at = classes.index(name) if name in classes else trial.setting("flip_from")
    if row is None or not isinstance(at, int):
        return None
    if row.kind == "retrained":
        models = retrained(row.records, "accuracy")
    else:
        models = [{seed: answer} for seed, answer in enumerate(answers(row, "accuracy"))]
    told = [
        {s: (v, answer) for s, answer in each.items() if (v := _recall(answer, at)) is not None}
        for each in models
    ]
    estimate = over_models([{s: v for s, (v, _) in each.items()} for each in told])
    if estimate is None:
        return None
    if estimate.low is None:
        # All agree, as equally many of few records do: one run's records tell how few.
        first = next(answer for each in told for _, answer in each.values())
        estimate = _of_records(estimate, first, at)
    return Number(estimate=fraction(estimate))


def _recall(answer: Answer, at: int) -> float | None:
    """Return the recall of a class; None where it is not told or has no test records."""
    shares = answer["arrays"].get("per_class_test") or []
    return number(shares[at]) if len(shares) > at else None


def _of_records(estimate: Estimate, answer: Answer, at: int) -> Estimate:
    """Return a recall with the interval over the class's test records, if they were counted."""
    counts = answer["arrays"].get("confusion_test") or []
    if len(counts) <= at:
        return estimate
    return counted(counts[at][at], sum(counts[at]), estimate.n)


def exposures(reading: Reading) -> Table | None:
    """Figure 12: exposure beside the forgetting rate and the accuracy."""
    of = [t for t in reading.trials if exposure(t)]
    if not of:
        return None
    warned, lines = Warned(), []
    for trial, title in zip(of, titles(of), strict=True):
        for row in trial.rows:
            told = trial.told(row, "exposure", exposure(trial))
            cells = [
                plain(told)._replace(marks=warned(told)),
                plain(trial.told(row, "extrapolated", exposure(trial))),
                percent(trial.told(row, "extractable", exposure(trial))),
                percent(trial.told(row, "fr"), (), warned),
                percent(trial.told(row, "cfr"), (), warned),
                percent(trial.told(row, "test", "accuracy")),
            ]
            lines.append(Line(f"{title}: {row.label}" if len(of) > 1 else row.label, cells))
    return Table(
        number="Fig. 12",
        title="exposure of secrets in running text, in bits",
        head=["model", "by rank", "extrapolated", "over 10 bits", "FR", "CFR", "test accuracy"],
        lines=lines,
        notes=["The paper draws exposure, FR and test loss by iteration, and prints no numbers."],
        warnings=warned.texts,
    )


def exposure(trial: Trial) -> str:
    """Return the label of the audit of exposure; empty where it was not asked."""
    every = (pair for r in trial.group.records for pair in findings(r).items())
    return next((label for label, f in every if f["audit"] == EXPOSURE), "")


def settings(reading: Reading) -> Table | None:
    """Tables II and XII: what was trained on what, in the paper and here."""
    of = _main(reading, "OOD", "ID")
    if not of:
        return None
    lines = []
    for trial, title in zip(of, titles(of), strict=True):
        about = paper.tables()["data"][trial.data] if trial.printed else {}
        data, seeds = trial.first["data"], len({r["seed"] for r in trial.group.records})
        texts = {
            "told": f"{_inside(trial)}, {data['train']:,} to train on",
            "network": f"{trial.network}, {_parameters(trial).text}",
            "epochs": str(trial.epochs),
        }
        cells = [Cell(text, None, (), str(about.get(k, ""))) for k, text in texts.items()]
        if about.get("parameters"):
            network = f"{about['network']}, {_parameters(trial).paper}"
            cells[1] = cells[1]._replace(paper=network)
        size, trials = (str(paper.tables()[k]) if about else "" for k in ("size", "trials"))
        cells += [Cell(str(trial.size), trial.size, (), size), Cell(str(seeds), seeds, (), trials)]
        lines.append(Line(title, cells))
    return Table(
        number="Tables II and XII",
        title="what was trained on what",
        head=["data", "what it is", "network", "epochs", "to forget", "trials"],
        lines=lines,
        words=3,
    )


def _inside(trial: Trial) -> str:
    """Return what the data set is, by our names."""
    data = trial.first["data"]
    of, others, classes = (trial.setting(name) for name in ("of", "others", "classes"))
    inner = of["name"] if isinstance(of, Mapping) else data["name"]
    if trial.kind != "OOD":
        return inner
    if isinstance(others, Mapping):
        return f"{inner}, and {others['name']}"
    if classes:
        return f"{inner} without {len(classes)} classes, and these"
    return f"{inner}, and mislabelled held-out records of it"


class Recipe(NamedTuple):
    """How a method or an audit was set, here and in the paper."""

    name: str
    ours: str
    paper: str


def recipes(reading: Reading) -> list[Recipe]:
    """Return the settings of the paper's methods and of the oracle, ours and the paper's."""
    of = _main(reading, "OOD", "ID", "poison", "secrets")
    found: dict[str, str] = {}
    for trial in of:
        for record in trial.group.records:
            for finding in record["findings"]:
                if finding["audit"] == "forgetting_rate":
                    found.setdefault("forgetting_rate", _listed(finding["settings"]))
        for method in NAMES:
            if row := reading.pick(trial, method):
                found.setdefault(method, _listed(settings_of(row)))
    told = paper.tables()["recipes"]
    return [Recipe(NAMES.get(k, "The oracle"), found[k], told[k]) for k in told if k in found]


def _listed(settings: Mapping[str, object]) -> str:
    plain = {k: v for k, v in settings.items() if v not in (None, "", [], {})}
    return ", ".join(f"{k.split('.')[-1]} {spoken(v)}" for k, v in plain.items()) or "no settings"


def tables(reading: Reading) -> list[Table]:
    """Return every table that records hold something of, in the paper's order."""
    made: list[Table | None] = [
        settings(reading),
        rates(reading, "OOD", "III"),
        rates(reading, "ID", "IV"),
        losses(reading, "OOD", "Fig. 2"),
        losses(reading, "ID", "Fig. 3"),
        times(reading),
        *shards(reading),
        iterations(reading),
        penalties(reading),
        oracles(reading),
        models(reading),
        damage(reading),
        networks(reading),
        quality(reading),
        tiny(reading),
        sizes(reading),
        poison(reading),
        exposures(reading),
    ]
    return [_relevant(table) for table in made if table is not None and _full(table)]


def _full(table: Table) -> bool:
    """Return whether a table has any number of ours."""
    return any(cell.text not in ("", NONE) for line in table.lines for cell in line.cells)


def _relevant(table: Table) -> Table:
    """Return the table without notes on the paper's numbers where it has none of these."""
    if any(cell.paper for line in table.lines for cell in line.cells):
        return table
    return replace(table, notes=[note for note in table.notes if not note.startswith(NOTED)])
