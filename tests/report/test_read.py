import json
import re

import pytest

from expunge.study import table
from tests.report import made


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


def test_reads_files_and_folders_and_counts_a_repeated_record_once(tmp_path):
    one, two = made.record(seed=0), made.record(seed=1)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "records.jsonl").write_text(lines(one, two) + "\n")
    (tmp_path / "copy.jsonl").write_text(lines(one))
    assert [r["seed"] for r in table.read([tmp_path])] == [0, 1]
    assert table.read([tmp_path / "copy.jsonl"]) == [json.loads(lines(one))]


def test_models_that_were_brought_along_have_no_key_and_stay_apart(tmp_path):
    both = [made.record(seed=seed) | {"key": ""} for seed in (0, 1)]
    (tmp_path / "records.jsonl").write_text(lines(*both))
    assert len(table.read([tmp_path])) == 2


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"schema": 1, "key": "ab', "line 2: not JSON"),
        ("[1, 2]", "line 2: JSON, but not a record"),
        ('{"loss": 0.5}', "line 2: JSON, but not a record"),
        (lines(made.record() | {"schema": 9}), "line 2: a record of schema 9"),
        (lines(made.record() | {"findings": None}), "line 2: .* 'findings'"),
    ],
)
def test_a_foreign_line_is_named(tmp_path, line, words):
    file = tmp_path / "records.jsonl"
    file.write_text(lines(made.record()) + line)
    with pytest.raises(ValueError, match=f"{re.escape(str(file))}, {words}"):
        table.read([file])


def test_nothing_to_read_says_what_to_give(tmp_path):
    with pytest.raises(ValueError, match=r"no records in .*expunge run"):
        table.read([tmp_path])
    with pytest.raises(ValueError, match="there is no file or folder"):
        table.read([tmp_path / "nowhere"])
    (tmp_path / "x.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not text"):
        table.read([tmp_path / "x.jsonl"])
