"""Data that does not fit in memory: read one batch at a time."""

import reprlib
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int, Num
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, default_collate

from expunge.types import Batch, Data, Inputs, each


@runtime_checkable
class Pairs(Protocol):
    """A map-style data set of `(x, y)`: what PyTorch's `Dataset` means, without the base class."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> tuple[Any, Any]: ...


class HubRows(Dataset):
    """Rows of a Hugging Face data set as `(x, y)` pairs.

    Attributes:
        rows: The data set, of the map style.
        x: The column a model sees.
        y: The column it should say.
    """

    def __init__(self, rows: Any, x: str, y: str) -> None:
        self.rows, self.x, self.y = rows, x, y

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> tuple[Any, Any]:
        record = self.rows[row]
        return record[self.x], record[self.y]

    def __getitems__(self, rows: list[int]) -> list[tuple[Any, Any]]:
        batch = self.rows[rows]
        return list(zip(batch[self.x], batch[self.y], strict=True))

    @property
    def targets(self) -> Sequence[Any]:
        """Every row's answer, read without its `x`."""
        return self.rows[self.y]


def stored(x: Any) -> Any:
    """Return a record's `x` as tensors: pictures as bytes `c h w`, reals in single precision.

    Raises:
        ValueError: For words.
    """
    if isinstance(x, dict):
        return {name: stored(part) for name, part in x.items()}
    if isinstance(x, Image):
        pixels = np.array(x if x.mode in ("L", "RGB") else x.convert("RGB"))
        return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1)
    try:
        tensor = torch.as_tensor(x)
    except (TypeError, ValueError) as error:
        if not _worded(x):
            raise
        raise ValueError(
            f"expected records (x, y) of numbers, got {reprlib.repr(x)} in one; where it is a "
            "class, number the classes from 0 and give their names, in that order, as `classes` "
            "of `expunge.data.objects.from_dataset` or of `Sets`; where it is a text, give the "
            "numbers of its tokens"
        ) from error
    return tensor.float() if tensor.dtype == torch.float64 else tensor


def _worded(x: Any) -> bool:
    """Return whether this is text, or a sequence that has some."""
    if isinstance(x, list | tuple):
        return any(map(_worded, x))
    return isinstance(x, str | bytes) or getattr(getattr(x, "dtype", None), "kind", "-") in "USO"


def offered(records: Any) -> Tensor | None:
    """Return the answers that a data set lists apart; None where they may not be what it reads.

    A list is believed when the first, middle and last record agree with it.
    """
    if getattr(records, "target_transform", None) is not None:
        return None
    found = getattr(records, "targets", getattr(records, "labels", None))
    if found is None or len(found) != len(records) or len(records) == 0:
        return None
    try:
        listed = np.asarray(found)
    except ValueError:  # rows of different lengths
        return None
    if listed.dtype.kind not in "biuf":
        return None
    answers = stored(listed)
    for row in {0, len(records) // 2, len(records) - 1}:
        here = stored(records[row][1])
        if here.dtype != answers.dtype or not torch.equal(answers[row], here):
            return None
    return answers


class Answers:
    """Every answer of a map-style data set, read once and only when asked for."""

    def __init__(self, records: Any) -> None:
        self.records = records
        self._read: Tensor | None = None

    def __getitem__(self, rows: Tensor) -> Tensor:
        if self._read is None:
            parts = [self._part(part) for part in parts_of(self.records)]
            self._read = torch.cat(parts) if parts else torch.empty(0, dtype=torch.long)
        return self._read[rows]

    @staticmethod
    def _part(records: Any) -> Tensor:
        known = offered(records)
        if known is not None:
            return known
        # x is dropped before the next is read; y is gathered into few tensors, not n of them.
        chunks = torch.arange(len(records)).split(1024)
        return torch.cat(
            [torch.stack([stored(records[row][1]) for row in chunk.tolist()]) for chunk in chunks]
        )


def parts_of(records: Any) -> list[Any]:
    """Return the data sets that `records` chains, or itself."""
    return records.datasets if isinstance(records, ConcatDataset) else [records]


class StreamData(Data):
    """A map-style data set of `(x, y)` pairs; only the batch being read is in memory.

    Attributes:
        records: The data set, whole: selecting keeps positions and wraps nothing.
        index: Each record's position in the data set it was first selected from.
    """

    def __init__(
        self,
        records: Any,
        *,
        rows: Int[Tensor, " n"] | None = None,
        index: Int[Tensor, " n"] | None = None,
        answers: Answers | None = None,
        device: str = "cpu",
    ) -> None:
        """Open a data set.

        Args:
            records: Anything with `len` and `[row]`; `__getitems__` is used where there is one.
            rows: Positions of this data set's records; left out, all.
            index: Left out, the records number themselves.
            answers: Shared by all that is selected from the same records.
            device: Where batches are handed out.
        """
        self.records = records
        self.rows = torch.arange(len(records)) if rows is None else rows
        self.index = torch.arange(len(self.rows)) if index is None else index
        self.answers = Answers(records) if answers is None else answers
        self.device = device

    @property
    def y(self) -> Num[Tensor, "n *answer"]:
        return self.answers[self.rows].to(self.device)

    def read(self, rows: Int[Tensor, " k"]) -> Batch:
        rows = rows.cpu()
        # No rows still have a shape: that of the first record.
        pairs = self._pairs(self.rows[rows].tolist() or [0])
        x: Inputs = default_collate([stored(x) for x, _ in pairs])
        y = torch.stack([stored(y) for _, y in pairs])
        k, device = len(rows), self.device
        return Batch(each(x, lambda t: t[:k].to(device)), y[:k].to(device), self.index[rows])

    def select(self, rows: Int[Tensor, " k"]) -> "StreamData":
        rows = rows.cpu()
        return self._like(rows=self.rows[rows], index=self.index[rows])

    def join(self, other: Data) -> "StreamData":
        if not isinstance(other, StreamData):
            raise ValueError(f"expected another stream to join, got {type(other).__name__}")
        if other.records is self.records:
            return self._like(rows=torch.cat([self.rows, other.rows]))
        both = ConcatDataset([*parts_of(self.records), *parts_of(other.records)])
        rows = torch.cat([self.rows, other.rows + len(self.records)])
        return StreamData(both, rows=rows, device=self.device)

    def to(self, device: str) -> "StreamData":
        return self._like(rows=self.rows, index=self.index, device=device)

    def renumbered(self) -> "StreamData":
        """Return the same records, numbered from 0."""
        return self._like(rows=self.rows)

    def _like(
        self, *, rows: Tensor, index: Tensor | None = None, device: str | None = None
    ) -> "StreamData":
        return StreamData(
            self.records,
            rows=rows,
            index=index,
            answers=self.answers,
            device=device or self.device,
        )

    def _pairs(self, rows: list[int]) -> list[Any]:
        together = getattr(self.records, "__getitems__", None)
        if together is not None and not isinstance(self.records, ConcatDataset):
            return together(rows)
        return [self.records[row] for row in rows]
