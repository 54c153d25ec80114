"""What was expected of the attack and of the defence, tested on a study's records.

The expectations were written down before the runs: retrained models are told by chance, weak
methods surely, the defence hardly even by an attacker who knows it, at little cost and with its
accuracy kept. They are tested over models, never on one number: see `statements`. Only counts,
which have no chance in them, need no test.
"""

from collections.abc import Iterator, Sequence

from expunge.study.claims import Claim
from expunge.study.estimate import number
from expunge.study.residuals import (
    DEFENCE,
    Attack,
    Study,
    differences,
    every,
    name_of,
    shares,
    whole,
)
from expunge.study.rows import Row
from expunge.study.statements import Statement, about, above, all_hold, decided

WEAK = ("bad_teacher", "ssd", "random_label")
CHANCE, NEAR, SURE, DEFENDED = 0.5, 0.05, 0.8, 0.55
COST, POINTS, NO_GAIN = 0.12, 0.03, 0.02
BALANCED = "balanced_accuracy"


def expected(study: Study) -> list[Claim]:
    """Return every expectation that the study is about, with what was found."""
    made = [*_classwise(study)] if study.classwise else []
    if study.samplewise:
        found = [_gainless(study, attack) for attack in study.samplewise]
        text = "Models that never saw the records gain nothing by the fine-tuning."
        made.append(
            _claim("S1", text, found, "A gain of theirs would be no memory of the records.")
        )
    return made


def _claim(name: str, text: str, found: Sequence[Statement], note: str = "") -> Claim:
    statements = decided(found)
    return Claim(id=name, text=text, verdict=all_hold(statements), statements=statements, note=note)


def _classwise(study: Study) -> Iterator[Claim]:
    plain = [attack for attack in study.classwise if not attack.adaptive]
    adaptive = [attack for attack in study.classwise if attack.adaptive]
    yield _claim(
        "C1",
        "Retrained models are told about as often as by chance, 50 %.",
        [_chance(study, attack) for attack in study.classwise],
    )
    yield _claim(
        "C2",
        "Weak methods are told in more than 80 %.",
        [_weak(study, name, attack) for name in WEAK for attack in plain or adaptive],
        "Those that the earlier version tells so, and random labels.",
    )
    row = defence(study)
    note = f"Of the settings that were run, {row.label}." if row and _several(study) else ""
    yield _claim(
        "C3",
        f"{DEFENCE} is told in at most 55 %, by the attacker who knows it.",
        [_defended(row, attack) for attack in adaptive] or [_missing("the adaptive attack")],
        note,
    )
    yield _claim("C4", f"{DEFENCE} costs at most 12 % of retraining.", list(_costs(study, row)))
    lost = differences(row, "accuracy", "test") if row else []
    yield _claim(
        "C5",
        f"{DEFENCE} keeps test accuracy within 3 points of retraining's.",
        [about("test accuracy minus that of its seed's retrained models", lost, POINTS)],
    )


def defence(study: Study) -> Row | None:
    """Return the row of the defence with nothing left out; the first where there are several."""
    return next((row for row in study.methods if whole(row)), None)


def _several(study: Study) -> bool:
    return sum(whole(row) for row in study.methods) > 1


def _missing(what: str) -> Statement:
    return Statement(what=what, test="one-sided t test", missing="not run")


def _chance(study: Study, attack: Attack) -> Statement:
    """Test the retrained models; where there are none, what the method `retrain` made."""
    values = every(study.control("retrained"), attack.label, BALANCED)
    for row in study.methods:
        if not values and name_of(row) == "retrain":
            values = every(row, attack.label, BALANCED)
    return about(f"{attack.title} attack, retrained models", values, NEAR, CHANCE)


def _weak(study: Study, name: str, attack: Attack) -> Statement:
    row = next((row for row in study.methods if name_of(row) == name), None)
    return above(f"{attack.title} attack, {name}", every(row, attack.label, BALANCED), SURE)


def _defended(row: Row | None, attack: Attack) -> Statement:
    values = every(row, attack.label, BALANCED)
    return above(f"{attack.title} attack, {DEFENCE}", values, DEFENDED, "less")


def _costs(study: Study, row: Row | None) -> Iterator[Statement]:
    counted = [v for label in study.labelled("cost") for v in every(row, label, "of_retraining")]
    yield at_most("samples, as a share of retraining's", counted, COST)
    measured = [v for v in (shares(row) if row else []) if number(v) is not None]
    yield above("seconds, as a share of retraining's", measured, COST, "less")


def at_most(what: str, counts: Sequence[float], limit: float) -> Statement:
    """Return the statement that counts are at most a number; those of one run decide it too."""
    test, n = "counted in every run", len(counts)
    if not counts:
        return Statement(what=what, test=test, missing="not run")
    p = 0.0 if max(counts) <= limit else 1.0
    contrary = 0.0 if min(counts) > limit else 1.0
    low, high = (min(counts), max(counts)) if n > 1 else (None, None)
    value = sum(counts) / n
    return Statement(
        what=what, test=test, n=n, value=value, low=low, high=high, p=p, contrary=contrary
    )


def _gainless(study: Study, attack: Attack) -> Statement:
    values = every(study.control("retrained"), attack.label, "gain")
    return about(f"gain in area, {attack.title}", values, NO_GAIN)
