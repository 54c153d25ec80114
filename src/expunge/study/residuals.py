"""Records as the study of residuals reads them: what is left inside a model that seems unlearned.

Xiao, Ye, Hu, Zheng, Hu, Liang, Li and Jiao, "Reminiscence Attack on Residuals: Exploiting
Approximate Machine Unlearning for Privacy", ICCV 2025, https://arxiv.org/abs/2507.20573. A study is
one group of comparable records: a class was forgotten, or single records, by a classifier or by a
generative model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import fmean
from typing import Any

from expunge.study.estimate import Estimate, number, student
from expunge.study.groups import Group, Record, group, labels
from expunge.study.published import reminiscence as paper
from expunge.study.rows import Cell, Column, Row
from expunge.study.summary import Answer, answers, findings, tabulate

CLASSES, SAMPLES = "reminiscence_class", "reminiscence_sample"
RELEARN, PSEUDO, RECOVERY = "relearn_time", "pseudo_convergence", "recovery"
READ = (CLASSES, SAMPLES, RELEARN, PSEUDO, RECOVERY)
PRIOR = ("population", "lira")  # attacks that were there before
DEFENCE = "orthogonal_replay"

# What is read of each audit: its values, and in which unit they are shown.
VALUES: Mapping[str, Mapping[str, str]] = {
    "accuracy": {"test": "%", "forget": "%", "retain": "%"},
    "population": {"balanced_accuracy": "%", "mia_efficacy": "%"},
    "lira": {"balanced_accuracy": "%"},
    "cost": {"of_retraining": "%"},
    CLASSES: {
        "balanced_accuracy": "%",
        "tpr": "%",
        "fpr": "%",
        "auc": "",
        "t90_forgotten": "steps",
        "t90_never_trained": "steps",
        "t90_gap": "steps",
        "faster_than": "%",
    },
    SAMPLES: {
        "auc": "",
        "auc_before": "",
        "gain": "",
        "gain_offline": "",
        "tpr_at_1%_fpr": "%",
        "balanced_accuracy": "%",
        "margin_change": "",
        "margin_change_others": "",
        "forget_accuracy_regained": "%",
    },
    RELEARN: {"epochs": "epochs", "anamnesis": ""},
    PSEUDO: {
        "signs": "",
        "inside": "",
        "matched": "%",
        "divergence": "",
        "relearn": "epochs",
        "silhouette": "",
        "probe": "%",
        "barrier": "",
        "weight_distance": "",
        "plane_variance": "",
        "plane_silhouette": "",
        "plane_overlap": "",
    },
    RECOVERY: {
        "recognised": "%",
        "recognised_before": "%",
        "recognised_unseen": "%",
        "recognised_retained": "%",
        "loss": "",
        "loss_before": "",
        "rounds_recognised": "rounds",
        "rounds_loss": "rounds",
    },
}
SIGNED = ("t90_gap", "gain", "gain_offline", "margin_change", "margin_change_others")
FREE = (*SIGNED, "forget_accuracy_regained", "of_retraining")  # may leave [0, 1]

BOUNDED = ("auc", "auc_before", "plane_overlap")


@dataclass(frozen=True)
class Count(Column):
    """A number of steps, epochs or rounds."""

    def show(self, value: float, *, signed: bool = False) -> str:
        return f"{value:{'+' if signed else ''}.1f}"


@dataclass(frozen=True, eq=False)
class Attack:
    """One way to attack.

    Attributes:
        label: The audit's, among the group's.
        title: What tells it from others: plain or adaptive, on the model or on a copy of it.
        settings: The audit's.
    """

    label: str
    title: str
    settings: Mapping[str, Any]

    @property
    def adaptive(self) -> bool:
        """Whether the attacker chose his learning rate for this defence, on a surrogate."""
        return bool(self.settings.get("sweep"))


@dataclass(frozen=True, eq=False, kw_only=True)
class Study:
    """Everything of one group that bears on residuals.

    Attributes:
        group: Its records.
        audits: The audits that are read, by their labels.
        rows: Controls and methods.
    """

    group: Group
    audits: Mapping[str, Mapping[str, Any]]
    rows: Sequence[Row] = field(repr=False)

    def labelled(self, *names: str) -> list[str]:
        """Return the labels of all audits of these names."""
        return [label for label, found in self.audits.items() if found["audit"] in names]

    @cached_property
    def classwise(self) -> Sequence[Attack]:
        """Attacks on a class, the plain ones first."""
        found = self._attacks(CLASSES, _way)
        return sorted(found, key=lambda attack: (attack.adaptive, attack.title))

    @cached_property
    def samplewise(self) -> Sequence[Attack]:
        """Attacks on single records."""
        return self._attacks(SAMPLES, _shadowed)

    def _attacks(self, name: str, way: Any) -> list[Attack]:
        known = [(label, self.audits[label]["settings"]) for label in self.labelled(name)]
        things = [{"name": way(settings), "settings": settings} for _, settings in known]
        pairs = zip(known, labels(things), strict=True)
        return [Attack(label, title, settings) for (label, settings), title in pairs]

    @cached_property
    def _columns(self) -> Mapping[tuple[str, str], Column]:
        return {(c.audit, c.value): c for c in _columns(self.audits)}

    def column(self, label: str, value: str) -> Column:
        """Return the column of an audit's value."""
        return self._columns[label, value]

    def cell(self, row: Row, label: str, value: str) -> Cell | None:
        """Return an audit's value of a row; None where it has none."""
        column = self._columns.get((label, value))
        return None if column is None else row.cells.get(column)

    def control(self, kind: str) -> Row | None:
        """Return the row of `original` or `retrained` models; None where there is none."""
        return next((row for row in self.rows if row.kind == kind), None)

    def row(self, label: str) -> Row:
        """Return the row of a label."""
        return next(row for row in self.rows if row.label == label)

    @property
    def methods(self) -> list[Row]:
        return [row for row in self.rows if row.kind == "method"]

    @property
    def printed(self) -> str | None:
        """The name that the earlier version has for the data."""
        return paper.row(self.group.first["data"])


