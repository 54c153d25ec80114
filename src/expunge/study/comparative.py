"""Records as the comparative study of seven unlearning methods reads them.

Salgado Herrera, Thouvenot, Héliou and Becue, "Comparative Analysis of Machine Unlearning
Approaches for Data Protection", CAID 2024, https://hal.science/hal-05046594v1

What the paper calls a repetition is here a forget set and the seed of an original: all numbers
of a repetition are about models that start from one original, and may be compared in pairs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from expunge.stats import spread
from expunge.study.estimate import number
from expunge.study.groups import Record, flat, frozen, gathered, labels

Finding = Mapping[str, Any]
Target = str  # what the forget set is: `random`, `red`
Repeat = tuple[str, int]

# The paper's name of each method, and how it placed in the competition.
NAMES: dict[str, tuple[str, int | None]] = {
    "finetune": ("Simple", None),
    "distillation": ("Distillation", 6),
    "rotate": ("Rotate", 5),
    "pseudo_label": ("Pseudo", 5),
    "pruning": ("Pruning", 4),
    "deviation": ("Deviation", 3),
    "gradient_reset": ("Gradient", 2),
    "divergence": ("Divergence", 1),
}
# Where a method has variants, the one that bears the paper's name; others are shown beside it.
VARIANTS: dict[str, dict[str, Any]] = {
    "deviation": {"layers": "first"},
    "gradient_reset": {"scope": "layer"},
}
# What is counted as an epoch: the competition's winner counts his first pass as one.
EPOCHS: dict[str, tuple[str, ...]] = {"divergence": ("descent", "uniform")}
TARGETS = {"random": "random", "colour": "red"}
METRICS = ("retain", "forget", "val", "test", "ratio", "auc", "share")
ATTACK = "loss_attack"


@dataclass(frozen=True, kw_only=True)
class Result:
    """One unlearned model, as the study reads it.

    Attributes:
        method: Our name of it.
        label: The paper's name, with the settings that make it a variant.
        epochs: Its length, as the paper counts it; None where it has none.
        target: What the forget set is.
        repeat: Which repetition it belongs to.
        values: By metric; `ratio` is forget over validation accuracy, `share` is the run time as a
            share of the original's training.
        variant: Whether it is another than the variant that bears the paper's name.
        curve: Accuracy and loss after every epoch, where they were traced.
    """

    method: str
    label: str
    epochs: int | None
    target: Target
    repeat: Repeat
    values: Mapping[str, float]
    variant: bool = False
    curve: Mapping[str, Any] | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class Study:
    """The results of one data set and one network, with both controls.

    Attributes:
        title: The data set and the network.
        results: Of the methods.
        originals: By target and repetition, the original's values.
        retrained: By target, the values of every retrained model.
        records: What it was read from.
    """

    title: str
    results: Sequence[Result]
    originals: Mapping[tuple[Target, Repeat], Mapping[str, float]]
    retrained: Mapping[Target, Sequence[Mapping[str, float]]]
    records: Sequence[Record] = field(repr=False)

    def of(
        self, metric: str, target: Target, method: str, epochs: int | None = None
    ) -> dict[Repeat, float]:
        """Return a method's numbers by repetition; of `original`, the originals'."""
        if method == "original":
            return {
                repeat: values[metric]
                for (kind, repeat), values in self.originals.items()
                if kind == target and metric in values
            }
        return {
            r.repeat: r.values[metric]
            for r in self.results
            if (r.method, r.target, r.variant) == (method, target, False)
            and r.epochs == epochs
            and metric in r.values
        }

    def chance(self, metric: str, target: Target) -> float | None:
        """Return how far one more retrained model may lie from the others' mean, at 95 %."""
        return spread([v[metric] for v in self.retrained.get(target, ()) if metric in v])

    def nearness(self, metric: str, target: Target, ideal: float) -> float | None:
        """Return how near to its ideal retraining itself comes, at 95 %.

        The retrained models' mean distance from the ideal, and what chance adds to it.
        """
        values = [v[metric] for v in self.retrained.get(target, ()) if metric in v]
        reach = spread(values)
        return None if reach is None else abs(sum(values) / len(values) - ideal) + reach

    @property
    def epochs(self) -> list[int]:
        """The lengths that were run, in order."""
        return sorted({r.epochs for r in self.results if r.epochs is not None})

    @property
    def targets(self) -> list[Target]:
        """What was forgotten, the random sets first."""
        return sorted({r.target for r in self.results}, key=lambda t: (t != "random", t))


