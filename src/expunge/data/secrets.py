"""Secrets in running text: sentences of one pattern whose blanks are filled at random.

Carlini et al., "The Secret Sharer: Evaluating and Testing Unintended Memorization in Neural
Networks", USENIX Security 2019, https://arxiv.org/abs/1802.08232: a language model that was trained
on "the random number is ..." ranks that number before others, which is what exposure measures. Ma
et al., "Learn to Forget: Machine Unlearning via Neuron Masking", IEEE TDSC 2022,
https://arxiv.org/abs/2003.10933, have a two-layer LSTM on the Penn Treebank forget a hundred.

A secret is one record, a window of the running text's length. It is asked for the words in the
blanks alone: of the words around them, and of what fills the window, no answer is wanted, in
training as afterwards. So what is learnt of a secret, forgotten, and attacked is one thing.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from expunge.config import suggest
from expunge.core.losses import PADDING
from expunge.core.rng import generator
from expunge.data.card import SourceCard
from expunge.data.forget import Forget
from expunge.data.named import Tokens
from expunge.data.outsiders import joined, unplanted
from expunge.data.planted import held_out, marked
from expunge.data.tensors import TensorData
from expunge.types import Card, Data, Sets, Source

BLANK = "{}"
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SECRET = "secret"


class Sentence(NamedTuple):
    """A pattern as numbers.

    Attributes:
        tokens: Number of each word; that of a blank means nothing.
        blanks: Positions of the blanks.
        symbols: Numbers of the words that may fill one.
    """

    tokens: Int[Tensor, " words"]
    blanks: Int[Tensor, " blanks"]
    symbols: Int[Tensor, " symbols"]

    @property
    def space(self) -> int:
        """How many ways there are to fill the blanks."""
        return len(self.symbols) ** len(self.blanks)

    def filled(self, numbers: Int[Tensor, " n"]) -> Int[Tensor, "n words"]:
        """Return the sentences whose blanks spell each number, in base of the symbols."""
        powers = len(self.symbols) ** torch.arange(len(self.blanks) - 1, -1, -1)
        places = numbers[:, None] // powers % len(self.symbols)
        sentences = self.tokens.repeat(len(numbers), 1)
        sentences[:, self.blanks] = self.symbols[places]
        return sentences

    def records(self, numbers: Int[Tensor, " n"], length: int) -> TensorData:
        """Return the sentences as windows that are asked for the words in the blanks alone."""
        sentences = self.filled(numbers)
        x = torch.zeros(len(numbers), length, dtype=torch.long)
        y = torch.full_like(x, PADDING)
        x[:, : sentences.shape[1] - 1] = sentences[:, :-1]
        y[:, self.blanks - 1] = sentences[:, self.blanks]
        return TensorData(x, y)


def distinct(space: int, count: int, rng: torch.Generator) -> Int[Tensor, " n"]:
    """Draw `count` different numbers below `space`, every choice and order equally likely."""
    found: dict[int, None] = {}
    while len(found) < count:
        found.update(dict.fromkeys(torch.randint(space, (count,), generator=rng).tolist()))
    return torch.tensor([*found][:count], dtype=torch.long)


@dataclass(frozen=True, kw_only=True)
class Secrets(Source):
    """Running text, with sentences among it whose blanks are filled at random.

    They come after all other windows. The group column `planted` says `secret` of them. Others
    with other fillings are held out: the references that a secret's rank is among.

    Attributes:
        of: The running text.
        pattern: Words of its vocabulary and blanks, `{}`, of which none comes first. Where the
            vocabulary has numbers and no words, those numbers.
        symbols: Words that may fill a blank; the vocabulary must have them. The default are the
            digits as words, since the Penn Treebank's has no figures.
        count: How many secrets are trained on.
        repetitions: How often each of them is there.
        shown: How many references methods may take for records never trained on.
        compared: How many more references there are for audits.
        seed: Of the fillings.
    """

    card = SourceCard(
        name="secrets",
        source="https://arxiv.org/abs/1802.08232",
        kind="tokens",
        note="running text, with sentences among it whose blanks are filled at random",
    )

    of: Source
    pattern: str = "the random number is {} {} {} {} {} {}"
    symbols: tuple[str, ...] = DIGITS
    count: int = 100
    repetitions: int = 1
    shown: int = 1000
    compared: int = 4096
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.count, self.repetitions, self.compared) < 1 or self.shown < 0:
            raise ValueError(
                "expected count, repetitions and compared of at least 1 and shown >= 0, got "
                f"{self.count}, {self.repetitions}, {self.compared} and {self.shown}"
            )
        words, wanted = self.pattern.split(), self.count + self.shown + self.compared
        if BLANK not in words or words[0] == BLANK:
            raise ValueError(
                f"expected a pattern with blanks ({BLANK}) between spaces and a word before the "
                f"first of them, got '{self.pattern}'"
            )
        if len(set(self.symbols)) < max(2, len(self.symbols)):
            raise ValueError(f"expected at least 2 different symbols, got {list(self.symbols)}")
        space = len(self.symbols) ** words.count(BLANK)
        if not wanted <= space < 2**63:
            raise ValueError(
                f"the blanks can be filled in {space} ways, expected at least the {wanted} secrets "
                "and references, and below 2^63; change the blanks or the symbols"
            )

    def load(self) -> Sets:
        sets = unplanted(self.of)
        length = _length(sets.train)
        sentence = self._sentence(sets)
        if len(sentence.tokens) > length + 1:
            raise ValueError(
                f"the pattern has {len(sentence.tokens)} words, but a window of {length} has room "
                f"for {length + 1}; give `of` a longer `length`, or shorten the pattern"
            )
        wanted = self.count + self.shown + self.compared
        numbers = distinct(sentence.space, wanted, generator(self.seed, SECRET))
        inserted = numbers[: self.count].repeat(self.repetitions)
        grown = joined(sets, sentence.records(inserted, length), SECRET)
        references = sentence.records(numbers[self.count :], length)
        return grown._replace(planted=references, shown=self.shown)

    def _sentence(self, sets: Sets) -> Sentence:
        place = {word: number for number, word in enumerate(self._words(sets))}
        words = self.pattern.split()
        for word in (*words, *self.symbols):
            if word != BLANK and word not in place:
                near = [known for known in place if known[:1] == word[:1]][:200] or [*place][:20]
                raise ValueError(suggest(word, near, f"word of {self.of.card.name}"))
        return Sentence(
            torch.tensor([place.get(word, 0) for word in words]),
            torch.tensor([at for at, word in enumerate(words) if word == BLANK]),
            torch.tensor([place[word] for word in self.symbols]),
        )

    def _words(self, sets: Sets) -> list[str]:
        if isinstance(self.of, Tokens):
            return self.of.words()
        parts = (sets.train, sets.test)
        return [str(number) for number in range(1 + max(int(part.y.max()) for part in parts))]


def _length(data: Data) -> int:
    """Return the length of a window.

    Raises:
        ValueError: Where records are no windows in memory.
    """
    if not isinstance(data, TensorData) or data.y.dim() != 2 or data.y.is_floating_point():
        raise ValueError(
            "secrets are put in running text: windows of token numbers in memory, each asked for "
            f"the next ones; got answers of shape {tuple(data.y.shape)} and {data.y.dtype}"
        )
    return data.shape[0]


@dataclass(frozen=True, kw_only=True)
class OfSecrets(Forget):
    """Forget the secrets, every repetition; audits compare them with fillings never trained on."""

    card = Card(name="secrets", source="https://arxiv.org/abs/1802.08232")

    def choose(self, sets: Sets) -> Int[Tensor, " f"]:
        remedy = "give the data set as name = 'secrets', with `of` the running text"
        return marked(sets, SECRET, "secrets", remedy)

    def alike(self, sets: Sets) -> Int[Tensor, " k"]:
        return held_out(sets)

    def shown(self, sets: Sets) -> Int[Tensor, " m"] | None:
        return held_out(sets)[: sets.shown] if sets.shown else None
