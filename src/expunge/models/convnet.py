"""A small convolutional network."""

from dataclasses import dataclass

from torch import nn

from expunge.models.normalize import Level, first
from expunge.models.shapes import answers, image
from expunge.types import Architecture, Card


def stage(before: int, after: int) -> list[nn.Module]:
    """Return a 3 x 3 convolution that keeps the image's size, with BatchNorm and ReLU."""
    convolution = nn.Conv2d(before, after, 3, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True)]


@dataclass(frozen=True, kw_only=True)
class ConvNet(Architecture):
    """Three convolutions, halving the image twice, then an average and a linear layer.

    Attributes:
        width: Channels of the first convolution; the next ones have twice and four times
            as many.
        mean: Subtracted from pixels, one number or one per channel; None is 0.5.
        std: Divides pixels, one number or one per channel; None is 0.25.
    """

    card = Card(name="convnet")

    width: int = 32
    mean: Level | None = None
    std: Level | None = None

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"expected width >= 1 channels, got {self.width}")

    def build(self, inputs: tuple[int, ...], outputs: int) -> nn.Module:
        channels, _, _ = image(inputs, "convnet", least=4)
        width = self.width
        return nn.Sequential(
            first(inputs, self.mean, self.std),
            *stage(channels, width),
            nn.MaxPool2d(2),
            *stage(width, 2 * width),
            nn.MaxPool2d(2),
            *stage(2 * width, 4 * width),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4 * width, answers(outputs, "convnet")),
        )
