"""Read the records of a run: one JSON line per unlearned model."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from expunge.study.folded import unfold

SCHEMA = 1

Record = Mapping[str, Any]

_PARTS = {
    "key": str,
    "run": str,
    "data": dict,
    "forget": dict,
    "model": dict,
    "training": dict,
    "method": dict,
    "seed": int,
    "status": str,
    "verdict": dict,
    "findings": list,
    "measured": dict,
}


def read(paths: Iterable[str | Path]) -> list[dict[str, Any]]:
    """Return the records in files, and in the `*.jsonl` files of folders.

    A record that occurs twice, as it does in a run that was resumed or copied, counts
    once: the last one read.

    Args:
        paths: JSON-lines files, or folders that hold some at any depth.

    Raises:
        ValueError: If there are no records, or a line is not one; the message names the
            file and the line.
    """
    paths = [Path(path) for path in paths]
    found: dict[object, dict[str, Any]] = {}
    for file in (file for path in paths for file in _files(path)):
        lines, whole = _text(file).splitlines(), dict[str, Any]()
        for number, line in enumerate(lines, start=1):
            if line.strip():
                where = f"{file}, line {number}"
                record = unfold(parse(line, where), whole, where)
                # A model that was brought along, not made by a stage, has no key.
                found[record["key"] or (file, number)] = record
    if not found:
        places = ", ".join(map(str, paths)) or "no files"
        raise ValueError(
            f"no records in {places}; give a records.jsonl that `expunge run` or "
            "`expunge audit` wrote, or the folder it is in"
        )
    return list(found.values())


def parse(line: str, where: str) -> dict[str, Any]:
    """Return the record on a line, or raise a ValueError that says `where`."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError as fault:
        raise ValueError(
            f"{where}: not JSON ({fault.msg} at column {fault.colno}); the file may be cut "
            "short, so run the command that wrote it again, or remove the line"
        ) from None
    if not isinstance(record, dict) or "schema" not in record:
        raise ValueError(
            f"{where}: JSON, but not a record of expunge: it has no 'schema'; was another "
            "file meant?"
        )
    if record["schema"] != SCHEMA:
        raise ValueError(
            f"{where}: a record of schema {record['schema']!r}, and this version reads "
            f"schema {SCHEMA}; use the version of expunge that wrote it"
        )
    wrong = [name for name, kind in _PARTS.items() if not isinstance(record.get(name), kind)]
    if wrong:
        raise ValueError(
            f"{where}: a record without a proper {', '.join(map(repr, wrong))}; it was "
            "damaged or edited, so run the command that wrote it again"
        )
    return record


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(path.rglob("*.jsonl"))
    if not path.exists():
        raise ValueError(f"there is no file or folder {path}; check the spelling of the path")
    return [path]


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(
            f"{file}: not text, so not records; give a .jsonl file that `expunge run` wrote"
        ) from None
    except OSError as fault:
        raise ValueError(f"cannot read {file}: {fault.strerror}; check its permissions") from None
