"""What records share is written once, and read as if it had been written every time."""

import json
from pathlib import Path

import pytest

from expunge.study.folded import fold, unfold
from expunge.study.read import read
from tests.report.made import record


def answered(name: str, curve: list[float], control: list[float]) -> dict:
    told = record()
    answer = {"values": {"auc": 0.5}, "arrays": {"roc": control}}
    told["findings"] = [
        {
            "audit": "lira",
            "unlearned": {"values": {"auc": 0.6}, "arrays": {"roc": curve}},
            "original": answer,
            "retrained": [answer, {"values": {"auc": 0.4}, "arrays": {}}],
        }
    ]
    return told | {"key": name}


CONTROL = [i / 7 for i in range(200)]


def test_repeated_arrays_are_written_once_and_read_back_whole(tmp_path: Path) -> None:
    records = [
        answered("a", [1.0, 2.0], CONTROL),
        answered("b", [i / 3 for i in range(200)], CONTROL),
        answered("c", [1.0, 2.0], CONTROL[:-1]),
    ]
    seen: set[str] = set()
    folded = [fold(record, seen) for record in records]
    (first,), (second,), (third,) = (told["findings"] for told in folded)
    assert first["original"]["arrays"] == {"roc": CONTROL}
    assert set(first["retrained"][0]["arrays"]) == {"same"}  # within one record too
    assert set(second["original"]["arrays"]) == {"same"}
    assert second["unlearned"]["arrays"]["roc"] == [i / 3 for i in range(200)]
    assert third["unlearned"]["arrays"] == {"roc": [1.0, 2.0]}  # not worth a reference
    assert third["original"]["arrays"] == {"roc": CONTROL[:-1]}
    file = tmp_path / "records.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in folded))
    assert read([file]) == [json.loads(json.dumps(told)) for told in records]
    assert records[0]["findings"][0]["retrained"][0]["arrays"] == {"roc": CONTROL}  # untouched


def test_a_line_whose_arrays_were_on_a_line_that_is_gone_is_refused(tmp_path: Path) -> None:
    seen: set[str] = set()
    folded = [fold(answered(name, [], CONTROL), seen) for name in "ab"]
    file = tmp_path / "records.jsonl"
    file.write_text(json.dumps(folded[1]) + "\n")
    with pytest.raises(ValueError, match=r"line 1: a record that shares arrays.*`expunge run`"):
        read([file])
    assert unfold(folded[0], {}, "") == answered("a", [], CONTROL)
