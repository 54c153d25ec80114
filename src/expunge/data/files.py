"""Users' own records: folders of images, and arrays."""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from expunge.data.card import SourceCard
from expunge.data.decode import coded, picture, pictures
from expunge.data.objects import from_dataset, numbered
from expunge.data.tensors import TensorData
from expunge.types import Sets, Source

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif"})


class Pictures(Dataset):
    """Image files and their classes, decoded when read."""

    def __init__(
        self, files: Sequence[Path], targets: Sequence[int], *, side: int, grey: bool
    ) -> None:
        self.files, self.targets, self.side, self.grey = files, targets, side, grey

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        pixels = picture(self.files[row], self.side, grey=self.grey)
        return torch.from_numpy(pixels), self.targets[row]


@dataclass(frozen=True, kw_only=True)
class ImageFolder(Source):
    """A folder with one folder of images for each class; an image's id is `class/file`.

    Attributes:
        path: The folder; or one with `train` and `test` (or `val`) folders of that form.
        side: Side of the square that images are brought to; 0 where all have one size.
        grey: Whether images are read with one channel.
        stream: Whether to read batch by batch, in bounded memory.
        held: Share held out where there is no test folder.
        seed: Of that draw.
    """

    card = SourceCard(name="image_folder", kind="images", note="your own images, a folder a class")

    path: str
    side: int = 0
    grey: bool = False
    stream: bool = False
    held: float = 0.2
    seed: int = 0

    def load(self) -> Sets:
        base = Path(self.path).expanduser()
        if not base.is_dir():
            raise ValueError(f"no folder {base}; expected one with a folder of images per class")
        apart = None
        if (base / "train").is_dir():
            apart = next((base / n for n in ("test", "val") if (base / n).is_dir()), None)
            base /= "train"
        files, held = _images(base), _images(apart) if apart else []
        mine, theirs, classes = coded(
            [file.parent.name for file in files], [file.parent.name for file in held]
        )
        if len(theirs.rows) < len(held):
            extra = {file.parent.name for file in held} - set(classes)
            raise ValueError(f"{apart} has classes that {base} lacks: {sorted(extra)}")
        train = self._data(files, mine.y)
        return from_dataset(
            train,
            self._data(held, theirs.y) if apart else None,
            classes=classes,
            ids=[f"{file.parent.name}/{file.name}" for file in files],
            stream=self.stream,
            held=self.held,
            seed=self.seed,
        )

    def _data(self, files: list[Path], y: Tensor) -> Pictures | TensorData:
        if self.stream:
            return Pictures(files, y.tolist(), side=self.side, grey=self.grey)
        return TensorData(pictures(files, self.side, grey=self.grey), y)


def _images(folder: Path) -> list[Path]:
    files = [f for f in sorted(folder.glob("*/*")) if f.suffix.lower() in SUFFIXES]
    if not files:
        raise ValueError(f"no images in {folder}; expected {folder}/CLASS/*.png or *.jpg")
    return files


@dataclass(frozen=True, kw_only=True)
class Npz(Source):
    """A NumPy archive: `x` and `y`, perhaps `x_test` and `y_test`, `ids`, and group columns.

    Bytes are pixels: `n h w`, `n h w c` or `n c h w`. Labels number the classes from 0. Further
    arrays as long as `x` are group columns.

    Attributes:
        path: The file.
        classes: How many there are; left out, one more than the largest label.
        held: Share held out where there is no `x_test`.
        seed: Of that draw.
    """

    card = SourceCard(name="npz", note="your own NumPy archive with x and y")

    path: str
    classes: int | None = None
    held: float = 0.2
    seed: int = 0

    def load(self) -> Sets:
        arrays = self._read()
        train = self._data(arrays, "x", "y")
        test = self._data(arrays, "x_test", "y_test") if "x_test" in arrays else None
        rest = {k: v for k, v in arrays.items() if k not in ("x", "y", "x_test", "y_test")}
        ids = tuple(map(str, rest.pop("ids", ())))
        classes = tuple(map(str, range(self.classes))) if self.classes else None
        return from_dataset(
            train,
            test,
            classes=classes or numbered(train, *([test] if test else [])),
            ids=ids,
            groups={k: v.tolist() for k, v in rest.items() if v.shape == (len(train),)},
            held=self.held,
            seed=self.seed,
        )

    def _read(self) -> dict[str, np.ndarray]:
        try:
            with np.load(Path(self.path).expanduser(), allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        except (OSError, ValueError, AttributeError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"cannot read {self.path}: {error}; expected an .npz of plain arrays"
            ) from None
        missing = [name for name in ("x", "y") if name not in arrays]
        if "x_test" in arrays and "y_test" not in arrays:
            missing.append("y_test")
        if missing:
            raise ValueError(
                f"{self.path} lacks {', '.join(missing)}; it has {', '.join(sorted(arrays))}"
            )
        return arrays

    def _data(self, arrays: dict[str, np.ndarray], x: str, y: str) -> TensorData:
        stored, answers = arrays[x], arrays[y]
        for name, array in ((x, stored), (y, answers)):
            if array.dtype.kind not in "biuf":
                raise ValueError(f"{name} in {self.path} holds {array.dtype}, expected numbers")
        if stored.dtype == np.uint8 and stored.ndim == 3:
            stored = stored[:, None]
        elif stored.dtype == np.uint8 and stored.ndim == 4 and stored.shape[1] not in (1, 3):
            stored = stored.transpose(0, 3, 1, 2)
        return TensorData(_tensor(stored), _tensor(answers))


def _tensor(array: np.ndarray) -> Tensor:
    """Return bytes as they are, integers as int64 and reals as float32."""
    kinds = {"f": np.float32, "u": np.int64, "i": np.int64, "b": np.int64}
    if array.dtype != np.uint8 or array.ndim == 1:
        array = array.astype(kinds[array.dtype.kind])
    return torch.from_numpy(np.ascontiguousarray(array))
