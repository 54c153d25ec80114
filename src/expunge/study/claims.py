"""What the comparative study claims, tested on records of our own.

Salgado Herrera, Thouvenot, Héliou and Becue, "Comparative Analysis of Machine Unlearning
Approaches for Data Protection", CAID 2024, https://hal.science/hal-05046594v1. Its results are
box plots and sentences; the sentences are claims S1 to S10 here, in our words.

A claim is made of statements. Each is tested twice over the repetitions: for it, and for its
contrary.

* "More", "less": Student's t test of the mean difference, one-sided. Differences are taken within
  a repetition, where both models start from one original.
* "About equal": two one-sided t tests (Schuirmann, 1987) against a margin; its contrary is that
  the mean lies beyond the margin. The margin is the retrained models' own doing: of a difference
  between two results, how far one more retrained model may lie from the others' mean at 95 %; of
  a distance from an ideal, such as a ratio of 1, how near to it one more retrained model surely
  comes. No method can be asked to be nearer to an ideal than retraining is.
* "Varies more": Pitman and Morgan's test where the two samples are paired by repetition; across
  forget sets a t test, over methods, of the log ratio of variances.

Within a claim the p-values for all statements are corrected by Holm's method at 5 %, and those
for all contraries likewise. A claim holds if every statement does, and does not hold if any
statement's contrary does. Else it cannot be resolved: too few repetitions, an interval that
straddles, a length or a forget set that was not run, or no retrained models.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import variance

from expunge.study.comparative import NAMES, Repeat, Study
from expunge.study.statements import (
    Statement,
    Verdict,
    about,
    above,
    agree,
    all_hold,
    decided,
    most_hold,
    varies_more,
)

Numbers = Mapping[Repeat, float]

USUAL, LONG, SHORT = 9, 20, 5  # epochs that the paper plots, and the fewest it tries
EVERY = tuple(NAMES)
KEPT = ("distillation", "pseudo_label", "finetune", "deviation")  # do not quite forget (S2)
NEAR = ("rotate", "pruning")  # forget and validation alike (S3)
BEST = (*NEAR, "divergence")  # the paper's choice (S10)
FAST = ("finetune", "deviation", "divergence")


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim of the paper, and what became of it.

    Attributes:
        id: S1 to S10.
        text: What is claimed.
        verdict: What the statements together say.
        statements: What was tested.
        note: What the reader should know of the test.
    """

    id: str
    text: str
    verdict: Verdict
    statements: Sequence[Statement]
    note: str = ""

    @property
    def tests(self) -> list[str]:
        """The tests that were used."""
        return list(dict.fromkeys(s.test for s in self.statements))

    @property
    def n(self) -> int:
        """The fewest repetitions behind any statement that could be tested."""
        return min((s.n for s in self.statements if not s.missing), default=0)


def claims(study: Study) -> list[Claim]:
    """Return claims S1 to S10, each with its verdict."""
    return [claim(study) for claim in CLAIMS]


# ---- numbers, paired by repetition


def paired(one: Numbers, other: Numbers) -> list[float]:
    """Return the differences of two models' numbers in the repetitions that have both."""
    return [value - other[repeat] for repeat, value in one.items() if repeat in other]


def together(
    many: Sequence[Numbers], over: Callable[[Sequence[float]], float]
) -> dict[Repeat, float]:
    """Return one number for each repetition that all have: their least, say.

    Where one was not run there are none: what is said of all cannot be tested on some.
    """
    return {r: over([m[r] for m in many]) for r in many[0] if all(r in m for m in many)}


def both(one: Numbers, other: Numbers) -> tuple[list[float], list[float]]:
    """Return two models' numbers in the repetitions that have both."""
    shared = [repeat for repeat in one if repeat in other]
    return [one[r] for r in shared], [other[r] for r in shared]


def without(*methods: str) -> list[str]:
    """Return every compared method but these."""
    return [m for m in EVERY if m not in methods]


def _name(method: str) -> str:
    return NAMES[method][0] if method in NAMES else method.capitalize()


