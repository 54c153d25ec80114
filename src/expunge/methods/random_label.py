"""Random labels on the forget set.

Graves, Nagisetty and Ganesh, "Amnesiac Machine Learning", AAAI 2021 (there as
Unlearning), https://arxiv.org/abs/2010.10981

Departures from the paper:
    1. A wrong answer is never the right one by chance.
    2. By default wrong answers are drawn anew in every batch, which pushes towards
       uniform outputs; `redraw="once"` has the network memorise one wrong answer each.
"""

from dataclasses import dataclass

from torch import nn

from expunge.core.cost import Cost
from expunge.core.descent import descend
from expunge.core.relabel import Redraw, mislead_then_teach
from expunge.core.rng import generator
from expunge.method import Method, MethodCard, Preset, Sizes
from expunge.types import Descent, Request


@dataclass(frozen=True, kw_only=True)
class RandomLabel(Method):
    """Teach wrong answers on the forget set, right ones on the retain set.

    Attributes:
        descent: Its epochs are rounds of one pass over each set.
        redraw: Whether a wrong answer is drawn once, in every epoch or in every batch.
        retain: Whether there is a retain pass; without it accuracy tends to collapse.
    """

    card = MethodCard(
        name="random_label",
        source="https://arxiv.org/abs/2010.10981",
        needs=("original", "retain", "forget"),
        norms="frozen on forget passes, updated on retain passes",
        null={"descent": {"lr": 0.0}, "retain": False},
        toy={"descent": {"lr": 5e-2}},
        presets={
            "salun_authors": Preset(
                {"descent": {"lr": 0.013, "epochs": 10, "batch_size": 256, "weight_decay": 5e-4}},
                "https://github.com/OPTML-Group/Unlearn-Saliency, README",
            )
        },
    )

    descent: Descent = Descent(lr=1e-2, epochs=5)
    redraw: Redraw = "batch"
    retain: bool = True

    def unlearn(self, model: nn.Module, request: Request, seed: int) -> nn.Module:
        draws = generator(seed, "order")
        rounds = mislead_then_teach(
            model, request, self.descent.epochs, draws, redraw=self.redraw, retain=self.retain
        )
        descend(model, rounds, self.descent, request.recipe, draws, watch=request.watch)
        return model

    def work(self, sizes: Sizes) -> Cost:
        samples = (sizes.forget + sizes.retain * self.retain) * self.descent.epochs
        return Cost(forward=samples, backward=samples)
