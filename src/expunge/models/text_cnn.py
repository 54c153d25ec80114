"""A convolutional classifier of texts.

Kim, "Convolutional Neural Networks for Sentence Classification", EMNLP 2014,
https://arxiv.org/abs/1408.5882
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from expunge.models.shapes import answers, positive, share, tokens
from expunge.types import Architecture, Card


class TextCNNNet(nn.Module):
    """Embed; look at every run of so many tokens; keep each channel's largest; decide."""

    def __init__(self, settings: "TextCNN", classes: int) -> None:
        super().__init__()
        width, channels = settings.embedding, settings.channels
        self.embed = nn.Embedding(settings.vocabulary, width, padding_idx=0)
        self.branches = nn.ModuleList(nn.Conv1d(width, channels, k) for k in settings.kernels)
        self.dropout = nn.Dropout(settings.dropout) if settings.dropout else nn.Identity()
        self.head = nn.Linear(channels * len(settings.kernels), classes)

    def forward(self, tokens: Tensor) -> Tensor:
        embedded = self.embed(tokens).transpose(1, 2)
        largest = [branch(embedded).relu().amax(2) for branch in self.branches]
        return self.head(self.dropout(torch.cat(largest, 1)))


@dataclass(frozen=True, kw_only=True)
class TextCNN(Architecture):
    """Convolutions of several lengths side by side, and each channel's maximum over time.

    It takes rows of token numbers; token 0 is padding, whose embedding is zero and stays so.
    The defaults are those of Ma et al., https://arxiv.org/abs/2003.10933, for IMDB.

    Attributes:
        vocabulary: How many token numbers there are, padding included.
        embedding: Width of the embedding.
        channels: Of each convolution.
        kernels: How many tokens each convolution sees at once.
        dropout: Share of the maxima that training drops, in [0, 1); Kim drops half.
    """

    card = Card(name="text_cnn", source="https://arxiv.org/abs/1408.5882")

    vocabulary: int = 25_000
    embedding: int = 100
    channels: int = 100
    kernels: tuple[int, ...] = (3, 4, 5)
    dropout: float = 0.0

    def __post_init__(self) -> None:
        least = min(self.kernels, default=0)
        positive(
            "text_cnn",
            vocabulary=self.vocabulary,
            embedding=self.embedding,
            channels=self.channels,
            kernels=least,
        )
        share(self.dropout)

    def build(self, inputs: tuple[int, ...], outputs: int) -> nn.Module:
        tokens(inputs, "text_cnn", least=max(self.kernels))
        return TextCNNNet(self, answers(outputs, "text_cnn"))
