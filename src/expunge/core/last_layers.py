"""The last layers of a network, trained on the retain set while the others keep their bits."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from expunge.core import notes
from expunge.core.descent import Pass, descend
from expunge.core.layers import last_layers
from expunge.core.rng import generator
from expunge.core.state import Norms
from expunge.types import Batch, Descent, Refused, Request, Settings

CODE = (
    "https://github.com/shash42/Evaluating-Inexact-Unlearning, scripts/{}-exch.sh, one of its k; "
    "its rate restarts from 0.1 and falls to 0.005 again and again, here it falls once"
)
AS_RUN = {
    "lr": 0.1,
    "batch_size": 64,
    "weight_decay": 5e-5,
    "schedule": "cosine",
    "stride": "epoch",
}
"""The optimiser with which the authors of EU-k and CF-k train both, but for the epochs."""


@dataclass(frozen=True, kw_only=True)
class LastLayers(Settings):
    """How many layers are trained, and how.

    Attributes:
        k: How many, from the last to run backwards; see `last_layers`.
        descent: The optimiser; None is that of the original's recipe. What a given one leaves
            out is not the recipe's.
    """

    k: int = 1
    descent: Descent | None = None

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"expected k >= 1 layers to train, got {self.k}")

    def epochs(self, recipe: int) -> int:
        """Return how many passes are made, where the recipe has so many."""
        return recipe if self.descent is None else self.descent.epochs

    def find(self, model: nn.Module, request: Request, seed: int) -> list[str]:
        """Return the names of the modules to be trained; it takes one forward of a record.

        Raises:
            Refused: Where there is nothing to train on, or there are fewer layers.
        """
        if not len(request.retain):
            raise Refused(
                "expected retained records to train the last layers on, got none; forget fewer, "
                "or take a method that does without, such as 'gradient_ascent'"
            )
        one = request.retain.select(torch.arange(1))
        batch = next(iter(request.recipe.ordered(one, 1, generator(seed, "look"))))
        names = last_layers(model, batch.x, self.k)
        notes.add("trained", [name for name in names if _own(model.get_submodule(name))])
        return names

    def teach(
        self, model: nn.Module, request: Request, names: Sequence[str], norms: Norms, seed: int
    ) -> None:
        """Train the named modules in place; all others keep their weights and buffers.

        What runs before them is in eval mode: dropout drops nothing there, and BatchNorm
        takes its running statistics without moving them.

        Args:
            model: Its other parameters ask for no gradient afterwards.
            request: Whose retained records, recipe and watcher.
            names: Of modules; a child is not meant by its parent's name.
            norms: BatchNorm's policy in those modules.
            seed: Of the order and of augmentation.
        """
        trained = [model.get_submodule(name) for name in names]
        model.requires_grad_(False)
        for module in trained:
            for parameter in _own(module):
                parameter.requires_grad_(True)
        inside = set(trained)
        still = [part for part in model.modules() if inside.isdisjoint(part.modules())]

        def loss(batch: Batch) -> Tensor:
            return request.task.loss(model, batch)

        descent = self.descent or request.recipe.descent
        rounds = [[Pass(request.retain, loss, norms, still=still)]] * descent.epochs
        draws = generator(seed, "order")
        descend(model, rounds, descent, request.recipe, draws, watch=request.watch)


def _own(module: nn.Module) -> list[nn.Parameter]:
    return list(module.parameters(recurse=False))
