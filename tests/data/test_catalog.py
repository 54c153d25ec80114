"""Named data sets: the same rows whatever way they come, kept, checked, and explained."""

import json
import logging
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from expunge import registry
from expunge.config import plain
from expunge.data.catalog import TABLE
from expunge.data.named import Named
from expunge.types import Sets
from tests.data.conftest import png


def write(path: Path, columns: dict[str, Any], features: dict[str, Any]) -> None:
    """Write parquet in the hub's schema, in two files where there are rows for two."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = len(next(iter(columns.values())))
    halves = (slice(0, rows // 2), slice(rows // 2, rows)) if rows > 1 else (slice(0, rows),)
    for part, cut in enumerate(halves):
        arrays = {}
        for name, column in columns.items():
            image = features[name]["_type"] == "Image"
            kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())]) if image else None
            arrays[name] = pa.array(column[cut], kind)
        table = pa.table(arrays)
        info = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": info})
        pq.write_table(table, path.with_name(f"{path.name}-{part:05d}-of-00002.parquet"))


def names(*classes: str) -> dict[str, Any]:
    return {"names": list(classes), "_type": "ClassLabel"}


TEXT = {"dtype": "string", "_type": "Value"}


def cifar100(root: Path) -> list:
    pictures = [png(i, 32) for i in range(30)]
    features = {
        "img": {"_type": "Image"},
        "fine_label": names(*"abcdef"),
        "coarse_label": names("low", "high"),
    }
    for split, start in (("train", 0), ("test", 20)):
        chosen = range(start, start + (20 if split == "train" else 10))
        columns = {
            "img": [{"bytes": pictures[i][0], "path": None} for i in chosen],
            "fine_label": [i % 6 for i in chosen],
            "coarse_label": [i % 6 // 3 for i in chosen],
        }
        write(root / "cifar100" / split, columns, features)
    return pictures


def load(name: str, **settings: Any) -> Sets:
    return registry.data.build({"name": name, **settings}).load()


def test_images_decode_to_their_pixels_with_their_classes(tmp_path: Path) -> None:
    pictures = cifar100(tmp_path)
    sets = load("cifar100", root=str(tmp_path))
    stored = sets.train.read(torch.arange(20))
    assert stored.x.dtype == torch.uint8
    assert all((stored.x[i].numpy() == pictures[i][1]).all() for i in range(20))
    assert stored.y.tolist() == [i % 6 for i in range(20)]
    assert sets.test.read(torch.tensor([9])).x[0].numpy().tolist() == pictures[29][1].tolist()
    assert sets.classes == tuple("abcdef")
    assert sets.groups["coarse_label"][:4] == ("low", "low", "low", "high")


def test_another_column_can_be_the_class_and_images_can_shrink(tmp_path: Path) -> None:
    cifar100(tmp_path)
    coarse = load("cifar100", root=str(tmp_path), label="coarse_label", side=8)
    assert coarse.classes == ("low", "high")
    assert coarse.train.shape == (3, 8, 8)
    assert coarse.groups["fine_label"][4] == "e"


def test_texts_become_rows_of_length_1_without_looking_at_each_other(tmp_path: Path) -> None:
    features = {"text": TEXT, "label": names("neg", "pos")}
    texts = ["good film", "bad film", "good good film", "awful"]
    for split in ("train", "test"):
        write(tmp_path / "imdb" / split, {"text": texts, "label": [1, 0, 1, 0]}, features)
    sets = load("imdb", root=str(tmp_path), features=64)
    x = sets.train.read(torch.arange(4)).x
    assert x.shape == (4, 64)
    assert x.dtype == torch.float32
    assert torch.allclose(x.norm(dim=1), torch.ones(4))
    assert torch.equal(x, sets.test.read(torch.arange(4)).x)
    assert sets.classes == ("neg", "pos")


def test_of_many_topics_only_records_of_one_known_topic_are_kept(tmp_path: Path) -> None:
    many = {"feature": TEXT, "_type": "List"}
    features = {"text": TEXT, "title": TEXT, "topics": many}
    topics = {
        "train": [["earn"], ["acq"], ["earn", "acq"], ["earn"]],
        "test": [["acq"], ["rice"], [], ["earn"]],
    }
    for split, column in topics.items():
        columns = {"text": ["a", "b", "c", "d"], "title": ["t"] * 4, "topics": column}
        write(tmp_path / "reuters" / split, columns, features)
    sets = load("reuters", root=str(tmp_path), features=32)
    assert sets.classes == ("acq", "earn")
    assert sets.train.y.tolist() == [1, 0, 1]
    assert sets.test.y.tolist() == [0, 1]


def test_running_text_asks_for_the_next_word_of_the_training_vocabulary(tmp_path: Path) -> None:
    lines = {"train": ["a b a", "a c"], "validation": ["a z"], "test": ["b a", "c"]}
    for split, sentences in lines.items():
        write(tmp_path / "ptb" / split, {"sentence": sentences}, {"sentence": TEXT})
    sets = load("ptb", root=str(tmp_path), length=3)
    # By frequency: a 3, <eos> 2, b 1, c 1, <unk> 0; text: a b a . a c .
    train = sets.train.read(torch.arange(2))
    assert train.x.tolist() == [[0, 2, 0], [1, 0, 3]]
    assert train.y.tolist() == [[2, 0, 1], [0, 3, 1]]
    assert sets.test.read(torch.arange(2)).x.tolist() == [[0, 4, 1], [2, 0, 1]]
    assert sets.classes == ()
    few = load("ptb", root=str(tmp_path), length=3, vocabulary=3)
    # a 3, <eos> 2, <unk> 0: all others are unknown.
    assert few.train.read(torch.arange(2)).x.tolist() == [[0, 2, 0], [1, 0, 2]]
    assert few.test.read(torch.arange(2)).x.tolist() == [[0, 2, 1], [2, 0, 1]]
    with pytest.raises(ValueError, match=r"vocabulary of at least 3, .* got 2"):
        load("ptb", vocabulary=2)


def test_a_set_of_one_split_holds_out_a_fifth_of_every_class(tmp_path: Path) -> None:
    pictures = [png(i, 32) for i in range(20)]
    columns = {
        "image": [{"bytes": stored, "path": None} for stored, _ in pictures],
        "label": [i % 2 for i in range(20)],
    }
    features = {"image": {"_type": "Image"}, "label": names("a", "b")}
    write(tmp_path / "tiny_imagenet32" / "valid", columns, features)
    sets = load("tiny_imagenet32", root=str(tmp_path))
    assert sets.train.y.bincount().tolist() == [8, 8]
    assert sets.test.y.bincount().tolist() == [2, 2]


def photographs(root: Path, splits: dict[str, int], groups: dict[str, Any]) -> None:
    """Write splits of so many photographs of three classes, each of a colour of its own."""
    features = {"image": {"_type": "Image"}, "label": names("a", "b", "c")}
    features |= {name: names("cat", "dog") for name in groups}
    start = 0
    for split, count in splits.items():
        stored = [png(i, 70)[0] for i in range(start, start + count)]
        columns = {
            "image": [{"bytes": one, "path": None} for one in stored],
            "label": [i % 3 for i in range(count)],
        }
        write(root / split, columns | {k: [i % 2 for i in range(count)] for k in groups}, features)
        start += count


def test_pets_come_with_their_kind(tmp_path: Path) -> None:
    photographs(tmp_path / "pet37", {"train": 9, "test": 6}, {"label_cat_dog": 2})
    sets = load("pet37", root=str(tmp_path))
    assert (len(sets.train), len(sets.test), len(sets.classes)) == (9, 6, 3)
    assert sets.groups["label_cat_dog"][:3] == ("cat", "dog", "cat")
    assert sets.train.shape == (3, 64, 64)
    assert load("pet37", root=str(tmp_path), side=224).train.shape == (3, 224, 224)


def test_flowers_have_their_official_splits_either_way_round(tmp_path: Path) -> None:
    photographs(tmp_path / "flowers102", {"train": 6, "validation": 3, "test": 12}, {})
    official = load("flowers102", root=str(tmp_path))
    swapped = load("flowers102_swapped", root=str(tmp_path))
    assert (len(official.train), len(official.test)) == (6, 12)
    assert (swapped.train.digest, swapped.test.digest) == (
        official.test.digest,
        official.train.digest,
    )
    half = load("flowers102_swapped", root=str(tmp_path), scale=0.5).train
    assert half.y.bincount().tolist() == [2, 2, 2]
    seen = {record.numpy().tobytes() for record in half.read(torch.arange(6)).x}
    assert len(seen) == 6  # each once
    with pytest.raises(ValueError, match=r"flowers102/test-\*\.parquet"):
        load("flowers102_swapped", root=str(tmp_path / "elsewhere"))


def test_the_hub_is_asked_for_the_right_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def gone(name: str, *args: Any, **kwargs: Any) -> None:
        asked.append(name)
        raise ConnectionError("gone")

    monkeypatch.setattr("datasets.load_dataset", gone)
    for name in ("pet37", "flowers102", "flowers102_swapped"):
        with pytest.raises(ValueError, match=f"cannot get {name}"):
            load(name)
    assert asked == ["timm/oxford-iiit-pet"] + ["dpdl-benchmark/oxford_flowers102"] * 2


def test_the_second_load_comes_from_the_cache(tmp_path: Path, own_cache: Path, monkeypatch) -> None:
    cifar100(tmp_path)
    first = load("cifar100", root=str(tmp_path))
    monkeypatch.setattr("expunge.data.named.rows", None)  # decoding again would call it
    second = load("cifar100", root=str(tmp_path))
    assert second.train.digest == first.train.digest
    assert second.groups == first.groups
    assert load("cifar100", root=str(tmp_path), scale=0.5).train.y.shape == (10,)
    assert len(list((own_cache / "data").iterdir())) == 1


def test_other_content_is_another_entry(tmp_path: Path) -> None:
    cifar100(tmp_path / "a")
    cifar100(tmp_path / "b")
    target = tmp_path / "b" / "cifar100" / "test-00000-of-00002.parquet"
    table = pq.read_table(target).slice(1)
    pq.write_table(table, target)
    assert len(load("cifar100", root=str(tmp_path / "a")).test) == 10
    assert len(load("cifar100", root=str(tmp_path / "b")).test) == 9


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_cache_is_set_aside_and_made_anew(
    tmp_path: Path, own_cache: Path, caplog, damage: str
) -> None:
    cifar100(tmp_path)
    good = load("cifar100", root=str(tmp_path)).train.digest
    (kept,) = (own_cache / "data").glob("*.safetensors")
    content = bytearray(kept.read_bytes())
    content[-100] ^= 1
    kept.write_bytes({"flip": content, "cut": content[:-5], "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        assert load("cifar100", root=str(tmp_path)).train.digest == good
    assert f"{kept.name} is damaged" in caplog.text
    assert len(list((own_cache / "data").glob("*.corrupt"))) == 1


def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, monkeypatch, caplog
) -> None:
    cifar100(tmp_path)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        assert len(load("cifar100", root=str(tmp_path)).train) == 20
    assert "decoded data not kept" in caplog.text


def test_the_folder_may_come_from_the_environment(tmp_path: Path, monkeypatch) -> None:
    cifar100(tmp_path)
    monkeypatch.setenv("EXPUNGE_DATA", str(tmp_path))
    assert len(load("cifar100").train) == 20


def test_what_cannot_be_loaded_is_said(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(ValueError, match=r"no mnist under .* expected .*train-\*\.parquet"):
        load("mnist", root=str(tmp_path))
    with pytest.raises(ValueError, match="flowers is not on the hub; set EXPUNGE_DATA"):
        load("flowers")
    with pytest.raises(ValueError, match="label column 'coarse'; did you mean 'coarse_label'"):
        load("cifar100", label="coarse")

    def unreachable(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("no route to host\nand more")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    with pytest.raises(
        ValueError, match=r"cannot get svhn .* no route to host. .* EXPUNGE_DATA"
    ) as e:
        load("svhn")
    assert "\n" not in str(e.value)


def test_files_of_another_data_set_are_refused(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write(tmp_path / "cifar10" / split, {"text": ["a", "b"]}, {"text": TEXT})
    with pytest.raises(ValueError, match="has columns text, expected img, label too"):
        load("cifar10", root=str(tmp_path))


def test_every_line_of_the_table_is_a_source_with_a_card() -> None:
    known = registry.data.known()
    for card in TABLE:
        cls = known[card.name]
        assert issubclass(cls, Named)
        assert cls.card is card
        assert card.note
        assert card.source
        source = registry.data.build({"name": card.name})
        assert plain(source)["name"] == card.name
    assert "root" not in plain(registry.data.build({"name": "mnist", "root": "/x"}))


SIZES = {
    "cifar10": (50_000, 10_000, 10),
    "cifar100": (50_000, 10_000, 100),
    "mnist": (60_000, 10_000, 10),
    "tiny_imagenet32": (4_000, 1_000, 200),
    "pet37": (3_680, 3_669, 37),
    "flowers102": (1_020, 6_149, 102),
    "flowers102_swapped": (6_149, 1_020, 102),
    "flowers": (2_582, 850, 89),
    "newsgroups20": (11_270, 7_514, 20),
    "imdb": (12_500, 12_500, 2),
    "customer_reviews": (2_775, 500, 2),
    "reuters": (6_552, 2_568, 59),
    "ptb": (26_559, 4_462, 0),
}
NOTED = ("cifar10", "cifar100", "mnist", "pet37", "flowers102", "flowers102_swapped", "flowers")


@pytest.mark.parametrize("name", NOTED)
def test_a_cards_note_says_how_many_records_there_are(name: str) -> None:
    (card,) = [card for card in TABLE if card.name == name]
    train, test, _ = SIZES[name]
    assert f"{train:,} + {test:,}" in card.note


REAL = os.environ.get("EXPUNGE_DATA")  # read before the fixture hides it


@pytest.mark.slow
@pytest.mark.skipif(not REAL, reason="EXPUNGE_DATA does not name a folder of real data")
@pytest.mark.parametrize("name", SIZES)
def test_real_data_is_read_whole(name: str) -> None:
    if not (Path(REAL or "") / name).is_dir():
        pytest.skip(f"no {name} under EXPUNGE_DATA")
    sets = load(name, root=REAL)
    assert (len(sets.train), len(sets.test), len(sets.classes)) == SIZES[name]
    if name == "cifar10":
        every = sets.train.read(torch.arange(50_000)).x.double() / 255
        mean = every.mean((0, 2, 3))
        assert torch.allclose(mean, torch.tensor([0.4914, 0.4822, 0.4465]).double(), atol=1e-3)
