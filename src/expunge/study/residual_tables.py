"""The tables of a study of residuals, with the earlier version's numbers beside ours."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from expunge.study import forgetting_cells
from expunge.study.estimate import Estimate
from expunge.study.forgetting_cells import Line, Table, clock, count
from expunge.study.published import reminiscence as paper
from expunge.study.published.reminiscence import Told
from expunge.study.residuals import (
    PRIOR,
    PSEUDO,
    RECOVERY,
    RELEARN,
    SIGNED,
    Attack,
    Study,
    assumed,
    every,
    name_of,
    over,
    ratios,
    together,
)
from expunge.study.rows import Column, Row
from expunge.study.summary import answers
from expunge.study.table import NONE, gap, interval, literal

SHARE, TIMES = Column("", "", "", "%"), Column("", "", "")
CAPTION = (
    "Mean [95 % interval]: Student's t over seeds where two or more differ; * over the retrained "
    "models, and where several seeds share these over both; in a single run ° over its trials or "
    "records (bootstrap). Δ: minus the mean of the same "
    "on retrained models; ≈ in its place: no larger than chance between those makes it. In "
    "italics, what is printed elsewhere, of other models; networks, trainings and machines are not "
    "ours. "
)
FIELD = {"signal": "entropy", "attacker": "logistic_regression"}


class Cell(forgetting_cells.Cell):
    """A cell whose `paper` says itself where its numbers are from."""

    __slots__ = ()

    def __str__(self) -> str:
        return " · ".join(filter(None, [" ".join([self.text, *self.lines]), self.paper]))


class Item(NamedTuple):
    """A column of a table: its heading, and what a row has in it."""

    head: str
    ask: Callable[[Row], Cell]


def _table(
    study: Study, number: str, title: str, items: Sequence[Item], *notes: str
) -> Table | None:
    """Return a table of the columns and rows that have numbers; None where none has."""
    cells = {row.label: [item.ask(row) for item in items] for row in study.rows}
    filled = [any(own[i].text != NONE for own in cells.values()) for i in range(len(items))]
    lines = [
        Line(label, [cell for cell, some in zip(own, filled, strict=True) if some])
        for label, own in cells.items()
        if any(cell.text != NONE for cell in own)
    ]
    if not lines:
        return None
    head = ["model", *(item.head for item, some in zip(items, filled, strict=True) if some)]
    said = [note for note in notes if note]
    return Table(number=number, title=title, head=head, lines=lines, notes=said)


def shown(
    estimate: Estimate | None, column: Column, *lines: str, signed: bool = False, beside: str = ""
) -> Cell:
    """Return an estimate with its interval, what belongs to it, and what is printed of it."""
    if estimate is None:
        return Cell(paper=beside)
    text = column.show(estimate.value, signed=signed)
    said = (interval(estimate, column).strip(), *lines)
    return Cell(text, estimate.value, tuple(filter(None, said)), beside)


def told(study: Study, row: Row, label: str, value: str, *lines: str, beside: str = "") -> Cell:
    """Return an audit's value of a row, and how far it is from retraining's."""
    found = study.cell(row, label, value)
    if found is None:
        return Cell(paper=beside)
    column = study.column(label, value)
    said = gap(found, column) if row.kind != "retrained" else []
    return shown(found.estimate, column, *said, *lines, signed=value in SIGNED, beside=beside)


def _item(study: Study, label: str, value: str, head: str) -> Item:
    return Item(head, lambda row: told(study, row, label, value))


def tables(study: Study) -> list[Table]:
    """Return every table that the study's records fill."""
    made = [
        quality(study),
        *(attacked(study, attack) for attack in study.classwise),
        *(tuned(study, attack) for attack in study.samplewise),
        gained(study),
        *(relearned(study, label) for label in study.labelled(RELEARN)),
        *(converged(study, label) for label in study.labelled(PSEUDO)),
        *(plane(study, label) for label in study.labelled(PSEUDO)),
        *(generated(study, label) for label in study.labelled(RECOVERY)),
    ]
    return [table for table in made if table is not None]


