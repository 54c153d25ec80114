"""Fine-tuning on the retain set, in the hope that what is not rehearsed is forgotten.

Golatkar, Achille and Soatto, "Eternal Sunshine of the Spotless Net", CVPR 2020 (there as
a baseline), https://arxiv.org/abs/1911.04933

Departures from the paper:
    1. BatchNorm's statistics follow the retained records, as in training; the authors'
       code runs the whole network in eval mode. `norms="freeze"` does as they do.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from expunge.core.cost import Cost
from expunge.core.descent import Pass, descend, settle
from expunge.core.rng import generator
from expunge.core.state import Norms
from expunge.method import Method, MethodCard, Preset, Sizes
from expunge.types import Batch, Descent, Request


@dataclass(frozen=True, kw_only=True)
class Finetune(Method):
    """Go on training, without the forget set.

    Attributes:
        descent: The optimiser.
        norms: BatchNorm's policy.
    """

    card = MethodCard(
        name="finetune",
        source="https://arxiv.org/abs/1911.04933",
        needs=("original", "retain"),
        norms="updated on retained records by default",
        null={"descent": {"lr": 0.0}, "norms": "freeze"},
        presets={
            "unlearn_sparse": Preset(
                {"descent": {"lr": 0.01, "epochs": 10, "batch_size": 256, "weight_decay": 5e-4}},
                "https://github.com/OPTML-Group/Unlearn-Sparse, README",
            )
        }
        | {
            f"seed_paper_{epochs}": Preset(
                {
                    "descent": {
                        "lr": 1e-3,
                        "epochs": epochs,
                        "batch_size": 64,
                        "weight_decay": 5e-4,
                        "schedule": "cosine",
                        "stride": "epoch",
                    }
                },
                "Salgado Herrera et al., CAID 2024, hal-05046594v1, there “simple”: the number of "
                "epochs alone; the rest is the challenge's own example of fine-tuning",
            )
            for epochs in (5, 9, 20)
        },
        mechanisms=("train on retain",),
    )

    descent: Descent = Descent(lr=1e-2, epochs=5)
    norms: Norms = "update"

    def unlearn(self, model: nn.Module, request: Request, seed: int) -> nn.Module:
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
