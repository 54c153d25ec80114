"""A convolutional classifier of long texts over word vectors that are not trained.

Chollet, "Using pre-trained word embeddings in a Keras model", 2016,
https://blog.keras.io/using-pre-trained-word-embeddings-in-a-keras-model.html
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from expunge.core.rng import generator
from expunge.models.shapes import answers, positive, tokens
from expunge.types import Architecture, Card

KERNEL = POOL = 5
LEAST = 149  # tokens, of which three convolutions and two poolings leave one position


class Frozen(nn.Module):
    """Word vectors that no training changes: a buffer, saved with the weights."""

    weight: Tensor

    def __init__(self, weight: Float[Tensor, "vocabulary width"]) -> None:
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self.weight).transpose(1, 2)


def drawn(vocabulary: int, width: int, seed: int) -> Float[Tensor, "vocabulary width"]:
    """Return vectors of independent standard normal numbers; that of padding is zero."""
    vectors = torch.randn(vocabulary, width, generator=generator(seed, "vectors"), device="cpu")
    vectors[0] = 0
    return vectors


def words_of(path: Path) -> dict[str, int]:
    """Return each word's token number: its line, from 0, or what a tokenizer's file says.

    Raises:
        ValueError: Where a tokenizer's file has no vocabulary by word.
    """
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".json":
        return {word: number for number, word in enumerate(text.split("\n")) if word}
    vocabulary = json.loads(text).get("model", {}).get("vocab")
    if not isinstance(vocabulary, dict):
        raise ValueError(
            f"expected {path} to be a file of the tokenizers library with a vocabulary of whole "
            "words; train one with its WordLevel model, or give a text file of a word a line"
        )
    return vocabulary


def read_vectors(
    path: Path, words: dict[str, int], vocabulary: int, width: int
) -> Float[Tensor, "vocabulary width"]:
    """Read word vectors as GloVe has them: a word and its numbers on each line.

    Words that the file does not have, and padding, are zero, as in the example.

    Raises:
        ValueError: Where it has none of the words, or vectors of another width.
    """
    vectors, found = torch.zeros(vocabulary, width, device="cpu"), 0
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            word, *values = line.rstrip("\n").rsplit(" ", width)
            if len(values) < width or (number == 1 and " " in word):
                raise ValueError(
                    f"expected a word and {width} numbers on each line of {path}, got "
                    f"{len(line.split(' ')) - 1} numbers on line {number}; set `embedding` to the "
                    "width of its vectors, and drop a first line that counts them"
                )
            token = words.get(word)
            if token is not None and 0 < token < vocabulary:
                vectors[token] = torch.tensor([float(value) for value in values])
                found += 1
    if not found:
        raise ValueError(
            f"{path} has a vector for none of the {len(words)} words; is it in GloVe's text "
            "format, and are the words written as there, in lower case mostly?"
        )
    return vectors


class NewsCNNNet(nn.Module):
    """Three convolutions, pooled, the last one's maximum over time, two linear layers."""

    def __init__(self, vectors: Tensor, channels: int, classes: int) -> None:
        super().__init__()
        width = vectors.shape[1]
        self.embed = Frozen(vectors)
        self.body = nn.Sequential(
            nn.Conv1d(width, channels, KERNEL),
            nn.ReLU(),
            nn.MaxPool1d(POOL),
            nn.Conv1d(channels, channels, KERNEL),
            nn.ReLU(),
            nn.MaxPool1d(POOL),
            nn.Conv1d(channels, channels, KERNEL),
            nn.ReLU(),
            nn.AdaptiveMaxPool1d(1),
            nn.Flatten(),
            nn.Linear(channels, channels),
            nn.ReLU(),
            nn.Linear(channels, classes),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        return self.body(self.embed(tokens))


@dataclass(frozen=True, kw_only=True)
class NewsCNN(Architecture):
    """Word vectors that are given, three convolutions on them, and two linear layers.

    It takes rows of token numbers; token 0 is padding. Of 1000 tokens the last convolution
    leaves 35 positions. The example has GloVe's vectors, which are not part of this library:
    download them and name the file in `vectors`. Without it every word has a vector drawn at
    random, the same in every model of a seed, and fixed all the same: words then start out
    as different from each other as can be, and equal in meaning to none.

    Attributes:
        vocabulary: How many token numbers there are, padding included.
        embedding: Width of the vectors.
        channels: Of each convolution, and width of the linear layer after them.
        vectors: Path of a file of word vectors in GloVe's text format; None draws them.
        words: Path of the vocabulary, for `vectors`: a text file with the words in the order of
            their token numbers, one a line and padding first, or a file of the tokenizers
            library with a vocabulary of whole words.
        checksum: SHA-256 of both files' own. Left out, it is taken from them; given, other files
            are refused, so that settings name one network.
        seed: Of vectors that are drawn.
    """

    card = Card(
        name="news_cnn",
        source="https://blog.keras.io/using-pre-trained-word-embeddings-in-a-keras-model.html",
    )

    vocabulary: int = 20_000
    embedding: int = 100
    channels: int = 128
    vectors: str | None = None
    words: str | None = None
    checksum: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        positive(
            "news_cnn",
            vocabulary=self.vocabulary,
            embedding=self.embedding,
            channels=self.channels,
        )
        if (self.vectors is None) != (self.words is None):
            raise ValueError(
                "expected `vectors` and `words` together, got one of them; the vocabulary says "
                "which token each vector is for"
            )
        found = self._checksum()
        if self.checksum not in (None, found):
            raise ValueError(
                f"{self.vectors} and {self.words} are not the files that these settings name: "
                f"expected checksum {self.checksum}, got {found}; bring those files back, or "
                "leave `checksum` out"
            )
        object.__setattr__(self, "checksum", found)

    def _checksum(self) -> str | None:
        if self.vectors is None or self.words is None:
            return None
        both = hashlib.sha256()
        for name in (self.vectors, self.words):
            file = Path(name).expanduser()
            if not file.is_file():
                raise ValueError(f"there is no file {file}; check `vectors` and `words`")
            with file.open("rb") as opened:
                both.update(hashlib.file_digest(opened, "sha256").digest())
        return both.hexdigest()

    def build(self, inputs: tuple[int, ...], outputs: int) -> nn.Module:
        tokens(inputs, "news_cnn", least=LEAST)
        if self.vectors is None or self.words is None:
            vectors = drawn(self.vocabulary, self.embedding, self.seed)
        else:
            known = words_of(Path(self.words).expanduser())
            file = Path(self.vectors).expanduser()
            vectors = read_vectors(file, known, self.vocabulary, self.embedding)
        return NewsCNNNet(vectors, self.channels, answers(outputs, "news_cnn"))
