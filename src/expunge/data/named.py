"""How the data sets of the catalog are read: images, texts and running text.

Rows come from a folder of parquet files or from the Hugging Face hub; what they decode to is
kept on disk under the hash of their content and of these settings.
"""

import json
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from expunge.config import key, plain, suggest
from expunge.data import cache
from expunge.data.card import SourceCard
from expunge.data.decode import Coded, coded, hashed, pictures, vocabulary, windows
from expunge.data.hub import Rows, place, rows
from expunge.data.strata import distinct, part, thinned
from expunge.data.tensors import TensorData
from expunge.data.words import Lexicon, learnt
from expunge.types import Json, Sets, Source, later

Form = Literal["hashed", "tokens", "bag", "tfidf"]


@dataclass(frozen=True, kw_only=True)
class Named(Source):
    """A data set of the catalog.

    Attributes:
        root: Folder with `<name>/<split>-*.parquet`; left out, EXPUNGE_DATA, then the hub.
        scale: Share of the training and of the test records to keep, of every class alike.
        scale_test: That of the test records, where it is another.
    """

    root: str | None = field(default=None, compare=False)  # where it lies is not what it is
    scale: float = 1.0
    scale_test: float | None = later(None)

    def __post_init__(self) -> None:
        for name in ("scale", "scale_test"):
            asked = getattr(self, name)
            if asked is not None and not 0 < asked <= 1:
                raise ValueError(f"expected {name} in (0, 1], got {asked}")

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
        name = f"{self.card.name}-{key([self.made_by(), where.digest])[:20]}.safetensors"
        arrays = cache.remembered(
            cache.folder() / "data" / name,
            lambda: self.decode(*rows(self.card, where, self.columns())),
        )
        return thinned(_sets(arrays), self.scale, self.scale_test)

    def made_by(self) -> dict[str, Json]:
        """Return what of the settings has a bearing on what is kept on disk."""
        shares = ("scale", "scale_test")  # taken of what is kept, whole
        return {name: value for name, value in plain(self).items() if name not in shares}


