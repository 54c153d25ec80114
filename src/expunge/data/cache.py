"""Arrays kept on disk under the hash of what they were made from, and checked when read."""

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

LOG = logging.getLogger(__name__)
CHECKSUM = "sha256"


class Arrays(NamedTuple):
    """What a data set is decoded to.

    Attributes:
        tensors: By name.
        notes: Names of classes and groups, as text.
    """

    tensors: dict[str, Tensor]
    notes: dict[str, str]


def folder() -> Path:
    """Return where decoded data sets are kept: `EXPUNGE_CACHE`, or the user's cache folder."""
    chosen = os.environ.get("EXPUNGE_CACHE")
    shared = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return (Path(chosen) if chosen else Path(shared) / "expunge").expanduser()


def remembered(path: Path, make: Callable[[], Arrays]) -> Arrays:
    """Return the arrays kept at `path`, or make and keep them.

    A file that cannot be read, or does not have the content it had when written, is set aside
    with a warning and made anew. Where the folder cannot be written the arrays are not kept.
    """
    found = _read(path)
    if found is not None:
        return found
    made = make()
    try:
        _write(path, made)
    except (OSError, SafetensorError) as error:
        LOG.warning("decoded data not kept: %s; set EXPUNGE_CACHE to a folder with room", error)
    return made


def _read(path: Path) -> Arrays | None:
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as kept:
            notes = dict(kept.metadata() or {})
            tensors = {name: kept.get_tensor(name) for name in kept.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        return _set_aside(path, str(error))
    if notes.pop(CHECKSUM, None) != _checksum(tensors, notes):
        return _set_aside(path, "its checksum differs")
    return Arrays(tensors, notes)


def _set_aside(path: Path, reason: str) -> None:
    aside = path.with_suffix(".corrupt")
    path.replace(aside)
    LOG.warning(
        "cached data %s is damaged (%s): set aside as %s, decoding anew", path, reason, aside.name
    )


def _write(path: Path, arrays: Arrays) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in arrays.tensors.items()}
    notes = arrays.notes | {CHECKSUM: _checksum(tensors, arrays.notes)}
    # Renamed when whole: a reader, or a second writer, never meets half a file.
    handle, unfinished = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        save_file(tensors, unfinished, notes)
        os.fsync(handle)
        Path(unfinished).replace(path)
    finally:
        os.close(handle)
        Path(unfinished).unlink(missing_ok=True)


def _checksum(tensors: Mapping[str, Tensor], notes: Mapping[str, str]) -> str:
    whole = hashlib.sha256()
    for name in sorted(notes):
        whole.update(f"{name}={notes[name]}\0".encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        whole.update(tensor.contiguous().numpy().data)
    return whole.hexdigest()


def content(files: list[Path]) -> str:
    """Return a hash of what is in `files`, in their order, whatever their names."""
    whole = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            whole.update(hashlib.file_digest(handle, "sha256").digest())
    return whole.hexdigest()
