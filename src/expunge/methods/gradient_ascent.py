"""Gradient ascent on the forget set.

Golatkar, Achille and Soatto, "Eternal Sunshine of the Spotless Net", CVPR 2020 (there as
the NegGrad baseline), https://arxiv.org/abs/1911.04933

Departures from the paper:
    1. BatchNorm's statistics stay as they are. Forget batches alone would drag them
       along, which by itself ruins the retained records.
    2. A record may be left alone once its loss exceeds `cap`; the loss climbed has no
       upper bound of its own.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from expunge.core.cost import Cost
from expunge.core.descent import Pass, descend
from expunge.core.rng import generator
from expunge.method import Method, MethodCard, Preset, Sizes
from expunge.types import Batch, Descent, Request


@dataclass(frozen=True, kw_only=True)
class GradientAscent(Method):
    """Climb the loss on the forget set.

    Attributes:
        descent: The ascent's optimiser.
        cap: Loss, in nats, beyond which a record is no longer pushed; None pushes on.
    """

    card = MethodCard(
        name="gradient_ascent",
        source="https://arxiv.org/abs/1911.04933",
        needs=("original", "forget"),
        norms="frozen",
        null={"descent": {"lr": 0.0}},
        presets={
            "unlearn_sparse": Preset(
                {"descent": {"lr": 1e-4, "epochs": 5, "batch_size": 256, "weight_decay": 5e-4}},
                "https://github.com/OPTML-Group/Unlearn-Sparse, README",
            )
        },
    )

    descent: Descent = Descent(lr=1e-3, epochs=3)
    cap: float | None = None

    def unlearn(self, model: nn.Module, request: Request, seed: int) -> nn.Module:
        def climb(batch: Batch) -> Tensor:
            losses = request.task.losses(model(batch.x).float(), batch.y)
            return -losses.clamp(max=self.cap).mean() if self.cap else -losses.mean()

        rounds = [[Pass(request.forget, climb, "freeze")]] * self.descent.epochs
        draws = generator(seed, "order")
        descend(model, rounds, self.descent, request.recipe, draws, watch=request.watch)
        return model

    def work(self, sizes: Sizes) -> Cost:
        samples = sizes.forget * self.descent.epochs
        return Cost(forward=samples, backward=samples)
