"""Toy data sets, one per task, made from a seed in milliseconds."""

from dataclasses import dataclass

import torch
from torch import Tensor

from expunge.core.rng import generator
from expunge.data.card import SourceCard
from expunge.data.tensors import TensorData
from expunge.types import Sets, Source


def cut(x: Tensor, y: Tensor, train: int) -> Sets:
    """Train on the first `train` records and hold out the others."""
    return Sets(TensorData(x[:train], y[:train]), TensorData(x[train:], y[train:]))


@dataclass(frozen=True, kw_only=True)
class Blobs(Source):
    """Gaussian classes around the corners of a simplex; few, noisy, easy to memorise.

    Attributes:
        classes: How many; also the number of features.
        train: Training records; half as many are held out.
        distance: Of each corner from the origin, in standard deviations.
        seed: Of the records.
    """

    card = SourceCard(name="blobs", kind="features", note="Gaussian classes, made from a seed")

    classes: int = 6
    train: int = 240
    distance: float = 2.0
    seed: int = 0

    def load(self) -> Sets:
        n, rng = self.train * 3 // 2, generator(self.seed, "blobs")
        y = torch.arange(n) % self.classes
        x = torch.randn(n, self.classes, generator=rng)
        x[torch.arange(n), y] += self.distance
        names = tuple(f"blob {k}" for k in range(self.classes))
        return cut(x, y, self.train)._replace(classes=names)


@dataclass(frozen=True, kw_only=True)
class Chains(Source):
    """Token sequences from a random Markov chain.

    Attributes:
        vocabulary: Tokens.
        length: Of each sequence, in questions.
        train: Training sequences; half as many are held out.
        seed: Of chain and sequences.
    """

    card = SourceCard(name="chains", kind="tokens", note="a Markov chain, made from a seed")

    vocabulary: int = 8
    length: int = 8
    train: int = 120
    seed: int = 0

    def load(self) -> Sets:
        n, rng = self.train * 3 // 2, generator(self.seed, "chains")
        logits = 2 * torch.randn(self.vocabulary, self.vocabulary, generator=rng)
        tokens = [torch.randint(self.vocabulary, (n,), generator=rng)]
        for _ in range(self.length):
            step = torch.multinomial(logits.softmax(-1)[tokens[-1]], 1, generator=rng)
            tokens.append(step[:, 0])
        every = torch.stack(tokens, 1)
        return cut(every[:, :-1], every[:, 1:], self.train)
