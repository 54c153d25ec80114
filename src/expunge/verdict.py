"""From findings to one plain-language verdict on an unlearned model.

The rule, over the audits whose card says that they decide:

1. If any of them still finds the records, the model `leaks`.
2. Otherwise, if any finds them treated unlike records that were never seen, the model is
   `over-unlearned`: that too tells who asked for deletion.
3. Otherwise, if any that would have found them in the original finds nothing, the records
   are `forgotten` as far as these audits can tell.
4. Otherwise one `cannot tell`.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from expunge.audit import Finding

Kind = Literal["forgotten", "leaks", "over-unlearned", "cannot tell", "failed"]


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

    def saying(*verdicts: str) -> list[str]:
        return [f.audit.card.name for f in deciding if f.verdict in verdicts]

    leaks, overshoots = saying("leaks"), saying("overshoots")
    clean, blind = saying("like retraining", "like never trained"), saying("cannot tell")
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