def _columns(audits: Mapping[str, Mapping[str, Any]]) -> list[Column]:
    """Return a column of each value that is read; all are compared with retraining's."""
    out = []
    for label, finding in audits.items():
        for value, unit in VALUES[finding["audit"]].items():
            kind = Count if unit in ("steps", "epochs", "rounds") else Column
            out.append(
                kind(
                    label,
                    value,
                    value.replace("_", " "),
                    unit,
                    headline=value == finding["headline"],
                    decides=finding["audit"] != "cost",
                    bounded=(unit == "%" and value not in FREE) or value in BOUNDED,
                )
            )
    return out


def _way(settings: Mapping[str, Any]) -> str:
    kind = "adaptive" if settings.get("sweep") else "plain"
    return f"{kind}, on an extracted copy" if settings.get("extract") else kind


def _shadowed(settings: Mapping[str, Any]) -> str:
    kind = f"{settings.get('shadowed', 'trained')} shadows"
    return f"{kind}, on an extracted copy" if settings.get("extract") else kind


def holds(records: Sequence[Record]) -> bool:
    """Return whether any of the records was asked for residuals."""
    return any(f["audit"] in READ for r in records for f in r["findings"])


def study(of: Group) -> Study | None:
    """Return what a group's records say of residuals, or None where they say nothing."""
    if not holds(of.records):
        return None
    audits: dict[str, Mapping[str, Any]] = {}
    for record in of.records:
        for label, finding in findings(record).items():
            if finding["audit"] in VALUES:
                audits.setdefault(label, finding)
    return Study(group=of, audits=audits, rows=tabulate(of, _columns(audits)))


def studies(records: Sequence[Record]) -> list[Study]:
    """Return a study for each group of comparable records that has one."""
    return [found for each in group(records) if (found := study(each))]


def name_of(row: Row) -> str:
    """Return the method that a row's numbers stand beside: of retrained models `retrain`."""
    if row.kind != "method":
        return {"retrained": "retrain"}.get(row.kind, row.kind)
    return str(row.records[0]["method"]["name"])


def every(row: Row | None, label: str, value: str) -> list[float]:
    """Return a value of each of a row's models."""
    told = answers(row, label) if row else []
    return [v for answer in told if (v := number(answer["values"].get(value))) is not None]


