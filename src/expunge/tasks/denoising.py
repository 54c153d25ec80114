"""Conditional denoising, the training task of diffusion models.

Ho, Jain and Abbeel, "Denoising Diffusion Probabilistic Models", NeurIPS 2020,
https://arxiv.org/abs/2006.11239
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from expunge.core.diffusion import levels
from expunge.types import Batch, Card, Task, later


@dataclass(frozen=True, kw_only=True)
class Denoising(Task):
    """Name the noise that was mixed into a record of a known class.

    The model sees `{"x": noisy, "time": in (0, 1), "condition": class}`. Wrong answers
    are noise drawn anew, unrelated to what the model sees.

    Attributes:
        mean: Subtracted from records before noise is mixed in; 0.5 centres pixels.
        std: Divides them, so that they and the noise are of one size; 0.5 brings pixels to
            [-1, 1].
    """

    card = Card(name="denoising", source="https://arxiv.org/abs/2006.11239")

    mean: float = later(0.0)
    std: float = later(1.0)

    def __post_init__(self) -> None:
        if self.std <= 0:
            raise ValueError(f"expected std > 0, got {self.std}")

    @property
    def outputs(self) -> int:
        return 0  # as wide as the record

    def pose(self, batch: Batch, rng: torch.Generator) -> Batch:
        if isinstance(batch.x, dict):
            raise TypeError("denoising expects x as one tensor, got a dict of tensors")
        clean = (batch.x - self.mean) / self.std
        time = torch.rand(len(clean), generator=rng).to(clean)
        noise = torch.randn(clean.shape, generator=rng).to(clean)
        signal, blur = levels(time.reshape(-1, *[1] * (clean.dim() - 1)))
        seen = {"x": signal * clean + blur * noise, "time": time, "condition": batch.y}
        return Batch(seen, noise, batch.index)

    def records(self, samples: Tensor) -> Tensor:
        """Return samples on the scale of the records."""
        return samples * self.std + self.mean

    def losses(self, outputs: Tensor, y: Tensor) -> Tensor:
        return (outputs - y).square().flatten(1).mean(1)

    def divergence(self, teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
        del temperature  # both outputs are means of Gaussians of one variance
        return (teacher - student).square().flatten(1).mean(1)

    def draw(self, outputs: Tensor, y: Tensor, chance: Tensor) -> Tensor:
        del y  # of the form of the outputs
        # Half the width is the variance under which the loss is a negative log-likelihood.
        variance = outputs[0].numel() / 2
        tail = torch.finfo(chance.dtype).eps
        return outputs + math.sqrt(variance) * torch.special.ndtri(chance.clamp(tail, 1 - tail))

    def relabel(self, y: Tensor, rng: torch.Generator) -> Tensor:
        return torch.randn(y.shape, generator=rng).to(y)