@dataclass(frozen=True)
class Look:
    """A study seen at one length and one forget set."""

    study: Study
    epochs: int = USUAL
    target: str = "random"

    def of(self, metric: str, method: str) -> dict[Repeat, float]:
        return self.study.of(metric, self.target, method, self.epochs)

    def each(self, metric: str, methods: Iterable[str]) -> list[dict[Repeat, float]]:
        """Return the numbers of several methods."""
        return [self.of(metric, m) for m in methods]

    def over(self, metric: str, one: str, other: str) -> list[float]:
        """Return one method's number minus another's, by repetition."""
        return paired(self.of(metric, one), self.of(metric, other))

    def said(self, method: str) -> str:
        """Return which model this is about, and which forget set unless it is random."""
        length = "" if method == "original" else f", {self.epochs} epochs"
        return _name(method) + length + ("" if self.target == "random" else f", {self.target}")

    def ratio_above_one(self, method: str) -> Statement:
        """Test whether forget accuracy exceeds validation's by more than retraining's does."""
        margin = self.study.nearness("ratio", self.target, 1.0)
        what = f"{self.said(method)}: forget/validation above 1"
        if margin is None:
            return about(what, list(self.of("ratio", method).values()), None)
        return above(
            f"{what[:-1]}{1 + margin:.3f}, the farthest that retraining comes",
            list(self.of("ratio", method).values()),
            1 + margin,
        )

    def near(self, metric: str, method: str, ideal: float, words: str) -> Statement:
        """Test whether a number is as near to its ideal as retraining's is."""
        margin = self.study.nearness(metric, self.target, ideal)
        values = list(self.of(metric, method).values())
        return about(f"{self.said(method)}: {words}", values, margin, ideal)

    def alike(self, metric: str, method: str, other: "Look", words: str) -> Statement:
        """Test whether a method's number is the same at another length."""
        differences = paired(other.of(metric, method), self.of(metric, method))
        what = f"{_name(method)}: {words} the same at {self.epochs} and {other.epochs} epochs"
        return about(what, differences, self.study.chance(metric, self.target))


def _claim(
    number: str,
    text: str,
    statements: Iterable[Statement],
    *,
    verdict: Callable[[Sequence[Statement]], Verdict] = all_hold,
    note: str = "",
) -> Claim:
    done = decided(statements)
    return Claim(id=number, text=text, verdict=verdict(done), statements=done, note=note)


# ---- the claims


def _s1(study: Study) -> Claim:
    return _claim(
        "S1",
        "The original is right clearly more often on the records to forget than on validation "
        "records.",
        [Look(study).ratio_above_one("original")],
    )


def _s2(study: Study) -> Claim:
    usual, long = Look(study), Look(study, LONG)
    statements = [look.ratio_above_one(m) for look in (usual, long) for m in KEPT]
    statements += [usual.alike("ratio", m, long, "the ratio is") for m in KEPT]
    return _claim(
        "S2",
        "Distillation, Pseudo, Simple and Deviation leave the ratio of forget to validation "
        "accuracy above 1, at 9 epochs as at 20.",
        statements,
    )


def _s3(study: Study) -> Claim:
    usual, long = Look(study), Look(study, LONG)
    statements = [usual.near("ratio", m, 1.0, "forget/validation about 1") for m in NEAR]
    statements += [
        above(
            f"{_name(m)}, 9 epochs: validation accuracy below the original's",
            usual.over("val", m, "original"),
            side="less",
        )
        for m in NEAR
    ]
    statements.append(
        above(
            "Pruning loses more validation accuracy than Rotate, 9 epochs",
            usual.over("val", "pruning", "rotate"),
            side="less",
        )
    )
    for m in NEAR:
        short_run, long_run = usual.of("val", m), long.of("val", m)
        what = f"{_name(m)}: validation accuracy higher at 20 epochs than at 9"
        statements.append(above(what, paired(long_run, short_run)))
        what = f"{_name(m)}: validation accuracy varies less at 20 epochs than at 9"
        statements.append(varies_more(what, *both(short_run, long_run)))
    return _claim(
        "S3",
        "Rotate and Pruning bring the ratio to about 1 and lose validation accuracy, Pruning more "
        "than Rotate; 20 epochs make the loss and the variation smaller.",
        statements,
    )


