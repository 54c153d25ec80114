"""Residual networks of basic blocks.

He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", CVPR 2016,
https://arxiv.org/abs/1512.03385
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from expunge.models.normalize import Level, first
from expunge.models.shapes import answers, image
from expunge.types import Architecture, Card

Stem = Literal["auto", "small", "large"]

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}  # per stage: the paper's table 1
LARGE = 64  # pixels from which a 7 x 7 stem leaves the last stage an image of 2 x 2


class Block(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            convolution = nn.Conv2d(before, after, 1, stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn1(self.conv1(x)).relu_()
        return (self.bn2(self.conv2(inner)) + self.shortcut(x)).relu_()


def stem_of(channels: int, width: int, *, large: bool) -> nn.Sequential:
    """Return the layers before the first block."""
    if not large:
        convolution = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True))
    return nn.Sequential(
        nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2, padding=1),
    )


def blocks(depth: int, width: int) -> nn.Sequential:
    """Return the four stages; each after the first doubles the channels, halves the image."""
    made: list[nn.Module] = []
    before = width
    for number, count in enumerate(BLOCKS[depth]):
        after = width * 2**number
        for position in range(count):
            stride = 2 if number > 0 and position == 0 else 1
            made.append(Block(before, after, stride))
            before = after
    return nn.Sequential(*made)


@torch.no_grad()
def initialize(network: nn.Module) -> None:
    """Draw the convolutions' weights as He et al. do, keeping the gradient's variance."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


@dataclass(frozen=True, kw_only=True)
class ResNet(Architecture):
    """Basic blocks in four stages.

    Attributes:
        depth: Layers with weights.
        width: Channels of the first stage; 64 in the paper.
        stem: `large` is the paper's 7 x 7 convolution and pooling, which shrink the image
            four times; `small` is one 3 x 3 convolution, which keeps its size; `auto` is
            small for images under 64 pixels.
        mean: Subtracted from pixels, one number or one per channel; None is 0.5.
        std: Divides pixels, one number or one per channel; None is 0.25.
    """

    card = Card(name="resnet", source="https://arxiv.org/abs/1512.03385")

    depth: Literal[18, 34] = 18
    width: int = 64
    stem: Stem = "auto"
    mean: Level | None = None
    std: Level | None = None

    def __post_init__(self) -> None:
        if self.depth not in BLOCKS or self.width < 1:
            raise ValueError(
                f"expected depth 18 or 34 and width >= 1, got {self.depth} and {self.width}"
            )

    def build(self, inputs: tuple[int, ...], outputs: int) -> nn.Module:
        channels, height, width = image(inputs, "resnet")
        auto = min(height, width) >= LARGE
        network = nn.Sequential(
            first(inputs, self.mean, self.std),
            stem_of(
                channels, self.width, large=auto if self.stem == "auto" else self.stem == "large"
            ),
            blocks(self.depth, self.width),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8 * self.width, answers(outputs, "resnet")),
        )
        initialize(network)
        return network