def sources(study: Study) -> list[str]:
    """Return where the numbers in italics are from."""
    about, first = paper.tables(), study.group.first
    place = f"{about['earlier']}, {about['earlier_link']}"
    said = []
    if study.printed is not None:
        printed = study.printed.replace("cifar", "CIFAR-")
        said.append(
            f"Earlier: {place}; {printed}, five classes withheld, network not stated; with the "
            "percentage of the class's records that its attacker has, the nearest to ours. Its "
            "defence is an earlier form of orthogonal_replay, run after another method. No table "
            "of the paper itself is known to us."
        )
    elif laid_out(study):
        said.append(f"Earlier: {place}; data and network of the geometry are not stated there.")
    if paper.reproduced(first["data"]["name"], first["forget"]["name"], "retrain")[0]:
        other = about["reproduction"]
        said.append(
            f"Elsewhere: read off the plots of {other['source']}, {other['link']}, two seeds, a "
            "random tenth of CIFAR-10 and ResNet18; its NegGrad is beside gradient_ascent. It "
            "finds no gain."
        )
    return said


def laid_out(study: Study) -> bool:
    """Return whether records were laid out in a plane."""
    return any(
        study.cell(row, label, "plane_variance")
        for label in study.labelled(PSEUDO)
        for row in study.rows
    )


# ---- quality and cost


def quality(study: Study) -> Table | None:
    """Return accuracies, the usual attack's answer, and what it cost."""
    membership = field_attack(study)
    parts = {"test": "TA (%)", "forget": "UA (%)", "retain": "RA (%)"}
    items = [
        Item(head, _accuracy(study, part, place))
        for place, (part, head) in enumerate(parts.items())
    ]
    items.append(Item("MIA (%)", lambda row: _membership(study, row, membership)))
    items.append(Item("seconds", lambda row: _seconds(study, row)))
    items.append(Item("samples", _samples))
    items.append(Item("of retraining, samples (%)", lambda row: _share(study, row)))
    return _table(
        study,
        "Quality and cost",
        "what was kept, and what it cost",
        items,
        "TA, UA, RA: accuracy on test, forget and retain records; UA and MIA are to be "
        "retraining's, not 0."
        if study.labelled("accuracy")
        else "",
        "Samples went through the network, a backward as two forwards.",
        _stands(study, membership),
    )


def field_attack(study: Study) -> str | None:
    """Return the label of the attack that stands for MIA: by entropy where it was asked."""
    known = study.labelled("population")
    alike = [k for k in known if FIELD.items() <= dict(study.audits[k]["settings"]).items()]
    return next(iter([*alike, *known]), None)


def _stands(study: Study, label: str | None) -> str:
    """Return which of our audits stands for MIA, in words."""
    if label is None:
        return ""
    settings = study.audits[label]["settings"]
    signal, attacker = (str(settings.get(k, "")).replace("_", " ") for k in ("signal", "attacker"))
    like = FIELD.items() <= dict(settings).items()
    return (
        f"MIA: our audit population ({signal}, {attacker}), share of the forget records that an "
        "attacker fitted on retained and test records calls members, 100 % minus mia_efficacy"
        + ("." if like else "; the earlier version has entropy and logistic regression.")
    )


def _printed(told: Sequence[Told], place: int, digits: int = 2) -> str:
    """Return one of the printed numbers of each model, in words; empty where there are none."""
    words = [
        f"{each.numbers[place]:.{digits}f}{' ' + each.about if each.about else ''}" for each in told
    ]
    return f"earlier {', '.join(words)}" if words else ""


def _accuracy(study: Study, part: str, place: int) -> Callable[[Row], Cell]:
    def ask(row: Row) -> Cell:
        beside = _printed(paper.quality(study.printed, name_of(row)), place)
        return told(study, row, "accuracy", part, beside=beside)

    return ask


def _membership(study: Study, row: Row, label: str | None) -> Cell:
    """Return the share of forget records that are called members: the efficacy's complement."""
    beside = _printed(paper.quality(study.printed, name_of(row)), 3)
    found = study.cell(row, label, "mia_efficacy") if label else None
    if label is None or found is None:
        return Cell(paper=beside)
    e, column = found.estimate, study.column(label, "mia_efficacy")
    low, high = (None if end is None else 1 - end for end in (e.high, e.low))
    flipped = replace(e, value=1 - e.value, low=low, high=high)
    apart = found.gap and replace(found.gap, value=-found.gap.value, low=None, high=None)
    said = gap(replace(found, gap=apart), column) if row.kind != "retrained" else []
    return shown(flipped, column, *said, beside=beside)