def _s4(study: Study) -> Claim:
    usual, long = Look(study), Look(study, LONG)

    def forget_over_val(look: Look) -> list[float]:
        return paired(look.of("forget", "divergence"), look.of("val", "divergence"))

    later, first = both(long.of("val", "divergence"), usual.of("val", "divergence"))
    return _claim(
        "S4",
        "Divergence at 9 epochs has a validation accuracy slightly above the original's, and "
        "forget slightly above validation; at 20 epochs both are the other way round, and "
        "validation accuracy varies more.",
        [
            above("9 epochs: validation above the original's", usual.over("val", *_DIVERGED)),
            above("9 epochs: forget above validation", forget_over_val(usual)),
            above(
                "20 epochs: validation below the original's",
                long.over("val", *_DIVERGED),
                side="less",
            ),
            above("20 epochs: forget below validation", forget_over_val(long), side="less"),
            varies_more("validation accuracy varies more at 20 epochs than at 9", later, first),
        ],
        note="Signs are tested, not what “slightly” means.",
    )


_DIVERGED = ("divergence", "original")


def _s5(study: Study) -> Claim:
    look, others = Look(study), without("gradient_reset")
    lengths = study.epochs or [USUAL]
    first, last = Look(study, lengths[0]), Look(study, lengths[-1])
    statements = [
        above(
            f"Gradient, 9 epochs: {words} accuracy below every other method's",
            paired(look.of(metric, "gradient_reset"), together(look.each(metric, others), min)),
            side="less",
        )
        for metric, words in (("retain", "retain"), ("val", "validation"))
    ]
    more = paired(last.of("retain", "gradient_reset"), first.of("retain", "gradient_reset"))
    what = f"Gradient: retain accuracy higher at {last.epochs} epochs than at {first.epochs}"
    statements.append(above(what, more if last.epochs > first.epochs else []))
    return _claim(
        "S5",
        "Gradient is far below the other methods on retained and validation records, and needs "
        "more epochs.",
        statements,
    )


def _s6(study: Study) -> Claim:
    short, usual = Look(study, SHORT), Look(study)
    statements = [
        short.alike(metric, m, usual, words)
        for m in EVERY
        for metric, words in (("val", "validation accuracy is"), ("ratio", "the ratio is"))
    ]
    return _claim(
        "S6",
        "For most methods 5 epochs give what 9 give.",
        statements,
        verdict=_most_methods,
        note="A method is counted where both its validation accuracy and its ratio are the same.",
    )


def _most_methods(statements: Sequence[Statement]) -> Verdict:
    pairs = zip(statements[::2], statements[1::2], strict=True)
    return most_hold([replace(a, verdict=all_hold([a, b])) for a, b in pairs])


def _s7(study: Study) -> Claim:
    look = Look(study)
    statements = [
        above(
            f"{_name(m)}, 9 epochs: under half of the training time",
            list(look.of("share", m).values()),
            0.5,
            "less",
        )
        for m in EVERY
    ]
    fastest, rest = look.each("share", FAST), look.each("share", without(*FAST))
    statements += [
        above(
            "Simple, Deviation and Divergence take less time than all others",
            paired(together(fastest, max), together(rest, min)),
            side="less",
        ),
        above(
            "Pseudo takes more time than all others",
            paired(
                look.of("share", "pseudo_label"),
                together(look.each("share", without("pseudo_label")), max),
            ),
        ),
    ]
    return _claim(
        "S7",
        "At 9 epochs every method takes less than half of the training time; Simple, Deviation "
        "and Divergence are fastest, Pseudo is slowest.",
        statements,
        note="Seconds on the machine that ran this; how long training is decides the shares.",
    )