@dataclass(frozen=True, kw_only=True)
class Images(Named):
    """Images of one size, each of one class.

    Attributes:
        root: Folder with `<name>/<split>-*.parquet`; left out, EXPUNGE_DATA, then the hub.
        scale: Share of the training and of the test records to keep, of every class alike.
        scale_test: That of the test records, where it is another.
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
    """Texts, each of one class: as counts of hashed words, or by a vocabulary.

    The vocabulary is that of all training texts, those that are to be forgotten among them: a
    trace of those that no method can remove. Hashed counts leave none. Texts of classes that
    are not kept count for nothing.

    Attributes:
        root: Folder with `<name>/<split>-*.parquet`; left out, EXPUNGE_DATA, then the hub.
        scale: Share of the training and of the test records to keep, of every class alike.
        scale_test: That of the test records, where it is another.
        features: Bins that words are hashed to.
        form: `hashed` counts words in bins; `tokens` numbers the first words in their order, 0
            for none and 1 for words that the vocabulary lacks; `bag` tells which of its words a
            text has; `tfidf` how often, those in few texts counting more, scaled to length 1.
        vocabulary: Numbers that words are given, the most frequent first, 0 and 1 among them.
        length: Words of a text that are numbered, where `form` is `tokens`.
        words: Other texts, to take the vocabulary of their training texts; left out, its own.
        frequent: How many classes to keep, those with the most training records; left out, all.
        distinct: Whether texts are left out that are, in this form, copies of one before; held-out
            copies of training texts are no records never trained on.
    """

    features: int = 4096
    form: Form = later("hashed")
    vocabulary: int = later(20_000)
    length: int = later(200)
    words: Source | None = later(None)
    frequent: int | None = later(None)
    distinct: bool = later(False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.features, self.length, self.vocabulary - 2) < 1:
            raise ValueError(
                "expected features and length of at least 1 and vocabulary of at least 3, got "
                f"{self.features}, {self.length} and {self.vocabulary}"
            )
        if self.frequent is not None and self.frequent < 2:
            raise ValueError(f"expected at least 2 classes to keep, got frequent={self.frequent}")
        if self.words is not None and not isinstance(self.words, Texts):
            raise ValueError(
                f"expected texts of the catalog to take a vocabulary of, got "
                f"'{self.words.card.name}'"
            )

    def load(self) -> Sets:
        return distinct(super().load()) if self.distinct else super().load()

    def columns(self) -> tuple[str, ...]:
        return *self.card.x, *self.card.labels

    def coded_as(self, other: "Texts") -> "Texts":
        """Return these texts in the form of others, and by their vocabulary."""
        alike = {n: getattr(other, n) for n in ("features", "form", "vocabulary", "length")}
        return replace(self, **alike, words=other.words or other)

    def made_by(self) -> dict[str, Json]:
        what = super().made_by()
        what.pop("distinct", None)  # taken of what is kept too
        if isinstance(self.words, Texts):
            what["words"] = [self.words.frequent, place(self.words.card, self.words.root).digest]
        return what

    def decode(self, train: Rows, test: Rows | None) -> cache.Arrays:
        mine, theirs, classes = self._coded(train, test)
        code = self._coding()

        def read(source: Rows, kept: Coded) -> tuple[Tensor, Coded]:
            return code(self._texts(source, kept)), kept

        return _arrays(read(train, mine), read(test, theirs) if test else None, classes, {})

    def _coded(self, train: Rows, test: Rows | None) -> tuple[Coded, Coded, tuple[str, ...]]:
        label = self.card.labels[0]
        held = test.column(label) if test else []
        return coded(train.column(label), held, train.names(label), self.frequent)

    def _texts(self, source: Rows, kept: Coded) -> list[str]:
        parts = zip(*(source.column(name) for name in self.card.x), strict=True)
        texts = ["\n".join(part or "" for part in record) for record in parts]
        return [texts[i] for i in kept.rows.tolist()]

    def _coding(self) -> Callable[[Sequence[str]], Tensor]:
        """Return what turns texts into tensors."""
        if self.form == "hashed":
            return lambda texts: hashed(texts, self.features)
        whose = self.words if isinstance(self.words, Texts) else self
        lexicon = whose.lexicon(self.vocabulary)
        if self.form == "tokens":
            return lambda texts: lexicon.rows(texts, self.length)
        return lexicon.bags if self.form == "bag" else lexicon.weighted

    def lexicon(self, size: int) -> Lexicon:
        """Return the vocabulary of its training texts, which is kept on disk."""
        where = place(self.card, self.root)

        def make() -> cache.Arrays:
            train, test = rows(self.card, where, self.columns())
            return learnt(self._texts(train, self._coded(train, test)[0]), size)

        made_by = [size, self.frequent, where.digest]
        name = f"{self.card.name}-words-{key(made_by)[:20]}.safetensors"
        return Lexicon.read(cache.remembered(cache.folder() / "data" / name, make))


@dataclass(frozen=True, kw_only=True)
class Tokens(Named):
    """Running text as word numbers; what is asked is the next word, at every place.

    The vocabulary is that of the training text.

    Attributes:
        root: Folder with `<name>/<split>-*.parquet`; left out, EXPUNGE_DATA, then the hub.
        scale: Share of the training and of the test windows to keep.
        scale_test: That of the test windows, where it is another.
        length: Words in a window, which is one record.
        vocabulary: Words that are told apart, the most frequent of all texts; the rest are one
            and the same. Left out, all.
    """

    length: int = 35
    vocabulary: int | None = later(None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.vocabulary is not None and self.vocabulary < 3:
            raise ValueError(
                "expected a vocabulary of at least 3, two of which are for unknown words and ends, "
                f"got {self.vocabulary}"
            )

    def columns(self) -> tuple[str, ...]:
        return self.card.x

    def words(self) -> list[str]:
        """Return the word that each number stands for."""
        train, _ = rows(self.card, place(self.card, self.root), self.columns())
        return vocabulary(train.column(self.card.x[0]), self.vocabulary)

    def decode(self, train: Rows, test: Rows | None) -> cache.Arrays:
        sentences = train.column(self.card.x[0])
        words = vocabulary(sentences, self.vocabulary)
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