def holds_study(records: Sequence[Record]) -> bool:
    """Return whether some of the compared methods, beside fine-tuning, are in the records."""
    return bool({r["method"]["name"] for r in records} & (set(NAMES) - {"finetune"}))


def studies(records: Sequence[Record]) -> list[Study]:
    """Return a study for each data set, network and way of training."""

    def setting(record: Record) -> str:
        parts = [(record[k]["name"], record[k].get("settings")) for k in ("data", "model")]
        return frozen(*parts, record["training"])

    lists = [rs for rs in gathered(records, setting).values() if holds_study(rs)]
    firsts = [rs[0] for rs in lists]
    named = [labels([first[part] for first in firsts]) for part in ("data", "model")]
    return [
        _study(" · ".join(parts), rs)
        for parts, rs in zip(zip(*named, strict=True), lists, strict=True)
    ]


def _study(title: str, records: Sequence[Record]) -> Study:
    named = _labels(records)
    results, originals, retrained = [], {}, {}
    for record, label in zip(records, named, strict=True):
        found = _asked(record)
        target, repeat = _target(record), _repeat(record)
        if not found:
            continue
        if record["method"]["name"] in NAMES:
            measured = record["measured"]
            results.append(
                Result(
                    method=record["method"]["name"],
                    label=label,
                    epochs=epochs_of(record),
                    target=target,
                    repeat=repeat,
                    values=_values([f["unlearned"] for f in found.values()], found, measured),
                    variant=_is_variant(record),
                    curve=record.get("curve"),
                )
            )
        originals.setdefault(
            (target, repeat), _values([f["original"] for f in found.values()], found)
        )
        for answers in zip(*(f["retrained"] for f in found.values()), strict=True):
            values = _values(answers, found)
            retrained.setdefault(target, {})[frozen(repeat[0], values)] = values
    return Study(
        title=title,
        results=results,
        originals=originals,
        retrained={target: list(models.values()) for target, models in retrained.items()},
        records=records,
    )


def _asked(record: Record) -> dict[str, Finding]:
    """Return the findings that the study reads, by the audit's name."""
    found = {f["audit"]: f for f in reversed(record["findings"])}
    return {name: found[name] for name in ("accuracy", ATTACK) if name in found}


def _values(
    answers: Sequence[Mapping[str, Any]],
    found: Mapping[str, Finding],
    measured: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Return what the audits say of one model, by metric; what is not a number is left out."""
    told = dict(zip(found, answers, strict=True))
    accuracy = told.get("accuracy", {}).get("values", {})
    values = {name: accuracy.get(name) for name in ("retain", "forget", "val", "test")}
    values["ratio"] = accuracy.get("forget/val")
    values["auc"] = told.get(ATTACK, {}).get("values", {}).get("auc")
    if measured is not None:
        seconds, whole = (number(measured.get(k)) for k in ("seconds", "training_seconds"))
        values["share"] = seconds / whole if seconds is not None and whole else None
    return {k: v for k, value in values.items() if (v := number(value)) is not None}


def epochs_of(record: Record) -> int | None:
    """Return how long a method ran, as the paper counts epochs; None where it has none."""
    method = record["method"]
    settings = flat(method.get("settings") or {})
    parts = EPOCHS.get(method["name"], ("descent",))
    told = [n for part in parts if isinstance(n := settings.get(f"{part}.epochs"), int)]
    return sum(told) if len(told) == len(parts) else None


def _is_variant(record: Record) -> bool:
    settings = record["method"].get("settings") or {}
    wanted = VARIANTS.get(record["method"]["name"], {})
    return any(settings.get(k, v) != v for k, v in wanted.items())


def _labels(records: Sequence[Record]) -> list[str]:
    """Return the paper's name of each record's method, with what makes it a variant."""
    out = []
    for record in records:
        name, settings = record["method"]["name"], record["method"].get("settings") or {}
        told = [str(settings[k]) for k in VARIANTS.get(name, {}) if k in settings]
        label = NAMES.get(name, (name, None))[0]
        out.append(f"{label}, {', '.join(told)}" if _is_variant(record) else label)
    return out


def _target(record: Record) -> Target:
    name: str = record["forget"]["name"]
    return TARGETS.get(name, name)


def _repeat(record: Record) -> Repeat:
    settings = record["forget"].get("settings")
    return frozen(record["forget"]["name"], settings, record["forget"].get("digest")), record[
        "seed"
    ]
