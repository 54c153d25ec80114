"""Rotate: transpose every convolution's kernel, then fine-tune on the retain set.

toshi_k and marvelworld (fifth in the final list), "5th place solution" (half of it), NeurIPS
2023 Machine Unlearning Challenge,
https://www.kaggle.com/competitions/neurips-2023-machine-unlearning/discussion/458531; compared
under this name by Salgado Herrera et al., "Comparative Analysis of Machine Unlearning
Approaches for Data Protection", CAID 2024.

Where kernels, strides and paddings are the same both ways and pooling is global, the changed
network says of an image exactly what the original says of the transposed image. The method is
then fine-tuning from a network that reads images on their side.

Departures from the write-up:
    1. It speaks of a rotation; public code for it transposes, and so does this.
    2. Run alone. The authors took this for 48 % of their models and pseudo-labels for the
       others, or the reverse; `blend` does so.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from expunge.core.cost import Cost
from expunge.core.descent import Pass, descend, settle
from expunge.core.rng import generator
from expunge.core.state import Norms
from expunge.method import Method, MethodCard, Preset, Sizes
from expunge.types import Batch, Descent, Refused, Request

SEED_PAPER = "https://hal.science/hal-05046594v1: the number of epochs alone"


@torch.no_grad()
def transpose(model: nn.Module) -> None:
    """Swap rows and columns of every two-dimensional convolution's kernel, in place.

    Raises:
        Refused: Before any change, where a kernel is not square, or all are 1 x 1.
    """
    layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    for name, layer in layers.items():
        high, wide = layer.kernel_size
        if high != wide:
            raise Refused(
                f"expected square kernels, got {high} x {wide} in layer '{name}'; transposed, it "
                "would be of another shape than the network's: take 'deviation' or 'pruning', "
                "which go without"
            )
    if all(layer.kernel_size == (1, 1) for layer in layers.values()):
        raise Refused(
            f"expected a convolution of 2 x 2 or more, but all {len(layers)} are of 1 x 1, which "
            "transposing leaves as they are; take 'deviation' or 'pruning'"
        )
    for layer in layers.values():
        layer.weight.copy_(layer.weight.transpose(2, 3).clone())


@dataclass(frozen=True, kw_only=True)
class Rotate(Method):
    """Transpose the kernels, then fine-tune on the retain set.

    Attributes:
        descent: The fine-tuning's optimiser.
        norms: BatchNorm's policy.
    """

    card = MethodCard(
        name="rotate",
        source="https://www.kaggle.com/competitions/neurips-2023-machine-unlearning/discussion/458531",
        needs=("original", "retain"),
        norms="updated on retained records by default",
        null=None,
        quick=False,
        presets={
            f"seed_paper_{epochs}": Preset({"descent": {"epochs": epochs}}, SEED_PAPER)
            for epochs in (5, 9, 20)
        },
        layers=("convolution",),
        mechanisms=("permute weights", "train on retain"),
    )

    descent: Descent = Descent(
        lr=1e-3, epochs=3, batch_size=64, weight_decay=5e-4, schedule="cosine", stride="epoch"
    )
    norms: Norms = "update"

    def unlearn(self, model: nn.Module, request: Request, seed: int) -> nn.Module:
        transpose(model)
        draws = generator(seed, "order")

        def teach(batch: Batch) -> Tensor:
            return request.task.loss(model, batch)

        rounds = [[Pass(request.retain, teach, self.norms)]] * self.descent.epochs
        descend(model, rounds, self.descent, request.recipe, draws, watch=request.watch)
        settle(model, request.retain, self.norms, self.descent, request.recipe, draws)
        return model

    def work(self, sizes: Sizes) -> Cost:
        samples = sizes.retain * self.descent.epochs
        again = sizes.retain * (self.norms == "recalibrate")
        return Cost(forward=samples + again, backward=samples)
