"""Conditions that fail a pipeline: `loss_attack.auc>0.6`."""

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from expunge.config import suggest

COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


class Gate(NamedTuple):
    """One condition on one value of one audit, for the unlearned model."""

    audit: str
    value: str
    sign: str
    bound: float

    def holds(self, values: Mapping[str, Mapping[str, float | None]]) -> bool:
        """Return whether the condition holds, which is a failure.

        Raises:
            ValueError: When the audit gave no such value, or not a number.
        """
        found = values[self.audit]
        if self.value not in found:
            raise ValueError(f"--fail-if: {suggest(self.value, found, f'value of {self.audit}')}")
        number = found[self.value]
        if number is None or number != number:
            raise ValueError(
                f"--fail-if: {self.audit}.{self.value} is not a number here, so the gate "
                "cannot be judged; see the finding's statement"
            )
        return COMPARE[self.sign](number, self.bound)

    def __str__(self) -> str:
        return f"{self.audit}.{self.value}{self.sign}{self.bound:g}"


def parse(texts: Sequence[str], audits: Sequence[str]) -> list[Gate]:
    """Read conditions such as `loss_attack.auc>0.6`.

    Raises:
        ValueError: When one is not of that form, or names no audit.
    """
    gates = []
    for text in texts:
        match = re.fullmatch(r"\s*(\w+)\.(\S+?)\s*(>=|<=|>|<)\s*([-+.\deE]+)\s*", text)
        if match is None:
            raise ValueError(f"--fail-if: expected AUDIT.VALUE>NUMBER, got '{text}'")
        audit, value, sign, bound = match.groups()
        if audit not in audits:
            raise ValueError(f"--fail-if: {suggest(audit, audits, 'audit')}")
        try:
            gates.append(Gate(audit, value, sign, float(bound)))
        except ValueError:
            raise ValueError(f"--fail-if: '{bound}' is not a number in '{text}'") from None
    return gates
