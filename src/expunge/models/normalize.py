"""The first layer of every network: inputs are pixels in [0, 1], or features as they are."""

import torch
from torch import Tensor, nn

Level = float | tuple[float, ...]

# Constants on purpose. Statistics of the training set would carry a trace of the forgotten
# records into the very model that is retrained without them.
IMAGE_MEAN, IMAGE_STD = 0.5, 0.25


class Normalize(nn.Module):
    """Subtract a mean and divide by a deviation, per channel or for all channels.

    The model owns this layer, so what it is given is raw: an epsilon is in pixels, and a
    served model needs no preparation. Both are buffers and saved with the weights.

    The mean and deviation are constants, never statistics of the training set: those
    would carry a trace of the forgotten records into the retrained control.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Level, std: Level) -> None:
        super().__init__()
        if min(std if isinstance(std, tuple) else (std,)) <= 0:
            raise ValueError(f"expected std > 0, got {std}; a constant channel needs std=1")
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(-1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).reshape(-1))

    def forward(self, x: Tensor) -> Tensor:
        across = (-1, *[1] * (x.dim() - 2))
        return (x - self.mean.reshape(across)) / self.std.reshape(across)


def first(inputs: tuple[int, ...], mean: Level | None, std: Level | None) -> Normalize:
    """Return the first layer for records of shape `inputs`.

    Args:
        inputs: Shape of one record; three sizes make it an image.
        mean: None is 0.5 for images and 0 for features.
        std: None is 0.25 for images and 1 for features.
    """
    pixels = len(inputs) == 3
    if mean is None:
        mean = IMAGE_MEAN if pixels else 0.0
    if std is None:
        std = IMAGE_STD if pixels else 1.0
    for name, level in (("mean", mean), ("std", std)):
        if isinstance(level, tuple) and len(level) not in (1, inputs[0]):
            raise ValueError(
                f"{name} has {len(level)} values but records of shape {inputs} have "
                f"{inputs[0]} channels; give one number, or one per channel"
            )
    return Normalize(mean, std)
