"""Any map-style data set of the user's, handed over as an object or by its import path."""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from expunge.data.card import SourceCard
from expunge.data.strata import part
from expunge.data.streams import StreamData
from expunge.data.tensors import TensorData
from expunge.types import Sets, Source


def from_dataset(
    train: Any,
    test: Any = None,
    *,
    classes: Sequence[str] = (),
    ids: Sequence[Any] = (),
    groups: Mapping[str, Sequence[Any]] | None = None,
    stream: bool = False,
    held: float = 0.2,
    seed: int = 0,
) -> Sets:
    """Return the sets of a map-style data set, such as PyTorch's or torchvision's.

    Args:
        train: Records `(x, y)` by position. `x` is a tensor, an array, a picture or a dict of
            these; bytes are pixels.
        test: Held-out records; left out, `held` of every class is taken from `train`.
        classes: Names of the classes; left out, their numbers up to the largest in use.
        ids: A name for each record of `train`.
        groups: Further columns of `train`.
        stream: Whether to read batch by batch, in bounded memory, or all at once, after which
            random transforms of the data set are fixed.
        held: Share held out where there is no `test`.
        seed: Of that draw.

    Raises:
        ValueError: When a record is not a pair, or ids or a group column have another length.
    """
    mine = _data(train, stream=stream)
    theirs = mine if test is None else _data(test, stream=stream)
    named = {"ids": tuple(ids)} if ids else {}
    groups = {name: tuple(map(str, column)) for name, column in (groups or {}).items()}
    for name, column in {**named, **groups}.items():
        if len(column) != len(mine):
            raise ValueError(
                f"expected {name} for each of {len(mine)} training records, got {len(column)}"
            )
    sets = Sets(
        mine, theirs, tuple(classes) or numbered(mine, theirs), tuple(map(str, ids)), groups
    )
    return part(sets, held, seed) if test is None else sets


def numbered(*parts: TensorData | StreamData) -> tuple[str, ...]:
    """Name classes by number, up to the largest in use; none where answers are not classes."""
    answers = [data.y for data in parts if len(data)]
    if not answers or answers[0].dim() != 1 or answers[0].is_floating_point():
        return ()
    return tuple(map(str, range(max(int(y.max()) for y in answers) + 1)))


def _data(records: Any, *, stream: bool) -> TensorData | StreamData:
    if isinstance(records, TensorData | StreamData):
        return records
    if not (hasattr(records, "__len__") and hasattr(records, "__getitem__")):
        raise ValueError(
            f"expected a map-style data set with len() and [row], got {type(records).__name__}"
        )
    if len(records) == 0:
        raise ValueError("expected at least one record, got an empty data set")
    first = records[0]
    if not isinstance(first, tuple | list) or len(first) != 2:
        raise ValueError(
            f"expected records (x, y), got {type(first).__name__}; wrap the data set so that "
            "[row] returns a pair"
        )
    streamed = StreamData(records)
    if stream:
        return streamed
    batch = streamed.read(torch.arange(len(streamed)))
    return TensorData(batch.x, batch.y)


@dataclass(frozen=True, kw_only=True)
class Imported(Source):
    """A map-style data set that your own code makes.

    Attributes:
        path: `package.module:name` of a data set, or of a function without arguments that
            returns one, or returns a training and a test set.
        classes: Names of the classes; left out, their numbers.
        stream: Whether to read batch by batch, in bounded memory.
        held: Share held out where there is no test set.
        seed: Of that draw.
    """

    card = SourceCard(name="dataset", note="your own PyTorch data set, by import path")

    path: str
    classes: tuple[str, ...] = ()
    stream: bool = False
    held: float = 0.2
    seed: int = 0

    def load(self) -> Sets:
        found = imported(self.path)
        if callable(found):
            found = found()
        both = found if isinstance(found, tuple) else (found,)
        if len(both) > 2:
            raise ValueError(f"{self.path} gave {len(both)} data sets, expected (train, test)")
        return from_dataset(
            *both, classes=self.classes, stream=self.stream, held=self.held, seed=self.seed
        )


def imported(path: str) -> Any:
    """Return what `package.module:name` names.

    Raises:
        ValueError: When there is no such module or no such name in it.
    """
    module, _, name = path.partition(":")
    if not module or not name:
        raise ValueError(f"expected package.module:name, got '{path}'")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"cannot import {path}: {error}; is its folder on PYTHONPATH?") from None