def _seconds(study: Study, row: Row) -> Cell:
    beside = _printed(paper.quality(study.printed, name_of(row)), 4)
    if row.seconds is None:
        return Cell(paper=beside)
    retrained, lines = study.control("retrained"), []
    if row.kind == "method" and retrained and retrained.seconds:
        share = row.seconds.value / retrained.seconds.value
        lines.append(f"({100 * share:.3g} % of retraining)")
    return Cell(clock(row.seconds.value), row.seconds.value, tuple(lines), beside)


def _samples(row: Row) -> Cell:
    return Cell() if row.passes is None else Cell(count(row.passes.value), row.passes.value)


def _share(study: Study, row: Row) -> Cell:
    if row.kind != "method":
        return Cell()
    low, high = paper.tables()["abstract"]["cost"]
    beside = f"abstract {low} to {high}" if name_of(row) == "orthogonal_replay" else ""
    return told(study, row, "cost", "of_retraining", beside=beside)


# ---- the attack on a class


def attacked(study: Study, attack: Attack) -> Table | None:
    """Return how well an attack tells the forgotten class from classes never trained on."""
    items = [
        Item("balanced accuracy (%)", lambda row: _judged(study, row, attack, 0)),
        Item("TPR (%)", lambda row: _judged(study, row, attack, 1)),
        _item(study, attack.label, "fpr", "FPR (%)"),
        _item(study, attack.label, "auc", "AUC"),
        _item(study, attack.label, "t90_forgotten", "t90, forgotten"),
        _item(study, attack.label, "t90_never_trained", "t90, never trained"),
        _item(study, attack.label, "t90_gap", "t90 gap"),
        _item(study, attack.label, "faster_than", "faster than (% of classes)"),
        Item("learning rate", lambda row: _rate(row, attack)),
    ]
    return _table(
        study,
        f"Attack on the class: {attack.title}",
        "is it learned again sooner than classes never trained on?",
        items,
        assumed(attack, next(iter(study.rows), None)),
        "A trial is of a member where it is faster than 95 % of those on each class never trained "
        "on; TPR is how often that finds the forgotten class, FPR how often it accuses the trials "
        "on a class never trained on, by the thresholds of the others. t90: steps until 90 % of "
        "the candidates are told. Δ of the t90 gap takes out how fast each class is "
        "learned by models that never saw the forgotten one: a difference in differences.",
        *_warnings(study, attack.label),
    )


def _judged(study: Study, row: Row, attack: Attack, place: int) -> Cell:
    """Return the balanced accuracy, or the true positive rate, with what is printed of it."""
    share = float(attack.settings.get("share", 0))
    printed, at = paper.attack(study.printed, name_of(row), share)
    beside = f"{_printed(printed, place)} at {at}" if printed else ""
    return told(study, row, attack.label, ("balanced_accuracy", "tpr")[place], beside=beside)


def _rate(row: Row, attack: Attack) -> Cell:
    """Return the learning rates that an adaptive attacker chose; of others there is one."""
    chosen = sorted(set(every(row, attack.label, "lr"))) if attack.adaptive else []
    return Cell(", ".join(f"{rate:g}" for rate in chosen), chosen[0]) if chosen else Cell()


def _warnings(study: Study, label: str) -> list[str]:
    """Return what an audit warned of, each once, with the rows that it is about."""
    found: dict[str, list[str]] = {}
    for row in study.rows:
        said = dict.fromkeys(w for a in answers(row, label) for w in a.get("warnings") or ())
        for text in said:
            found.setdefault(text, []).append(row.label)
    return [
        f"⚠ {text[:1].upper()}{text[1:]}"
        + ("." if len(rows) == len(study.rows) else f" ({', '.join(rows)}).")
        for text, rows in found.items()
    ]


# ---- the attack on single records


