"""A small U-Net of convolutions, conditioned on the class.

Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation",
MICCAI 2015, https://arxiv.org/abs/1505.04597, as a denoiser by Ho, Jain and Abbeel, NeurIPS 2020,
and as diffusers has it: residual blocks with GroupNorm, so that no statistics are kept.
"""

import importlib
import importlib.util
import math
from dataclasses import dataclass
from types import ModuleType

from torch import Tensor, nn

from expunge.core.diffusion import check_installed
from expunge.models.shapes import image
from expunge.models.vision_ops import torchvision
from expunge.types import Architecture, Card

TICKS = 1000  # what the embedding of time is made for: whole numbers up to about this


class UNetNet(nn.Module):
    """Diffusers' network, asked as the task `denoising` asks.

    Attributes:
        network: The library's own, so that its names are those of its checkpoints.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, seen: dict[str, Tensor]) -> Tensor:
        time, classes = TICKS * seen["time"], seen["condition"]
        return self.network(seen["x"], time, class_labels=classes, return_dict=False)[0]


@dataclass(frozen=True, kw_only=True)
class UNet(Architecture):
    """Diffusers' U-Net without attention, for images of 8 to 32 pixels.

    It comes with `pip install 'expunge[diffusion]'` and is trained from chance. Images are
    centred by the task, before noise is mixed in.

    Attributes:
        conditions: How many classes an image may be conditioned on.
        widths: Channels at each resolution, the finest first; between two the side is halved.
        depth: Residual blocks at each resolution on the way down; one more on the way up.
        groups: Of GroupNorm; divides every width.
    """

    card = Card(name="unet", source="https://arxiv.org/abs/1505.04597")

    denoises = True

    conditions: int
    widths: tuple[int, ...] = (32, 64)
    depth: int = 1
    groups: int = 8

    def __post_init__(self) -> None:
        if min(self.conditions, self.depth, self.groups) < 1 or not self.widths:
            raise ValueError(
                "expected conditions, depth and groups of at least 1 and at least one width, got "
                f"{self.conditions}, {self.depth}, {self.groups} and {self.widths}"
            )
        wrong = [width for width in self.widths if width < 1 or width % self.groups]
        if wrong:
            near = math.ceil(max(1, wrong[0]) / self.groups) * self.groups
            raise ValueError(
                f"expected widths that {self.groups} groups divide, got {wrong[0]}; take {near}, "
                "or other `groups`"
            )

    def build(self, inputs: tuple[int, ...], outputs: int) -> nn.Module:
        channels, height, width = image(inputs, "unet")
        if outputs:
            raise ValueError(
                f"'unet' gives back an image, but the task wants {outputs} answers; its task is "
                "'denoising'"
            )
        finest = 2 ** (len(self.widths) - 1)
        if height % finest or width % finest:
            raise ValueError(
                f"'unet' of {len(self.widths)} widths halves the sides {len(self.widths) - 1} "
                f"times, which {height} x {width} pixels do not allow; take fewer `widths`, or "
                f"images with a `side` that {finest} divides"
            )
        count = len(self.widths)
        return UNetNet(
            _library().UNet2DModel(
                sample_size=(height, width),
                in_channels=channels,
                out_channels=channels,
                down_block_types=("DownBlock2D",) * count,
                up_block_types=("UpBlock2D",) * count,
                block_out_channels=self.widths,
                layers_per_block=self.depth,
                norm_num_groups=self.groups,
                add_attention=False,
                num_class_embeds=self.conditions,
            )
        )


def _library() -> ModuleType:
    """Import diffusers, which imports torchvision in its turn where that is installed."""
    check_installed()
    if importlib.util.find_spec("torchvision") is not None:
        torchvision()
    return importlib.import_module("diffusers")
