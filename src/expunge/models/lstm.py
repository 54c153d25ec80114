"""A recurrent next-token model.

Hochreiter and Schmidhuber, "Long Short-Term Memory", Neural Computation 1997,
https://doi.org/10.1162/neco.1997.9.8.1735

Dropout is that of Zaremba, Sutskever and Vinyals, "Recurrent Neural Network Regularization",
2014, https://arxiv.org/abs/1409.2329: on what goes up from layer to layer, the embedding and the
last layer's outputs included, never on what goes on in time.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from expunge.models.shapes import answers, positive, row, share
from expunge.types import Architecture, Card, later


class LSTMNet(nn.Module):
    """Embed, recur, project to the vocabulary."""

    def __init__(self, vocabulary: int, settings: "LSTM") -> None:
        super().__init__()
        width, hidden, layers = settings.width, settings.hidden, settings.layers
        between = settings.dropout if layers > 1 else 0.0
        self.embed = nn.Embedding(vocabulary, width)
        self.recur = nn.LSTM(width, hidden, layers, batch_first=True, dropout=between)
        self.project = nn.Linear(hidden, vocabulary)
        self.dropout = settings.dropout

    def forward(self, tokens: Tensor) -> Tensor:
        memory, _ = self.recur(self._drop(self.embed(tokens)))
        return self.project(self._drop(memory))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


@dataclass(frozen=True, kw_only=True)
class LSTM(Architecture):
    """Layers of long short-term memory; the vocabulary is the task's.

    Attributes:
        hidden: Width of the memory.
        layers: How many, one on the other.
        embedding: Width of the embedding; left out, that of the memory.
        dropout: Share of what goes up from layer to layer that training drops, in [0, 1).
    """

    card = Card(name="lstm", source="https://doi.org/10.1162/neco.1997.9.8.1735")

    hidden: int = 32
    layers: int = later(1)
    embedding: int | None = later(None)
    dropout: float = later(0.0)

    def __post_init__(self) -> None:
        positive("lstm", hidden=self.hidden, layers=self.layers, embedding=self.width)
        share(self.dropout)

    @property
    def width(self) -> int:
        """Width of the embedding."""
        return self.hidden if self.embedding is None else self.embedding

    def build(self, inputs: tuple[int, ...], outputs: int) -> nn.Module:
        row(inputs, "lstm", "rows of token numbers")
        return LSTMNet(answers(outputs, "lstm"), self)
