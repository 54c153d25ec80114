"""A network whose weights are changed by one row of numbers, and how well it forgets with that.

The row is what a minimisation moves: the module itself is left alone until the end.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call

from expunge.core.curvature import flat, shaped
from expunge.core.grads import absolute_gradients
from expunge.core.losses import PADDING
from expunge.core.posterior import divergences
from expunge.core.rng import generator
from expunge.types import Batch, Data, Inputs, Refused, Request


class Target(NamedTuple):
    """What the network shall answer to the forgotten records.

    Attributes:
        log_p: Logarithms of posteriors: one for each group, or for each position.
        group: Of each forgotten record; None where all take the same ones.
    """

    log_p: Float[Tensor, "groups classes"]
    group: Int[Tensor, " n"] | None

    def of(self, rows: slice) -> Float[Tensor, "rows classes"]:
        """Return the posteriors for the forgotten records at `rows`."""
        return self.log_p if self.group is None else self.log_p[self.group[rows]]


class Masked:
    """A network in eval mode, with a change of its trainable weights.

    Weights that are tied are there once; frozen ones have no place in the row.

    Attributes:
        target: What `smooth` and `divergence` measure the distance to.
    """

    target: Target

    def __init__(self, model: nn.Module, request: Request, size: int, seed: int) -> None:
        """Take the network as it is.

        Args:
            model: It must stay in eval mode.
            request: Whose records are asked.
            size: Records at once.
            seed: Of the questions, which are the same every time.

        Raises:
            Refused: Where no weight may change.
        """
        self._model, self._request, self._size, self._seed = model, request, size, seed
        self._own = {k: p.detach() for k, p in model.named_parameters() if p.requires_grad}
        if not self._own:
            raise Refused(
                "expected a network with weights to change, but all of its parameters are "
                "frozen; set requires_grad on those that may"
            )
        first = next(iter(self._own.values()))
        count = sum(p.numel() for p in self._own.values())
        self._weights = torch.zeros(count, dtype=first.dtype, device=first.device)
        # Leaves are views of one row: neither weights nor gradients are held twice.
        views = shaped(self._weights, self._own)
        self._leaves = {k: view.detach().requires_grad_() for k, view in views.items()}
        self.place(None)

    def nothing(self) -> Float[Tensor, " p"]:
        """Return a change of nothing."""
        return torch.zeros_like(self._weights)

    @torch.no_grad()
    def place(self, change: Float[Tensor, " p"] | None) -> None:
        """Set the change that answers are given with."""
        for name, part in shaped(self._weights, self._own).items():
            part.copy_(self._own[name])
        if change is not None:
            self._weights += change

    @torch.no_grad()
    def keep(self, change: Float[Tensor, " p"], model: nn.Module | None = None) -> None:
        """Change the weights of the module itself, or of a copy of it, in place."""
        parameters = dict((model or self._model).named_parameters())
        for name, part in shaped(change, self._own).items():
            parameters[name].add_(part)

    def batches(self, data: Data) -> Iterator[Batch]:
        """Yield records in order, with the same questions every time."""
        return self._request.recipe.ordered(data, self._size, generator(self._seed, "questions"))

    def answers(self, data: Data) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield logits and right answers, with the change that was placed last."""
        for x, y, _ in self.batches(data):
            with torch.no_grad():
                logits = self._answer(x)
            yield logits, y

    def accuracy(self, data: Data) -> float:
        """Return the share of right answers, with the change that was placed last."""
        right = total = 0
        for logits, y in self.answers(data):
            right += int((logits.argmax(-1) == y).sum())
            total += int((y != PADDING).sum())
        return right / max(1, total)

    def smooth(self, change: Float[Tensor, " p"], gradient: Float[Tensor, " p"]) -> float:
        """Return the mean divergence under a change, and write its gradient.

        Batches are added up, so that their size matters to memory alone.
        """
        self.place(change)
        gradient.zero_()
        slopes = shaped(gradient, self._own)
        for name, leaf in self._leaves.items():
            leaf.grad = slopes[name]  # what goes back is added up in the row itself
        value = 0.0
        with torch.enable_grad():
            for each in self._divergences():
                each.sum().backward()
                value += float(each.detach().double().sum())
        for leaf in self._leaves.values():
            leaf.grad = None
        gradient /= len(self._request.forget)
        return value / len(self._request.forget)

    @torch.no_grad()
    def divergence(self, change: Float[Tensor, " p"]) -> float:
        """Return the mean divergence under a change."""
        self.place(change)
        total = sum(float(each.double().sum()) for each in self._divergences())
        return total / len(self._request.forget)

    def omega(self, probe: Data) -> Float[Tensor, " p"]:
        """Return the mean absolute gradient of the loss over single records, unchanged."""
        found = absolute_gradients(self._model, self._request.task, self.batches(probe))
        return flat({name: found[name] for name in self._own})

    def _answer(self, x: Inputs) -> Float[Tensor, "n *positions classes"]:
        return functional_call(self._model, self._leaves, (x,))

    def _divergences(self) -> Iterator[Tensor]:
        start = 0
        for x, y, _ in self.batches(self._request.forget):
            log_p = self.target.of(slice(start, start := start + len(y)))
            wanted = y != PADDING if y.dim() > 1 else None
            yield divergences(log_p, self._answer(x), wanted)
