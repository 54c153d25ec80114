"""The store: whole or absent, checked when read, shared by processes."""

import errno
import json
import logging
import multiprocessing
import os
import time
from pathlib import Path

import pytest
import torch

from expunge.bench.store import Artifact, Store, probe, write_text

KEY = "0123456789abcdef" * 4


def artifact(value: float = 1.0) -> Artifact:
    return Artifact({"w": torch.full((3, 2), value)}, {"cost": {"forward": 3}})


def filled(root: Path) -> Store:
    store = Store(root / "store")
    store.put("models", KEY, artifact())
    return store


def test_what_was_put_is_got(tmp_path: Path) -> None:
    store = filled(tmp_path)
    found = store.get("models", KEY)
    assert store.has("models", KEY)
    assert found is not None
    assert torch.equal(found.tensors["w"], artifact().tensors["w"])
    assert found.facts == {"cost": {"forward": 3}}
    assert store.size() > 0


def test_what_is_absent_is_none_and_makes_no_folder(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    assert store.get("models", KEY) is None
    assert not store.has("models", KEY)
    store.sweep()
    assert store.size() == 0
    assert not (tmp_path / "store").exists()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def lose(file: Path) -> None:
    file.unlink()


def empty(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("harm", [cut, flip, lose, empty])
@pytest.mark.parametrize("name", ["facts.json", "tensors.safetensors", "manifest.json"])
def test_damage_is_noticed_named_and_set_aside(
    harm: object, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = filled(tmp_path)
    folder = store.folder("models", KEY)
    assert callable(harm)
    harm(folder / name)
    with caplog.at_level(logging.WARNING):
        assert store.get("models", KEY) is None
    assert str(folder) in caplog.text
    assert "damaged" in caplog.text
    assert "computed again" in caplog.text
    (aside,) = (store.root / "damaged").glob(f"models-*/{folder.name}")
    assert aside.is_dir()
    assert not folder.exists()
    store.put("models", KEY, artifact())
    assert store.get("models", KEY) is not None


@pytest.mark.parametrize("text", ["[]", "{}", "3", '{"facts.json": 1, "../x": 2}'])
def test_a_manifest_of_another_form_is_damage(text: str, tmp_path: Path) -> None:
    store = filled(tmp_path)
    (store.folder("models", KEY) / "manifest.json").write_text(text)
    assert store.get("models", KEY) is None


def test_every_single_bit_counts(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number in range(0, 400, 7):
        key = f"{number:064}"
        store.put("models", key, artifact())
        folder = store.folder("models", key)
        files = sorted(folder.iterdir())
        file = files[number % len(files)]
        content = bytearray(file.read_bytes())
        bit = number * 31 % (8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
        file.write_bytes(content)
        assert store.get("models", key) is None, (file, bit)


def test_a_twin_that_was_written_meanwhile_stays(tmp_path: Path) -> None:
    store = filled(tmp_path)
    inode = store.folder("models", KEY).stat().st_ino
    store.put("models", KEY, artifact(2.0))
    assert store.folder("models", KEY).stat().st_ino == inode
    assert not list(store.root.glob("*/.draft-*"))


def test_young_drafts_belong_to_others_and_old_ones_to_nobody(tmp_path: Path) -> None:
    store = filled(tmp_path)
    young, old = (store.root / "models" / f".draft-{name}" for name in ("young", "old"))
    for draft in (young, old):
        draft.mkdir()
        (draft / "facts.json").write_text("{}")
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(old, (two_days_ago, two_days_ago))
    store.sweep()
    assert young.exists()
    assert not old.exists()
    assert store.get("models", KEY) is not None


def hammer(root: Path, seed: int, failed: "multiprocessing.Queue[str]") -> None:
    """Put, get, damage and sweep the same few keys as other processes do."""
    logging.disable()
    store = Store(root)
    draws = torch.Generator().manual_seed(seed)
    for _ in range(60):
        key = f"{int(torch.randint(0, 3, (), generator=draws)):064}"
        try:
            store.sweep()
            store.put("models", key, artifact())
            found = store.get("models", key)
            if found is not None and not torch.equal(found.tensors["w"], artifact().tensors["w"]):
                failed.put("read what was not written")
            if torch.rand((), generator=draws) < 0.2:
                (store.folder("models", key) / "manifest.json").unlink(missing_ok=True)
        except OSError as error:
            failed.put(repr(error))


def test_processes_share_a_store(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    failed: multiprocessing.Queue[str] = fork.Queue()
    workers = [fork.Process(target=hammer, args=(tmp_path, seed, failed)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    assert failed.empty(), failed.get()
    assert not list(tmp_path.glob("*/.draft-*"))


def test_a_full_disk_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    store = Store(tmp_path / "store")
    with pytest.raises(OSError, match=r"is full .* free some space"):
        store.put("models", KEY, artifact())
    with pytest.raises(OSError, match="is full"):
        write_text(tmp_path / "records.jsonl", "{}")
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]
    assert not list(store.root.glob("*/.draft-*"))


def test_text_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "records.jsonl"
    write_text(file, "old")

    def fails(*names: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fails)
        with pytest.raises(OSError, match="Input"):
            write_text(file, "new")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]
    write_text(file, "new")
    assert file.read_text() == "new"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("file", "part of this path is a file"),
        ("file/deep/down", "part of this path is a file"),
        ("n" * 300, "shorter name"),
    ],
)
def test_probing_refuses_what_cannot_be_written(path: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(OSError, match=said):
        probe(tmp_path / path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_probing_leaves_nothing(tmp_path: Path) -> None:
    probe(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc here")
def test_probing_a_place_where_nothing_can_be_made() -> None:
    with pytest.raises(OSError, match="cannot write to /proc/store"):
        probe(Path("/proc/store"))


def test_facts_are_plain_json(tmp_path: Path) -> None:
    folder = filled(tmp_path).folder("models", KEY)
    assert json.loads((folder / "facts.json").read_text()) == {"cost": {"forward": 3}}
    names = sorted(p.name for p in folder.iterdir())
    assert names == ["facts.json", "manifest.json", "tensors.safetensors"]
