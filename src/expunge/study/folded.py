"""Records of one file share what they repeat: the arrays of a control that several were set beside.

A retrained model's ROC curves are the same in the record of every method. The first record has
them whole; in those that follow, `{"same": <hash>}` stands in their place.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from expunge.config import key

SAME = "same"
LEAST = 500  # characters of JSON that are worth a reference

Answer = dict[str, Any]


def fold(record: Mapping[str, Any], seen: set[str]) -> dict[str, Any]:
    """Return the record without the arrays that are in `seen`, to which it adds its own."""

    def once(answer: Answer) -> Answer:
        name = _name(answer)
        if name in seen:
            return answer | {"arrays": {SAME: name}}
        seen.update([name] if name else [])
        return answer

    return _each(record, once)


def unfold(record: Mapping[str, Any], whole: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the record with every array in its place.

    Args:
        record: As it was read.
        whole: Arrays of the records before it in the file, to which it adds its own.
        where: It stands, for an error.

    Raises:
        ValueError: Where the record that has an array whole is not among those before.
    """

    def given(answer: Answer) -> Answer:
        arrays = answer.get("arrays") or {}
        if set(arrays) != {SAME}:
            if name := _name(answer):
                whole[name] = arrays
            return answer
        if arrays[SAME] not in whole:
            raise ValueError(
                f"{where}: a record that shares arrays with one that is not before it in the "
                "file; lines were probably removed or sorted: take the file that `expunge run` "
                "wrote"
            )
        return answer | {"arrays": whole[arrays[SAME]]}

    return _each(record, given)


def _name(answer: Answer) -> str:
    """Return the hash of an answer's arrays; nothing where they are not worth one."""
    arrays = answer.get("arrays")
    return key(arrays) if arrays and len(json.dumps(arrays)) >= LEAST else ""


def _each(record: Mapping[str, Any], change: Callable[[Answer], Answer]) -> dict[str, Any]:
    """Return the record with every answer of its findings changed."""
    findings = []
    for finding in record["findings"]:
        told = dict(finding)
        for part in ("unlearned", "original"):
            if told.get(part):
                told[part] = change(told[part])
        told["retrained"] = [change(answer) for answer in told.get("retrained") or ()]
        findings.append(told)
    return {**record, "findings": findings}