def tuned(study: Study, attack: Attack) -> Table | None:
    """Return what fine-tuning on retained records alone brings back."""
    items = [
        Item("AUC before", lambda row: _area(study, row, attack, "auc_before", 0)),
        Item("AUC after", lambda row: _area(study, row, attack, "auc", 1)),
        _item(study, attack.label, "gain", "gain"),
        _item(study, attack.label, "gain_offline", "gain, offline"),
        _item(study, attack.label, "tpr_at_1%_fpr", "TPR at 1 % FPR (%)"),
        _item(study, attack.label, "forget_accuracy_regained", "forget accuracy regained (%)"),
        _item(study, attack.label, "margin_change", "margin, change"),
        _item(study, attack.label, "margin_change_others", "the same of others"),
    ]
    shadows = attack.settings.get("shadows", 0)
    return _table(
        study,
        f"Attack on single records: {attack.title}",
        "does training on retained records alone bring them back?",
        items,
        f"The attacker fine-tunes the weights on all retained records and never on those asked "
        f"about, and has {shadows} shadow models, each trained on half of the records. Gain: area "
        "under the ROC curve of the likelihood ratio after the fine-tuning minus before. What "
        "models that never saw the records gain is no memory of them.",
        *_warnings(study, attack.label),
    )


def _area(study: Study, row: Row, attack: Attack, value: str, place: int) -> Cell:
    first = study.group.first
    printed = paper.reproduced(first["data"]["name"], first["forget"]["name"], name_of(row))[place]
    beside = f"elsewhere {' / '.join(f'{area:.3f}' for area in printed)}" if printed else ""
    return told(study, row, attack.label, value, beside=beside)


# ---- the gain over attacks before


def gained(study: Study) -> Table | None:
    """Return the ratios of balanced accuracies to those of the attacks before."""
    prior, attacks = study.labelled(*PRIOR), [*study.classwise, *study.samplewise]
    if not prior or not attacks:
        return None
    kind = "class" if study.classwise else "sample"
    items = [_item(study, label, "balanced_accuracy", f"{label} (%)") for label in prior]
    for attack in attacks:
        items.append(
            _item(study, attack.label, "balanced_accuracy", f"reminiscence, {attack.title} (%)")
        )
        items.append(Item(f"{attack.title}: ratio", _ratio(attack, prior)))
    return _table(
        study,
        "Gain over prior attacks",
        "ratio of balanced accuracies, on the same models",
        items,
        *(best(study, attack, prior) for attack in attacks),
        f"The abstract claims {paper.gain(kind):.2f}x {kind}-wise as the best of its settings, "
        "which are not known to us. The ratio is to the better of the prior attacks on each model.",
        "The prior attacks ask of each record whether it was trained on, beside unseen records of "
        "its class; the attack on the class asks of the class, beside classes never trained on."
        if study.classwise
        else "",
    )


def _ratio(attack: Attack, prior: Sequence[str]) -> Callable[[Row], Cell]:
    def ask(row: Row) -> Cell:
        values = ratios(row, attack.label, prior)
        lines = ("1 model",) if len(values) == 1 else ()
        return shown(over(values, row), TIMES, *lines)

    return ask


def best(study: Study, attack: Attack, prior: Sequence[str]) -> str:
    """Return the largest ratio of any method, in words; empty where there is none."""
    found = [
        (estimate, row.label)
        for row in study.methods
        if (estimate := over(ratios(row, attack.label, prior), row))
    ]
    if not found:
        return ""
    top, label = max(found, key=lambda pair: pair[0].value)
    retrained = study.control("retrained")
    control = over(ratios(retrained, attack.label, prior), retrained) if retrained else None
    beside = f"; on retrained models {control.value:.2f}x" if control else ""
    return (
        f"Best of our methods, {attack.title}: {top.value:.2f}x{interval(top, TIMES)} ({label})"
        f"{beside}. Picked as the largest of {len(found)}, it is probably too large."
    )


# ---- what outputs hide


def relearned(study: Study, label: str) -> Table | None:
    """Return how soon the records are known again."""
    settings = study.audits[label]["settings"]
    goal = f"{100 * settings.get('alpha', 0):g} % below the original's accuracy"
    if settings.get("loss") is not None:
        goal = f"a loss of {settings['loss']:g}"
    return _table(
        study,
        "Relearn time",
        "how soon are the records known again?",
        [
            Item("epochs", lambda row: _epochs(study, row, label)),
            _item(study, label, "anamnesis", "anamnesis index"),
        ],
        f"Epochs of {settings.get('records', 0)} records drawn from all training records, until "
        f"the forgotten ones are known: {goal}. The index is that time over the retrained models', "
        "1 added to both: near 0 the records are still there, near 1 they are gone; above 1 they "
        "are harder to learn than if never seen. A model that never gets there counts as the most "
        "epochs there are.",
    )


