"""From findings to one plain-language verdict on an unlearned model.

The rule, over the audits whose card says that they decide and that could have told the
original from retrained models:

1. If any of them still finds the records, the model `leaks`.
2. Otherwise, if any finds them treated unlike records that were never seen, the model is
   `over-unlearned`: that too tells who asked for deletion.
3. Otherwise, if any finds nothing, the records are `forgotten` as far as these audits can tell.
4. Otherwise one `cannot tell`.

Of many audits of a model that has forgotten everything one in twenty would object by chance.
So an objection counts for 1 and 2 where Holm's correction over all of them, at 5 %, upholds it;
one that it does not uphold turns `forgotten` into `cannot tell`. How often the rule errs is
measured on models whose truth is known: `docs/results/audits.md`.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from expunge import stats
from expunge.audit import Finding

Kind = Literal["forgotten", "leaks", "over-unlearned", "cannot tell", "failed"]
RULE = 2  # raised by hand when the rule changes; part of every kept record's key
OBJECTIONS = ("leaks", "overshoots")


class Verdict(NamedTuple):
    """What the findings say together.

    Attributes:
        kind: In one or two words.
        sentence: In plain language, with the audits that decided.
    """

    kind: Kind
    sentence: str


def decide(findings: Sequence[Finding]) -> Verdict:
    """Return the verdict on the model that `findings` are about."""
    deciding = [f for f in findings if f.audit.card.decides]
    blind = [f.audit.card.name for f in deciding if f.verdict == "cannot tell"]
    able = [f for f in deciding if f.verdict != "cannot tell"]
    upheld = stats.holm([1.0 if f.p is None else f.p for f in able])

    def saying(*verdicts: str, surely: bool) -> list[str]:
        pairs = zip(able, upheld, strict=True)
        return [f.audit.card.name for f, sure in pairs if f.verdict in verdicts and sure == surely]

    leaks, overshoots = (saying(name, surely=True) for name in OBJECTIONS)
    unsure = saying(*OBJECTIONS, surely=False)
    clean = [f.audit.card.name for f in able if f.verdict not in OBJECTIONS]
    silent = f" {_join(blind)} could not tell." if blind else ""
    if leaks:
        return Verdict(
            "leaks",
            f"The records still show: {_join(leaks)} found them as in the original." + silent,
        )
    if overshoots:
        return Verdict(
            "over-unlearned",
            f"The records are treated unlike ones never seen: {_join(overshoots)} lies beyond "
            "retraining, away from the original, which itself can give them away." + silent,
        )
    if unsure:
        return Verdict(
            "cannot tell",
            f"{_join(unsure)} objected, but by chance one of {len(able)} audits may; more "
            "retrained models or more records would settle it." + silent,
        )
    if clean:
        compared = any(f.retrained for f in deciding)
        how = "like retraining" if compared else "like records never trained on"
        return Verdict(
            "forgotten",
            f"No sign of the records: {_join(clean)} answered {how}, and would have found "
            "them in the original. Stronger audits may still." + silent,
        )
    return Verdict(
        "cannot tell",
        "None of the audits could tell even the original from a model that never saw the "
        "records, or there was no control to tell it by.",
    )


def _join(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