def _s8(study: Study) -> Claim:
    look, low = Look(study), without(*KEPT)
    statements = [
        above(
            f"{_name(m)}, 9 epochs: AUC below the original's",
            look.over("auc", m, "original"),
            side="less",
        )
        for m in EVERY
    ]
    statements.append(
        above(
            "Distillation, Pseudo, Simple and Deviation all have a higher AUC than the others",
            paired(together(look.each("auc", KEPT), min), together(look.each("auc", low), max)),
        )
    )
    statements += [look.near("auc", m, 0.5, "AUC about 0.5") for m in low]
    gaps = {m: {r: abs(v - 0.5) for r, v in look.of("auc", m).items()} for m in EVERY}
    rest = [gaps[m] for m in without("pruning")]
    statements.append(
        above(
            "Pruning's AUC is nearer to 0.5 than every other's",
            paired(gaps["pruning"], together(rest, min)),
            side="less",
        )
    )
    return _claim(
        "S8",
        "At 9 epochs the attack's AUC is below the original's for every method, about 0.5 for "
        "Rotate, Pruning, Gradient and Divergence, nearest for Pruning, and higher for "
        "Distillation, Pseudo, Simple and Deviation.",
        statements,
        note="An AUC near 0.5 may come of lost accuracy alone.",
    )


def _s9(study: Study) -> Claim:
    look, short = Look(study, target="red"), Look(study, SHORT, "red")

    def apart(at: Look) -> dict[Repeat, float]:
        return {r: abs(v - 1) for r, v in at.of("ratio", "divergence").items()}

    statements = [look.near("ratio", m, 1.0, "forget/validation about 1") for m in NEAR]
    statements += [look.near("auc", m, 0.5, "AUC about 0.5") for m in NEAR]
    statements += [
        above(
            "Divergence, red: forget nearer to validation at 5 epochs than at 9",
            paired(apart(short), apart(look)),
            side="less",
        ),
        _wider(study, "ratio", "the ratio varies more on red than on random forget sets"),
        _wider(study, "auc", "AUC varies more on red than on random forget sets"),
    ]
    return _claim(
        "S9",
        "On the red forget set the methods behave the same but vary more: Rotate and Pruning have "
        "a ratio of about 1 and an AUC of about 0.5; Divergence does best at 5 epochs.",
        statements,
        note="Red records are not spread over the classes as validation records are: a ratio other "
        "than 1 is no sign of memory, and the margin says how far retraining itself is from 1.",
    )


def _wider(study: Study, metric: str, what: str) -> Statement:
    """Test, over methods, whether numbers vary more on red forget sets than on random ones."""
    ratios = []
    for m in EVERY:
        red = list(Look(study, target="red").of(metric, m).values())
        random = list(Look(study).of(metric, m).values())
        if min(len(red), len(random)) > 1 and not (agree(red) or agree(random)):
            ratios.append(math.log(variance(red) / variance(random)))
    found = above(f"9 epochs: {what}", ratios)
    return replace(found, test="t test of log ratios of variances, over methods")


def _s10(study: Study) -> Claim:
    look = Look(study)
    scores = {m: _score(look, m) for m in EVERY}
    best, rest = [scores[m] for m in BEST], [scores[m] for m in without(*BEST)]
    divergence = look.of("ratio", "divergence")
    statements = [
        above(
            "Rotate, Pruning and Divergence all have a lower sum of losses than all others",
            paired(together(best, max), together(rest, min)),
            side="less",
        )
    ]
    statements += [
        varies_more(
            f"Divergence's ratio varies more than {_name(m)}'s",
            *both(divergence, look.of("ratio", m)),
        )
        for m in NEAR
    ]
    return _claim(
        "S10",
        "The best trade-off overall is that of Rotate, Pruning and Divergence, Divergence with "
        "high variability.",
        statements,
        note="The paper names no score. Ours, at 9 epochs, is the sum of four shares: the ratio's "
        "distance from 1, validation accuracy lost, twice the AUC's distance from 0.5, and time.",
    )


def _score(look: Look, method: str) -> dict[Repeat, float]:
    """Return what a method loses, the less the better: forgetting, utility, privacy and time."""
    ratio, auc, share = (look.of(metric, method) for metric in ("ratio", "auc", "share"))
    val, before = look.of("val", method), look.of("val", "original")
    return {
        r: abs(ratio[r] - 1) + max(0.0, 1 - val[r] / before[r]) + 2 * abs(auc[r] - 0.5) + share[r]
        for r in ratio
        if all(r in numbers for numbers in (auc, share, val, before)) and before[r] > 0
    }


CLAIMS: tuple[Callable[[Study], Claim], ...] = (
    _s1, _s2, _s3, _s4, _s5, _s6, _s7, _s8, _s9, _s10,
)  # fmt: skip