def _epochs(study: Study, row: Row, label: str) -> Cell:
    reached = every(row, label, "reached")
    never = sum(value == 0 for value in reached)
    return told(study, row, label, "epochs", f"{never} of {len(reached)} never" if never else "")


def converged(study: Study, label: str) -> Table | None:
    """Return the signs of records inside of models whose outputs match retraining's."""
    items = {
        "silhouette": "silhouette",
        "probe": "probe (%)",
        "relearn": "relearn epochs",
        "divergence": "divergence (nats)",
        "barrier": "barrier (nats)",
        "weight_distance": "weights moved (L2)",
    }
    return _table(
        study,
        "Pseudo-convergence",
        "do outputs like retraining's hide the records inside?",
        [
            Item("outputs match", lambda row: _matched(row, label)),
            Item("signs of 3", lambda row: _signs(row, label)),
            *(_item(study, label, value, head) for value, head in items.items()),
        ],
        "A model is pseudo-converged where its outputs match retraining's and a sign speaks: that "
        "the records are relearned sooner, lie closer together in a deep layer, or are told by a "
        "linear probe on it, beyond the retrained models' own spread and on the original's side. "
        "Barrier: rise of the retain loss on the straight line to the original; a low one means "
        "that its basin was never left. It takes three retrained models to say.",
        *_warnings(study, label),
    )


def _matched(row: Row, label: str) -> Cell:
    """Return in how many models the outputs match."""
    found = every(row, label, "matched")
    said = f"{sum(value > 0 for value in found)} of {len(found)}"
    return Cell(said, sum(found) / len(found)) if found else Cell()


def _signs(row: Row, label: str) -> Cell:
    """Return how many signs speak in the models, and in how many of them outputs match too."""
    inside = every(row, label, "inside")
    if not inside:
        return Cell()
    flagged = sum((answer["values"].get("signs") or 0) > 0 for (answer,) in together(row, label))
    said = f"{flagged} of {len(inside)} pseudo-converged"
    return Cell(f"{sum(inside) / len(inside):.3g}", sum(inside) / len(inside), (said,))


def plane(study: Study, label: str) -> Table | None:
    """Return the geometry of the forgotten records in a plane of logits."""
    values = {
        "plane_variance": ("variance", 2),
        "plane_silhouette": ("silhouette", 4),
        "plane_overlap": ("overlap", 4),
    }

    def ask(value: str, place: int, digits: int) -> Callable[[Row], Cell]:
        return lambda row: told(
            study,
            row,
            label,
            value,
            beside=_printed(paper.geometry(name_of(row)), place, digits),
        )

    return _table(
        study,
        "Geometry",
        "the forgotten records among others, logits in a plane by t-SNE",
        [
            Item(head, ask(value, place, digits))
            for place, (value, (head, digits)) in enumerate(values.items())
        ],
        "A forgotten class that still has low variance, a high silhouette and little overlap is a "
        "cluster that the answers no longer show. Such a plane depends on the method's draws.",
    )


# ---- generation


def generated(study: Study, label: str) -> Table | None:
    """Return how soon a generative model draws the class again."""
    settings = study.audits[label]["settings"]
    heads = {
        "recognised_before": "recognised before (%)",
        "recognised": "recognised, mean over rounds (%)",
        "recognised_unseen": "a class never trained on (%)",
        "rounds_recognised": "rounds, recognised",
        "loss_before": "loss before",
        "loss": "loss, mean over rounds",
        "rounds_loss": "rounds, loss",
        "recognised_retained": "retained classes (%)",
    }
    rounds = (settings.get("descent") or {}).get("epochs", 0)
    near = f"within {100 * settings.get('tolerance', 0):g} % of the original's own level"
    return _table(
        study,
        "Generation",
        "how soon does the model draw the class again?",
        [_item(study, label, value, head) for value, head in heads.items()],
        f"The attacker fine-tunes the weights on {settings.get('images', 0)} images of the class "
        f"that were never trained on, in its slot, for {rounds} rounds. A classifier says which "
        "samples show the class; the loss is that of denoising held-out images of it. Rounds: "
        f"until it is {near}; a model that never gets there counts as one more than there are. "
        "Retained classes: samples that are recognised before the attack; a model that lost these "
        "is spoilt.",
        *_warnings(study, label),
    )


def markdown(study: Study) -> Iterator[str]:
    """Yield the tables as Markdown."""
    for table in tables(study):
        yield table.markdown()
    yield from map(literal, sources(study))
