"""A content-addressed folder: what was computed once is never computed again.

An artifact is a folder of safetensors and JSON with a manifest of checksums. It is
written under a temporary name, flushed, and renamed, so that it is whole or absent
whenever the process dies. It is read only if every checksum holds.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from safetensors.torch import load, save
from torch import Tensor

from expunge.types import Json

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
ABANDONED = 24 * 3600  # seconds after which a draft belongs to no living process


class Artifact(NamedTuple):
    """What a stage leaves behind: named tensors and plain facts."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Json]


class Damaged(RuntimeError):
    """An artifact whose files are not those that were written."""


@dataclass(frozen=True)
class Store:
    """Artifacts by kind and key.

    Attributes:
        root: A folder; it is made when something is first written.
    """

    root: Path

    def folder(self, kind: str, key: str) -> Path:
        """Return where the artifact is, or would be."""
        return self.root / kind / key[:32]

    def has(self, kind: str, key: str) -> bool:
        """Return whether the artifact is there; its content is checked when it is read."""
        return (self.folder(kind, key) / MANIFEST).is_file()

    def get(self, kind: str, key: str) -> Artifact | None:
        """Return the artifact; None if it is absent, or damaged and now set aside."""
        folder = self.folder(kind, key)
        if not folder.is_dir():
            return None
        try:
            return _read(folder)
        except Damaged as error:
            with suppress(FileNotFoundError):  # set aside by another process meanwhile
                aside = self._set_aside(folder)
                log.warning("%s; it was moved to %s and will be computed again", error, aside)
            return None

    def put(self, kind: str, key: str, artifact: Artifact) -> None:
        """Write the artifact, whole or not at all; a twin written meanwhile stays.

        Raises:
            OSError: With the remedy, where the folder cannot be written or is full.
        """
        folder = self.folder(kind, key)
        with guarded(self.root):
            folder.parent.mkdir(parents=True, exist_ok=True)
            draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=folder.parent))
            try:
                _write(draft, artifact)
                _settle(draft, folder)
            finally:
                if draft.exists():
                    shutil.rmtree(draft)

    def sweep(self) -> None:
        """Remove drafts that killed processes left behind.

        A draft is written in seconds. Younger ones may be those of a process that is
        computing now, here or on another machine that shares the folder.
        """
        for draft in self.root.glob("*/.draft-*"):
            with suppress(FileNotFoundError):  # swept by another process meanwhile
                if time.time() - draft.stat().st_mtime > ABANDONED:
                    shutil.rmtree(draft, ignore_errors=True)

    def size(self) -> int:
        """Return the bytes held."""
        return sum(f.stat().st_size for f in self.root.rglob("*") if f.is_file())

    def _set_aside(self, folder: Path) -> Path:
        aside = self.root / "damaged"
        aside.mkdir(parents=True, exist_ok=True)
        target = Path(tempfile.mkdtemp(prefix=f"{folder.parent.name}-{folder.name}-", dir=aside))
        return folder.rename(target / folder.name)


REMEDY = {
    errno.EACCES: "choose another folder or change its permissions",
    errno.EPERM: "choose another folder or change its permissions",
    errno.EROFS: "choose a folder that is not mounted read-only",
    errno.ENOTDIR: "choose a folder; part of this path is a file",
    errno.EEXIST: "choose a folder; this is a file",
    errno.ENOENT: "choose another folder; none can be made there",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), or choose another folder",
}


class guarded:
    """Say what to do where a folder cannot be written, or a disk is full."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> None:
        """Begin to write."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Give the error its remedy."""
        if not isinstance(error, OSError):
            return
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(_existing(self.folder)).free
            raise OSError(
                errno.ENOSPC,
                f"the disk of {self.folder} is full ({free:,} bytes free); free some space or "
                "choose another folder. What was finished is kept: run the command again",
            ) from error
        if error.errno in REMEDY:
            raise OSError(
                error.errno,
                f"cannot write to {self.folder} ({os.strerror(error.errno).lower()}); "
                f"{REMEDY[error.errno]}",
            ) from error


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    with guarded(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(prefix=".draft-", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(draft, 0o644)
            os.replace(draft, path)
        except BaseException:
            Path(draft).unlink(missing_ok=True)
            raise


def probe(folder: Path) -> None:
    """Refuse a folder that could not be written, and leave nothing behind.

    Raises:
        OSError: With the remedy.
    """
    with guarded(folder), tempfile.TemporaryFile(dir=_existing(folder)):
        pass


def _settle(draft: Path, folder: Path) -> None:
    """Give a draft its name, unless a twin took it first."""
    try:
        draft.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    else:
        _flush(folder.parent)


def _existing(folder: Path) -> Path:
    return next(p for p in (folder, *folder.parents, Path.cwd()) if p.exists())


def _write(folder: Path, artifact: Artifact) -> None:
    contents = {"facts.json": json.dumps(artifact.facts).encode()}
    if artifact.tensors:
        whole = {k: v.detach().cpu().contiguous() for k, v in artifact.tensors.items()}
        contents["tensors.safetensors"] = save(whole)
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    contents[MANIFEST] = json.dumps(sums, sort_keys=True).encode()
    for name, content in contents.items():
        with (folder / name).open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    folder.chmod(0o755)


def _read(folder: Path) -> Artifact:
    def content(name: str) -> bytes:
        try:
            return (folder / name).read_bytes()
        except FileNotFoundError as error:
            raise Damaged(f"{folder / name} is missing") from error

    try:
        sums = json.loads(content(MANIFEST))
    except ValueError as error:
        raise Damaged(f"{folder / MANIFEST} is not JSON") from error
    if not isinstance(sums, dict) or "facts.json" not in sums:
        raise Damaged(f"{folder / MANIFEST} is not a list of checksums")
    contents = {name: content(name) for name in sums}
    for name, expected in sums.items():
        if hashlib.sha256(contents[name]).hexdigest() != expected:
            raise Damaged(f"{folder / name} does not have the checksum it was written with")
    tensors = load(contents["tensors.safetensors"]) if "tensors.safetensors" in contents else {}
    return Artifact(tensors, json.loads(contents["facts.json"]))


def _flush(folder: Path) -> None:
    """Make a rename last: it is an entry of the folder, which has a buffer of its own."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