def together(row: Row, *wanted: str) -> list[tuple[Answer, ...]]:
    """Return what several audits answered about each model that all of them were asked of."""
    asked = [record for record in row.records if set(wanted) <= set(findings(record))]
    lists = [answers(replace(row, records=asked), label) for label in wanted]
    return list(zip(*lists, strict=False))


def ratios(row: Row, attack: str, prior: Sequence[str]) -> list[float]:
    """Return each model's ratio of balanced accuracies: an attack's to the best prior one's.

    Args:
        row: Whose models.
        attack: The attack's label.
        prior: Labels of the attacks that were there before.
    """
    found = []
    for mine, *others in together(row, attack, *prior) if prior else ():
        top = number(mine["values"].get("balanced_accuracy"))
        known = [v for a in others if (v := number(a["values"].get("balanced_accuracy")))]
        if top is not None and known:
            found.append(top / max(known))
    return found


def over(values: Sequence[float], row: Row) -> Estimate | None:
    """Return the mean of a row's models' numbers with its interval; None of no numbers."""
    if not values:
        return None
    return student(values, "models" if row.kind == "retrained" else "seeds")


def differences(row: Row, label: str, value: str) -> list[float]:
    """Return how far each of a method's models is from the mean of its seed's retrained ones."""
    found = [f for r in row.records if (f := findings(r).get(label))]
    out = []
    for finding in found:
        mine = number(finding["unlearned"]["values"].get(value))
        theirs = [number(a["values"].get(value)) for a in finding["retrained"]]
        known = [v for v in theirs if v is not None]
        if mine is not None and known:
            out.append(mine - fmean(known))
    return out


def shares(row: Row) -> list[float]:
    """Return the seconds of each of a method's models as a share of retraining's."""
    out = []
    for record in row.records:
        mine = number(record["measured"].get("seconds"))
        theirs = [number(s) for s in record["measured"].get("retraining_seconds") or []]
        known = [s for s in theirs if s]
        if mine is not None and known:
            out.append(mine / fmean(known))
    return out


def whole(row: Row) -> bool:
    """Return whether a row is the defence with nothing left out."""
    if name_of(row) != DEFENCE:
        return False
    settings = row.records[0]["method"].get("settings") or {}
    on = (settings.get("orthogonality", 1), settings.get("l1", 1))
    phases = (settings.get("erase") or {}, settings.get("descent") or {})
    weights = settings.get("weights") or (1,)
    return (
        all(strength is None or strength > 0 for strength in on)
        and all(phase.get("epochs", 1) > 0 for phase in phases)
        and all(weight > 0 for weight in weights)
    )


def trials(attack: Attack, row: Row | None) -> tuple[int, int]:
    """Return how many trials on members and on never-trained classes judged one model."""
    told = answers(row, attack.label) if row else []
    scores = next((s for a in told if (s := a["arrays"].get("scores"))), None)
    if scores is None:
        count = int(attack.settings.get("trials", 0))
        return count, count * int(attack.settings.get("unseen", 0))
    return len(scores[0]), sum(len(one) for one in scores[1:])


def assumed(attack: Attack, row: Row | None) -> str:
    """Return what an attack on a class takes for granted, in a sentence."""
    s = attack.settings
    members, others = trials(attack, row)
    reach = (
        f"a copy that learned a black box's answers for {s['extract']} epochs"
        if s.get("extract")
        else "the weights (white box)"
    )
    rates = ", ".join(f"{rate:g}" for rate in s.get("sweep") or ())
    rate = f"chosen on a surrogate from {rates}" if rates else f"{s.get('lr', 0):g}"
    told = answers(row, attack.label) if row else []
    courses = next((c for a in told if (c := a["arrays"].get("trajectories"))), None)
    steps = f"{len(courses[0])}" if courses else f"at most {s.get('steps', 0)}"
    asked = f"{s['asked']} of them" if s.get("asked") else "all of them"
    return (
        f"The attacker has {reach}, {100 * s.get('share', 0):g} % of the class's records, the "
        f"vacated slot and retained records. {steps} steps at learning rate {rate} each show one "
        f"candidate beside {s.get('retained', 0)} of these; {asked} are asked about after each "
        f"step. {members} trials on the forgotten class, {others} on classes never trained on, for "
        "each model."
    )
