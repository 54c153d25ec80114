"""A recurrent next-token model.

Hochreiter and Schmidhuber, "Long Short-Term Memory", Neural Computation 1997,
https://doi.org/10.1162/neco.1997.9.8.1735
"""

from dataclasses import dataclass

from torch import Tensor, nn

from expunge.models.shapes import answers, row
from expunge.types import Architecture, Card


class LSTMNet(nn.Module):
    """Embed, recur, project to the vocabulary."""

    def __init__(self, vocabulary: int, hidden: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, hidden)
        self.recur = nn.LSTM(hidden, hidden, batch_first=True)
        self.project = nn.Linear(hidden, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.project(self.recur(self.embed(tokens))[0])


@dataclass(frozen=True, kw_only=True)
class LSTM(Architecture):
    """One layer of long short-term memory; the vocabulary is the task's.

    Attributes:
        hidden: Width of the embedding and of the memory.
    """

    card = Card(name="lstm", source="https://doi.org/10.1162/neco.1997.9.8.1735")

    hidden: int = 32

    def build(self, inputs: tuple[int, ...], outputs: int) -> nn.Module:
        row(inputs, "lstm", "rows of token numbers")
        return LSTMNet(answers(outputs, "lstm"), self.hidden)
