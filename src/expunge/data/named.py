"""How the data sets of the catalog are read: images, texts and running text.

Rows come from a folder of parquet files or from the Hugging Face hub; what they decode to is
kept on disk under the hash of their content and of these settings.
"""

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from expunge.config import key, plain, suggest
from expunge.data import cache
from expunge.data.card import SourceCard
from expunge.data.decode import Coded, coded, hashed, pictures, vocabulary, windows
from expunge.data.hub import Rows, place, rows
from expunge.data.strata import part, thinned
from expunge.data.tensors import TensorData
from expunge.types import Sets, Source


@dataclass(frozen=True, kw_only=True)
class Named(Source):
    """A data set of the catalog.

    Attributes:
        root: Folder with `<name>/<split>-*.parquet`; left out, EXPUNGE_DATA, then the hub.
        scale: Share of the training and of the test records to keep, of every class alike.
    """

    root: str | None = field(default=None, compare=False)  # where it lies is not what it is
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.scale <= 1:
            raise ValueError(f"expected scale in (0, 1], got {self.scale}")

    @property
    @abstractmethod  # until a set of the table gives its card
    def card(self) -> SourceCard:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Where its rows are and what they hold."""

    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """Return the columns that are read."""

    @abstractmethod
    def decode(self, train: Rows, test: Rows | None) -> cache.Arrays:
        """Return the records as `train.x`, `train.y` and, where they are apart, `test.*`."""

    def load(self) -> Sets:
        where = place(self.card, self.root)
        what = plain(self)
        del what["scale"]  # taken of what is kept, whole
        name = f"{self.card.name}-{key([what, where.digest])[:20]}.safetensors"
        arrays = cache.remembered(
            cache.folder() / "data" / name,
            lambda: self.decode(*rows(self.card, where, self.columns())),
        )
        return thinned(_sets(arrays), self.scale)


@dataclass(frozen=True, kw_only=True)
class Images(Named):
    """Images of one size, each of one class.

    Attributes:
        root: Folder with `<name>/<split>-*.parquet`; left out, EXPUNGE_DATA, then the hub.
        scale: Share of the training and of the test records to keep, of every class alike.
        side: Side of the square that images are brought to, in pixels; left out, the card's.
        label: Column that names the class; left out, the first of the card's.
    """

    side: int | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label is not None and self.label not in self.card.labels:
            raise ValueError(suggest(self.label, self.card.labels, "label column"))
        if self.side is not None and self.side < 1:
            raise ValueError(f"expected side of at least 1 pixel, got {self.side}")

    def columns(self) -> tuple[str, ...]:
        return *self.card.x, *self.card.labels, *self.card.groups

    def decode(self, train: Rows, test: Rows | None) -> cache.Arrays:
        side, grey = self.side or self.card.side, self.card.grey
        label = self.label or self.card.labels[0]
        others = (*self.card.labels, *self.card.groups)

        def read(source: Rows | None) -> tuple[Tensor, dict[str, list]]:
            parts, columns = [], {name: [] for name in others}
            for chunk in source.chunks((*self.card.x, *others)) if source else ():
                parts.append(pictures(chunk[self.card.x[0]], side, grey=grey))
                for name in others:
                    columns[name] += chunk[name]
            return torch.cat(parts) if parts else torch.empty(0), columns

        (x, columns), (held_x, held_columns) = read(train), read(test)
        mine, theirs, classes = coded(columns[label], held_columns[label], train.names(label))
        groups = {
            name: _named([columns[name][i] for i in mine.rows.tolist()], train.names(name))
            for name in others
            if name != label
        }
        held = (held_x[theirs.rows], theirs) if test else None
        return _arrays((x[mine.rows], mine), held, classes, groups)


@dataclass(frozen=True, kw_only=True)
class Texts(Named):
    """Texts, as counts of hashed words, each of one class.

    Attributes:
        root: Folder with `<name>/<split>-*.parquet`; left out, EXPUNGE_DATA, then the hub.
        scale: Share of the training and of the test records to keep, of every class alike.
        features: Bins that words are hashed to.
    """

    features: int = 4096

    def columns(self) -> tuple[str, ...]:
        return *self.card.x, *self.card.labels

    def decode(self, train: Rows, test: Rows | None) -> cache.Arrays:
        label = self.card.labels[0]
        held = test.column(label) if test else []
        mine, theirs, classes = coded(train.column(label), held, train.names(label))

        def read(source: Rows, kept: Coded) -> tuple[Tensor, Coded]:
            parts = zip(*(source.column(name) for name in self.card.x), strict=True)
            texts = ["\n".join(part or "" for part in record) for record in parts]
            return hashed([texts[i] for i in kept.rows.tolist()], self.features), kept

        return _arrays(read(train, mine), read(test, theirs) if test else None, classes, {})


@dataclass(frozen=True, kw_only=True)
class Tokens(Named):
    """Running text as word numbers; what is asked is the next word, at every place.

    The vocabulary is that of the training text.

    Attributes:
        root: Folder with `<name>/<split>-*.parquet`; left out, EXPUNGE_DATA, then the hub.
        scale: Share of the training and of the test windows to keep.
        length: Words in a window, which is one record.
    """

    length: int = 35

    def columns(self) -> tuple[str, ...]:
        return self.card.x

    def decode(self, train: Rows, test: Rows | None) -> cache.Arrays:
        sentences = train.column(self.card.x[0])
        words = vocabulary(sentences)
        texts = {"train": sentences} | ({"test": test.column(self.card.x[0])} if test else {})
        tensors: dict[str, Tensor] = {}
        for name, text in texts.items():
            tensors[f"{name}.x"], tensors[f"{name}.y"] = windows(text, words, self.length)
        return cache.Arrays(tensors, {"classes": "[]", "groups": "{}"})


def _named(values: Sequence[int | str], names: Sequence[str]) -> list[str]:
    return [names[int(v)] for v in values] if names else [str(v) for v in values]


def _arrays(
    train: tuple[Tensor, Coded],
    test: tuple[Tensor, Coded] | None,
    classes: Sequence[str],
    groups: Mapping[str, Sequence[str]],
) -> cache.Arrays:
    tensors = {"train.x": train[0], "train.y": train[1].y}
    if test:
        tensors |= {"test.x": test[0], "test.y": test[1].y}
    return cache.Arrays(tensors, {"classes": json.dumps(classes), "groups": json.dumps(groups)})


def _sets(arrays: cache.Arrays) -> Sets:
    tensors, notes = arrays
    classes = tuple(json.loads(notes["classes"]))
    groups = {k: tuple(v) for k, v in json.loads(notes["groups"]).items()}
    train = TensorData(tensors["train.x"], tensors["train.y"])
    if "test.x" in tensors:
        test = TensorData(tensors["test.x"], tensors["test.y"])
        return Sets(train, test, classes, (), groups)
    return part(Sets(train, train, classes, (), groups), 0.2, 0)
