"""Conditions that fail a pipeline: `loss_attack.auc>0.6`."""

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from expunge.config import suggest
from expunge.subject import Refused

COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
FORM = re.compile(r"\s*(\w+)\.(\S+?)\s*(>=|<=|>|<)\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*")


class Gate(NamedTuple):
    """One condition on one value of one audit, for the unlearned model."""

    audit: str
    value: str
    sign: str
    bound: float

    def holds(self, values: Mapping[str, Mapping[str, float | None]]) -> bool:
        """Return whether the condition holds, which is a failure.

        Raises:
            Refused: When there is no such value, or it is not a number.
        """
        if self.audit not in values:
            raise Refused(f"--fail-if: {self.audit} does not apply to these records")
        found = values[self.audit]
        if self.value not in found:
            raise Refused(f"--fail-if: {suggest(self.value, found, f'value of {self.audit}')}")
        number = found[self.value]
        if number is None or number != number:
            raise Refused(
                f"--fail-if: {self.audit}.{self.value} is not a number here, so the gate "
                "cannot be judged; drop it, or see the finding for why"
            )
        return COMPARE[self.sign](number, self.bound)

    def __str__(self) -> str:
        return f"{self.audit}.{self.value}{self.sign}{self.bound:g}"


def parse(texts: Sequence[str], audits: Sequence[str]) -> list[Gate]:
    """Read conditions such as `loss_attack.auc>0.6`.

    Raises:
        ValueError: When one is not of that form, or names no audit.
    """
    return [_parsed(text, audits) for text in texts]


def _parsed(text: str, audits: Sequence[str]) -> Gate:
    match = FORM.fullmatch(text)
    if match is None:
        raise ValueError(
            f"--fail-if: expected AUDIT.VALUE, one of > >= < <=, and a number, as in "
            f"'loss_attack.auc>0.6', got '{text}'"
        )
    audit, value, sign, bound = match.groups()
    if audit not in audits:
        raise ValueError(f"--fail-if: {suggest(audit, audits, 'audit')}")
    try:
        return Gate(audit, value, sign, float(bound))
    except ValueError:
        raise ValueError(f"--fail-if: '{bound}' is not a number in '{text}'") from None
