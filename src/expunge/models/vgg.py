"""A deep network of 3 x 3 convolutions, for small images.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition",
ICLR 2015, https://arxiv.org/abs/1409.1556
"""

from dataclasses import dataclass

import torch
from torch import nn

from expunge.models.normalize import Level, first
from expunge.models.resnet import initialize
from expunge.models.shapes import answers, image, positive
from expunge.types import Architecture, Card

STAGES = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))  # table 1, column D: widths, convolutions
LEAST = 16  # pixels; below, whole stages would see one pixel and its padding


def stage(before: int, after: int, count: int, *, batch_norm: bool) -> list[nn.Module]:
    """Return convolutions that keep the image's size, and a pooling that halves it."""
    layers: list[nn.Module] = []
    for number in range(count):
        layers.append(nn.Conv2d(after if number else before, after, 3, padding=1))
        if batch_norm:
            layers.append(nn.BatchNorm2d(after))
        layers.append(nn.ReLU(inplace=True))
    # Halves are rounded up, so that five of them leave a pixel of any image.
    return [*layers, nn.MaxPool2d(2, ceil_mode=True)]


@torch.no_grad()
def no_bias(network: nn.Module) -> None:
    """Start the convolutions without a bias."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            module.bias.zero_()


@dataclass(frozen=True, kw_only=True)
class VGG(Architecture):
    """VGG-16: thirteen convolutions in five stages, and one linear layer in place of three.

    An image of 32 pixels is one pixel at the end; what is left of larger ones is averaged.
    Weights are drawn as He et al. do, by which it trains without BatchNorm too.

    Attributes:
        batch_norm: Whether BatchNorm follows each convolution; the paper is older than it.
        width: Channels of the first stage; 64 in the paper.
        mean: Subtracted from pixels, one number or one per channel; None is 0.5.
        std: Divides pixels, one number or one per channel; None is 0.25.
    """

    card = Card(name="vgg", source="https://arxiv.org/abs/1409.1556")

    batch_norm: bool = True
    width: int = 64
    mean: Level | None = None
    std: Level | None = None

    def __post_init__(self) -> None:
        positive("vgg", width=self.width)

    def build(self, inputs: tuple[int, ...], outputs: int) -> nn.Module:
        before, _, _ = image(inputs, "vgg", least=LEAST)
        layers: list[nn.Module] = [first(inputs, self.mean, self.std)]
        for times, count in STAGES:
            layers += stage(before, times * self.width, count, batch_norm=self.batch_norm)
            before = times * self.width
        head = nn.Linear(before, answers(outputs, "vgg"))
        network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
        initialize(network)
        no_bias(network)
        return network
