"""Users' own tables: a parquet or CSV file with one record a row."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expunge.config import suggest
from expunge.data.card import SourceCard
from expunge.data.decode import coded, pictures
from expunge.data.strata import part
from expunge.data.tensors import TensorData
from expunge.types import Sets, Source


@dataclass(frozen=True, kw_only=True)
class Table(Source):
    """A parquet or CSV file with one record a row.

    Attributes:
        path: The file.
        label: Column of the classes: names, or numbers.
        features: Columns that a model sees; left out, every other column, and all must be
            numbers.
        image: Column of images instead, as bytes or as paths from the table's folder.
        side: Side of the square that images are brought to; 0 where all have one size.
        id: Column of names for the records.
        groups: Further columns to choose a forget set by.
        test: A file of held-out records; left out, `held` of every class is.
        held: Share held out where there is no test file.
        seed: Of that draw.
    """

    card = SourceCard(name="table", note="your own parquet or CSV file, a record a row")

    path: str
    label: str
    features: tuple[str, ...] = ()
    image: str | None = None
    side: int = 0
    id: str | None = None
    groups: tuple[str, ...] = ()
    test: str | None = None
    held: float = 0.2
    seed: int = 0

    def load(self) -> Sets:
        frame = _frame(self.path)
        held = _frame(self.test) if self.test else None
        features = self._features(frame)
        _present(
            frame,
            self.path,
            (self.label, *features, *filter(None, (self.image, self.id)), *self.groups),
        )
        mine, theirs, classes = coded(
            _labels(frame, self.label, self.path),
            [] if held is None else _labels(held, self.label, self.test or ""),
        )
        train = TensorData(self._x(frame, features, self.path), mine.y)
        ids = tuple(map(str, frame[self.id])) if self.id else ()
        groups = {name: tuple(map(str, frame[name])) for name in self.groups}
        sets = Sets(train, train, classes, ids, groups)
        if held is None:
            return part(sets, self.held, self.seed)
        if len(theirs.rows) < len(held):
            raise ValueError(
                f"{len(held) - len(theirs.rows)} rows of {self.test} are of classes that "
                f"{self.path} lacks; its classes are {', '.join(classes[:10])}"
            )
        _present(held, self.test or "", (*features, *filter(None, (self.image,))))
        return sets._replace(test=TensorData(self._x(held, features, self.test or ""), theirs.y))

    def _features(self, frame: Any) -> tuple[str, ...]:
        if self.image:
            return ()
        used = {self.label, self.id, *self.groups}
        return self.features or tuple(name for name in map(str, frame.columns) if name not in used)

    def _x(self, frame: Any, features: Sequence[str], path: str) -> Tensor:
        if self.image:
            return pictures(
                [_beside(Path(path), stored) for stored in frame[self.image]], self.side
            )
        columns = frame[list(features)]
        other = [name for name in features if columns[name].dtype.kind not in "biuf"]
        if other or not features:
            raise ValueError(
                f"{path}: columns {', '.join(other[:3]) or 'to learn from'} hold no numbers; name "
                "the numeric ones in `features`, and others in `id` or `groups`"
            )
        return torch.from_numpy(columns.to_numpy(np.float32, copy=True))


def _frame(path: str) -> Any:
    """Read a table."""
    import pandas as pd

    file = Path(path).expanduser()
    readers = {".csv": pd.read_csv, ".parquet": pd.read_parquet}
    if file.suffix.lower() not in readers:
        raise ValueError(f"expected a .parquet or .csv file, got {path}")
    try:
        frame = readers[file.suffix.lower()](file)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {path}: {error}") from None
    if frame.empty:
        raise ValueError(f"{path} has no rows")
    return frame


def _present(frame: Any, path: str, names: Sequence[str]) -> None:
    for name in names:
        if name not in frame.columns:
            raise ValueError(f"{path}: {suggest(name, map(str, frame.columns), 'column')}")


def _labels(frame: Any, label: str, path: str) -> list[Any]:
    """Return the labels, as text unless they are whole numbers."""
    _present(frame, path, (label,))
    column = frame[label]
    if column.isna().any():
        raise ValueError(
            f"{int(column.isna().sum())} rows of {path} have no {label}; label or drop them"
        )
    if column.dtype.kind == "f":
        raise ValueError(f"{path}: labels in {label} are real numbers; expected classes")
    return column.tolist() if column.dtype.kind in "iub" else [str(value) for value in column]


def _beside(table: Path, stored: Any) -> Any:
    """Return an image's bytes, or its path seen from the table's folder."""
    return table.expanduser().parent / stored if isinstance(stored, str) else stored
