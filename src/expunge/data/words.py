"""Texts as numbers by a vocabulary of words that is learnt from training texts.

Words are lower-cased, and cut at white space and around punctuation. The most frequent have
numbers; all others share one. The vocabulary is learnt from all training texts, those that are
to be forgotten among them: that a word is in it, its rank and its weight are traces of those that
no method can remove, as in practice. `hashed` counts leave none.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from expunge.data.cache import Arrays

PADDING, UNKNOWN = 0, 1
SPECIAL = ("[padding]", "[unknown]")
CHUNK = 512  # texts at a time: what is told of each word takes far more room than its number
PRESENT = 255  # a byte that a model sees as 1


def learnt(texts: Sequence[str], size: int) -> Arrays:
    """Learn a vocabulary, and how much each word tells of a text.

    Args:
        texts: To learn from.
        size: Numbers in all; padding and unknown words have the first two.

    Returns:
        The inverse document frequencies `weight`, ln((1 + n) / (1 + n_word)) + 1, and the
        `tokenizer` in the form of the library of that name.

    Raises:
        ValueError: Where no word has room.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    if size <= len(SPECIAL):
        raise ValueError(
            f"expected a vocabulary of more than {len(SPECIAL)}, which are for padding and unknown "
            f"words, got {size}"
        )
    tokenizer: Any = Tokenizer(models.WordLevel(unk_token=SPECIAL[UNKNOWN]))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer: Any = trainers.WordLevelTrainer(
        vocab_size=size, special_tokens=list(SPECIAL), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    lexicon = Lexicon(tokenizer, torch.ones(size))
    having = torch.zeros(size)
    for counts in lexicon.counts(texts):
        having += (counts > 0).sum(0)
    weight = torch.log((1 + len(texts)) / (1 + having)) + 1
    return Arrays({"weight": weight}, {"tokenizer": tokenizer.to_str()})


@dataclass(frozen=True, eq=False)
class Lexicon:
    """A vocabulary that texts are coded by.

    Attributes:
        tokenizer: Of the library `tokenizers`.
        weight: Inverse document frequency of each number.
    """

    tokenizer: Any
    weight: Float[Tensor, " vocabulary"]

    @classmethod
    def read(cls, arrays: Arrays) -> "Lexicon":
        """Return what was learnt."""
        from tokenizers import Tokenizer

        return cls(Tokenizer.from_str(arrays.notes["tokenizer"]), arrays.tensors["weight"])

    def rows(self, texts: Sequence[str], length: int) -> Int[Tensor, "n length"]:
        """Return the numbers of each text's first words, padded at its end."""
        rows = torch.full((len(texts), length), PADDING)
        for row, numbers in enumerate(self._numbers(texts)):
            first = numbers[:length]
            rows[row, : len(first)] = torch.tensor(first, dtype=torch.long)
        return rows

    def bags(self, texts: Sequence[str]) -> UInt8[Tensor, "n vocabulary"]:
        """Return which words each text has, as bytes of 0 or 255: a model sees 0 or 1.

        Padding and unknown words count for nothing.
        """
        parts = [(counts > 0).to(torch.uint8) * PRESENT for counts in self.counts(texts)]
        return torch.cat(parts)

    def weighted(self, texts: Sequence[str]) -> Float[Tensor, "n vocabulary"]:
        """Return how often each text has each word, times its weight, scaled to length 1.

        Padding and unknown words count for nothing.
        """
        parts = [counts * self.weight for counts in self.counts(texts)]
        return torch.nn.functional.normalize(torch.cat(parts), dim=1)

    def counts(self, texts: Sequence[str]) -> Iterator[Float[Tensor, "k vocabulary"]]:
        """Yield how often each text has each word, for some texts at a time."""
        size = len(self.weight)
        for start in range(0, len(texts), CHUNK):
            chunk = self._numbers(texts[start : start + CHUNK])
            found = [torch.tensor(one, dtype=torch.long).bincount(minlength=size) for one in chunk]
            counts = torch.stack(found).float()
            counts[:, : len(SPECIAL)] = 0
            yield counts

    def _numbers(self, texts: Sequence[str]) -> Iterator[list[int]]:
        for start in range(0, len(texts), CHUNK):
            for coded in self.tokenizer.encode_batch_fast(list(texts[start : start + CHUNK])):
                yield coded.ids
