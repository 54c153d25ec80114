"""Users' own data, each form from its files to sets, and what is said of bad ones."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import TensorDataset

from expunge import registry
from expunge.data.objects import from_dataset
from expunge.data.streams import StreamData
from expunge.data.tensors import TensorData
from expunge.types import Sets
from tests.data.conftest import png


def load(name: str, **settings: Any) -> Sets:
    return registry.data.build({"name": name, **settings}).load()


def folder(base: Path, classes: dict[str, int], side: int = 8) -> None:
    for number, (name, count) in enumerate(classes.items()):
        (base / name).mkdir(parents=True)
        for i in range(count):
            (base / name / f"{i}.png").write_bytes(png(100 * number + i, side)[0])


def test_an_image_folder_is_held_out_by_class_and_named_by_file(tmp_path: Path) -> None:
    folder(tmp_path / "own", {"cat": 10, "dog": 20})
    sets = load("image_folder", path=str(tmp_path / "own"))
    assert sets.classes == ("cat", "dog")
    assert sets.train.y.bincount().tolist() == [8, 16]
    assert sets.test.y.bincount().tolist() == [2, 4]
    place = sets.ids.index("dog/3.png")
    assert (sets.train.read(torch.tensor([place])).x[0].numpy() == png(103)[1]).all()
    streamed = load("image_folder", path=str(tmp_path / "own"), stream=True)
    assert isinstance(streamed.train, StreamData)
    assert streamed.train.digest == sets.train.digest
    assert streamed.ids == sets.ids


def test_an_image_folder_may_have_its_own_test_folder(tmp_path: Path) -> None:
    folder(tmp_path / "train", {"cat": 3, "dog": 3})
    folder(tmp_path / "test", {"cat": 1, "dog": 2})
    sets = load("image_folder", path=str(tmp_path), side=4, grey=True)
    assert sets.train.shape == (1, 4, 4)
    assert sets.test.y.tolist() == [0, 1, 1]
    folder(tmp_path / "test", {"emu": 1})
    with pytest.raises(ValueError, match=r"classes that .*train lacks: \['emu'\]"):
        load("image_folder", path=str(tmp_path))


def test_bad_image_folders_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no folder"):
        load("image_folder", path=str(tmp_path / "none"))
    with pytest.raises(ValueError, match="no images in"):
        load("image_folder", path=str(tmp_path))
    folder(tmp_path, {"cat": 3})
    (tmp_path / "cat" / "3.png").write_bytes(png(3, 9)[0])
    with pytest.raises(ValueError, match="got 8x8 and 9x9 pixels among them; set `side`"):
        load("image_folder", path=str(tmp_path))
    (tmp_path / "cat" / "3.png").write_bytes(b"not an image")
    with pytest.raises(ValueError, match="cannot decode an image"):
        load("image_folder", path=str(tmp_path))


def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "age": np.arange(30.0),
            "dose": np.arange(30),
            "who": [f"p{i}" for i in range(30)],
            "site": ["a", "b", "c"] * 10,
            "ill": ["yes", "no"] * 15,
        }
    )


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_tables_give_features_ids_and_groups(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"own.{kind}"
    frame().to_csv(path, index=False) if kind == "csv" else frame().to_parquet(path)
    sets = load("table", path=str(path), label="ill", id="who", groups=["site"])
    assert sets.classes == ("no", "yes")
    assert sets.train.shape == (2,)
    assert len(sets.train) == 24
    for row in (0, 11):
        age, dose = sets.train.read(torch.tensor([row])).x[0].tolist()
        assert sets.ids[row] == f"p{int(age)}"
        assert sets.groups["site"][row] == "abc"[int(age) % 3]
        assert sets.train.y[row] == (1 - int(age) % 2)
        assert age == dose


def test_a_table_may_have_its_own_test_file_and_images(tmp_path: Path) -> None:
    stored = [png(i)[0] for i in range(6)]
    pd.DataFrame({"image": stored, "y": [0, 1] * 3}).to_parquet(tmp_path / "a.parquet")
    for i in range(2):
        (tmp_path / f"{i}.png").write_bytes(stored[i])
    pd.DataFrame({"image": ["0.png", "1.png"], "y": [0, 1]}).to_csv(tmp_path / "b.csv")
    sets = load(
        "table",
        path=str(tmp_path / "a.parquet"),
        test=str(tmp_path / "b.csv"),
        label="y",
        image="image",
    )
    assert (sets.train.read(torch.tensor([4])).x[0].numpy() == png(4)[1]).all()
    assert (sets.test.read(torch.tensor([1])).x[0].numpy() == png(1)[1]).all()
    assert sets.classes == ("0", "1")


def test_bad_tables_are_explained(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    frame().to_csv(path, index=False)
    own = {"path": str(path), "label": "ill"}
    with pytest.raises(ValueError, match="columns who, site hold no numbers; name the numeric"):
        load("table", **own)
    with pytest.raises(ValueError, match="unknown column 'agee'; did you mean 'age'"):
        load("table", **own, features=["agee"])
    with pytest.raises(ValueError, match="unknown column 'il'; did you mean 'ill'"):
        load("table", path=str(path), label="il", features=["age"])
    with pytest.raises(ValueError, match=r"expected a .parquet or .csv file"):
        load("table", path="own.xls", label="ill")
    with pytest.raises(ValueError, match=r"cannot read /none.csv"):
        load("table", path="/none.csv", label="ill")
    frame().assign(ill=[None, "no"] * 15).to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"15 rows of .* have no ill"):
        load("table", **own, features=["age"])
    frame().assign(ill="maybe").to_csv(tmp_path / "t.csv", index=False)
    frame().to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"30 rows of .* are of classes that .* lacks"):
        load("table", **own, features=["age"], test=str(tmp_path / "t.csv"))


def test_archives_give_images_ids_and_groups(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (20, 5, 4, 3), dtype=np.uint8)
    y = (np.arange(20) % 3).astype(np.uint8)
    names, site = np.array([f"r{i}" for i in range(20)]), np.arange(20) % 2
    path = tmp_path / "own.npz"
    np.savez(path, x=x, y=y, x_test=x[:4], y_test=y[:4], ids=names, site=site)
    sets = load("npz", path=str(path))
    assert sets.train.shape == (3, 5, 4)
    assert (sets.train.read(torch.tensor([7])).x[0].numpy() == x[7].transpose(2, 0, 1)).all()
    assert sets.train.y.dtype == torch.int64
    assert sets.classes == ("0", "1", "2")
    assert sets.ids[5] == "r5"
    assert sets.groups == {"site": ("0", "1") * 10}
    assert load("npz", path=str(path), classes=5).classes == ("0", "1", "2", "3", "4")


def test_archives_without_a_test_set_are_held_out(tmp_path: Path) -> None:
    x = np.arange(20.0)[:, None]
    np.savez(tmp_path / "own.npz", x=x, y=np.arange(20) % 2, ids=np.arange(20))
    sets = load("npz", path=str(tmp_path / "own.npz"))
    assert (len(sets.train), len(sets.test), len(sets.ids)) == (16, 4, 16)
    assert sets.ids[3] == str(int(sets.train.read(torch.tensor([3])).x))


def test_bad_archives_are_explained(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    with pytest.raises(ValueError, match=r"cannot read /none.npz"):
        load("npz", path="/none.npz")
    path.write_bytes(b"PK nothing of the kind")
    with pytest.raises(ValueError, match=r"cannot read .* expected an .npz of plain arrays"):
        load("npz", path=str(path))
    np.savez(path, x=np.array([{}], dtype=object), y=np.zeros(1))
    with pytest.raises(ValueError, match=r"cannot read .* expected an .npz of plain arrays"):
        load("npz", path=str(path))
    np.savez(path, x=np.zeros((3, 2)), z=np.zeros(3))
    with pytest.raises(ValueError, match="lacks y; it has x, z"):
        load("npz", path=str(path))
    np.savez(path, x=np.array(["a", "b"]), y=np.zeros(2))
    with pytest.raises(ValueError, match=r"x in .* holds <U1, expected numbers"):
        load("npz", path=str(path))
    np.savez(path, x=np.zeros((3, 2)), y=np.zeros(3, int), ids=np.arange(2))
    with pytest.raises(ValueError, match="expected ids for each of 3 training records, got 2"):
        load("npz", path=str(path))


@pytest.mark.parametrize("stream", [False, True])
def test_a_data_set_object_becomes_sets(images: TensorData, stream) -> None:
    own = TensorDataset(images.x, images.y)
    sets = from_dataset(own, ids=[str(i) for i in range(50)], stream=stream)
    assert isinstance(sets.train, StreamData if stream else TensorData)
    assert (len(sets.train), len(sets.test)) == (40, 10)
    place = int(sets.ids[7])
    assert torch.equal(sets.train.read(torch.tensor([7])).x[0], images.x[place])
    assert sets.train.index.tolist() == list(range(40))
    assert sets.classes == ("0", "1", "2", "3")
    both = from_dataset(own, own, classes=tuple("abcd"), stream=stream)
    assert both.train.digest == both.test.digest == images.digest


def test_a_data_set_may_come_by_import_path(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "owndata.py").write_text(
        "import torch\n"
        "def make():\n"
        "    pairs = [(torch.tensor([float(i)]), i % 2) for i in range(10)]\n"
        "    return pairs[:8], pairs[8:]\n"
        "records = make()[0]\n"
        "empty = []\n"
        "odd = [1, 2]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    sets = load("dataset", path="owndata:make")
    assert (len(sets.train), len(sets.test)) == (8, 2)
    assert sets.train.y.tolist() == [0, 1] * 4
    assert len(load("dataset", path="owndata:records", stream=True, held=0.25).test) == 2
    for path, message in {
        "owndata": "expected package.module:name, got 'owndata'",
        "owndata:nope": "cannot import owndata:nope",
        "nodata:x": "cannot import nodata:x",
        "owndata:empty": "at least one record",
        "owndata:odd": r"expected records \(x, y\), got int",
    }.items():
        with pytest.raises(ValueError, match=message):
            load("dataset", path=path)
    sys.modules.pop("owndata")


def test_bundled_sets_are_real_and_large_enough() -> None:
    digits = load("digits")
    assert (len(digits.train), len(digits.test)) == (997, 800)
    pixels = digits.train.read(torch.arange(997)).x
    assert pixels.dtype == torch.uint8
    assert (int(pixels.min()), int(pixels.max())) == (0, 255)
    assert digits.train.y.bincount().min() > 90
    cancer = load("breast_cancer")
    x = cancer.train.read(torch.arange(len(cancer.train))).x
    assert torch.allclose(x.mean(0), torch.zeros(30), atol=1e-5)
    assert torch.allclose(x.std(0), torch.ones(30), atol=1e-5)
    assert cancer.classes == ("malignant", "benign")


def test_toys_are_made_from_their_seed() -> None:
    assert load("blobs").train.digest == load("blobs").train.digest
    assert load("blobs").train.digest != load("blobs", seed=1).train.digest
    chains = load("chains")
    batch = chains.train.read(torch.arange(5))
    assert torch.equal(batch.x[:, 1:], batch.y[:, :-1])
