"""SMU: subtract from the weights what the forget set's gradients once added to them.

Cao and Yang, "Towards Making Systems Forget with Machine Unlearning", IEEE S&P 2015,
https://doi.org/10.1109/SP.2015.35, subtract a record's part from the sums that a model is
learned from. Ma et al., "Learn to Forget", https://arxiv.org/abs/2003.10933, take the sums of
gradients of each epoch, and subtract them in the course of one epoch more.

A network's later gradients depend on its earlier ones, which no subtraction undoes: the method
is a baseline.

Departures from the paper:
    1. Nobody knows at training what will be forgotten. Training keeps the weights that each
       epoch began with, and the forget set's gradients are taken from these at unlearning,
       without augmentation and dropout: what the paper records, but for the drift of the weights
       within an epoch. Three retained records go through the network beside each, since the
       running statistics of an early epoch are not those that BatchNorm trained by. It costs
       four times the forget set per epoch of training.
    2. A record's gradient is subtracted as often as it was added: times the sum of the epoch's
       learning rates over the number of records, which is the mean of rate over batch size for
       a record that may be in any batch. Momentum adds a gradient up to 1 / (1 - momentum)
       times, and so much is subtracted; what was still to come when training ended is
       subtracted too. Weight decay, which lets old gradients fade, is not reckoned with.
    3. AdamW divides gradients by their usual size, weight by weight. Where it trained, training
       keeps what every weight's gradient was multiplied by, summed over each epoch's steps: the
       record's part is then of the steps that were taken, in which it also bore on the divisor,
       and so on what others added.
    4. The extra epoch has an optimiser of its own, at a constant learning rate, since the
       schedule of training has ended. `mode="at_once"` subtracts everything before it.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from expunge.core import notes, rng
from expunge.core.cost import Cost
from expunge.core.descent import ADAMW_LEAST, ADAMW_SQUARES, Pass, descend, settle, teach
from expunge.core.grads import mean_gradient
from expunge.core.relearn import deal
from expunge.core.rng import generator
from expunge.core.state import Norms
from expunge.core.traces import affordable, given, part_of, size_of, state_of
from expunge.core.view import View
from expunge.method import Method, MethodCard, Search, Sizes
from expunge.types import Data, Descent, Recipe, Request, Trace, steps_of

BESIDE = 3  # retained records that go through the network with each forgotten one


def weights_of_epochs(descent: Descent, steps: int, records: int) -> list[float]:
    """Return what a record's gradient was multiplied by in each epoch, on average.

    Args:
        descent: Of the training, by sgd.
        steps: Of each epoch.
        records: That were trained on.
    """
    epochs = descent.epochs
    scale = records * (1 - descent.momentum)

    def progress(epoch: int, step: int) -> float:
        if descent.stride == "epoch":
            return epoch / epochs
        return (epoch * steps + step) / (epochs * steps)

    rates = [[descent.rate(progress(e, s)) for s in range(steps)] for e in range(epochs)]
    return [sum(epoch) / scale for epoch in rates]


class Multipliers:
    """What AdamW multiplied every weight's gradients by, summed over the steps of each epoch.

    It squares the gradients that the optimiser squares, and so has its divisors.

    Attributes:
        sums: By epoch and parameter, each (shape of the parameter,).
    """

    def __init__(self, model: nn.Module, steps: int) -> None:
        """Follow a model.

        Args:
            model: In training; its gradients are read after each step.
            steps: Of an epoch.
        """
        self.sums: list[dict[str, Tensor]] = []
        self._weights = {k: p for k, p in model.named_parameters() if p.requires_grad}
        self._squares = {k: torch.zeros_like(p) for k, p in self._weights.items()}
        self._steps, self._done = steps, 0

    @torch.no_grad()
    def after(self, rate: float) -> None:
        """Note a step that was taken at this rate."""
        if self._done % self._steps == 0:
            self.sums.append({k: torch.zeros_like(p) for k, p in self._weights.items()})
        self._done += 1
        unbiased = 1 - ADAMW_SQUARES**self._done
        for name, p in self._weights.items():
            if p.grad is not None:
                squares = self._squares[name].lerp_(p.grad.square(), 1 - ADAMW_SQUARES)
                self.sums[-1][name].add_(rate / ((squares / unbiased).sqrt_() + ADAMW_LEAST))


@torch.no_grad()
def move(model: nn.Module, by: Mapping[str, Tensor], times: float) -> None:
    """Add `times` what is given for each parameter, in place."""
    for name, p in model.named_parameters():
        p.add_(by[name], alpha=times)


@dataclass(frozen=True, kw_only=True)
class SMU(Method):
    """Take the forget set's gradients back while training goes on without it.

    Attributes:
        descent: Of the training on retained records meanwhile.
        mode: Whether each of its steps takes its share back (`spread`), or all is taken back
            before it (`at_once`).
        scale: Of what is taken back; 1 is what was added.
        norms: BatchNorm's policy on retained records.
        limit: GiB that the kept weights may take; more is refused before training.
    """

    card = MethodCard(
        name="smu",
        source="https://doi.org/10.1109/SP.2015.35",
        needs=("original", "retain", "forget", "trace"),
        norms="updated on retained records by default",
        null={"scale": 0.0, "descent": {"lr": 0.0}, "norms": "freeze"},
        quick=False,
        search={"descent.lr": Search(1e-4, 1e-1), "scale": Search(1e-2, 1.0)},
        mechanisms=("raise the loss", "train on forget", "train on retain"),
    )

    descent: Descent = Descent(lr=1e-2, epochs=1)
    mode: Literal["spread", "at_once"] = "spread"
    scale: float = 1.0
    norms: Norms = "update"
    limit: float = 8.0

    def __post_init__(self) -> None:
        if self.scale < 0:
            raise ValueError(f"expected scale >= 0, got {self.scale}")
        if self.mode == "spread" and not self.descent.epochs:
            raise ValueError(
                "expected descent.epochs >= 1 to spread over, got 0; take mode='at_once'"
            )

    def train(self, recipe: Recipe, data: Data, seed: int) -> tuple[nn.Module, Trace]:
        epochs, adaptive = recipe.descent.epochs, recipe.descent.optimizer == "adamw"
        with rng.fenced(rng.derive(seed, "weights")):
            model = recipe.fresh().to(data.y.device)
            affordable(
                size_of(model) * epochs * (1 + adaptive),
                self.limit,
                f"the weights before each of {epochs} epochs{', and their rates,' * adaptive}",
                "train for fewer epochs, or a smaller network",
            )
            states = [state_of(model)]
            steps = data.steps(recipe.descent.batch_size)
            rates = Multipliers(model, steps) if adaptive else None
            teach(
                model,
                recipe,
                data,
                generator(seed, "order"),
                watch=lambda copied, _: states.append(state_of(copied)),
                after=rates.after if rates else None,
            )
        kept = {f"{n}/{k}": v for n, state in enumerate(states[:epochs]) for k, v in state.items()}
        for epoch, sums in enumerate(rates.sums if rates else ()):
            kept |= {f"rates/{epoch}/{k}": v.cpu() for k, v in sums.items()}
        return model.eval(), kept

    def unlearn(self, model: nn.Module, request: Request, seed: int) -> nn.Module:
        added = self._added(model, request, seed)
        steps = request.retain.steps(self.descent.batch_size) * self.descent.epochs
        share = self.scale / steps if self.mode == "spread" else 0.0
        if self.mode == "at_once":
            move(model, added, -self.scale)
        teach = Pass(
            request.retain,
            lambda batch: request.task.loss(model, batch),
            self.norms,
            after=lambda _: move(model, added, -share) if share else None,
        )
        rounds = [[teach]] * self.descent.epochs
        recipe, draws = request.recipe, generator(seed, "order")
        descend(model, rounds, self.descent, recipe, draws, watch=request.watch)
        settle(model, request.retain, self.norms, self.descent, recipe, draws)
        return model

    def _added(self, model: nn.Module, request: Request, seed: int) -> dict[str, Tensor]:
        """Return what the forget set's gradients added to the weights in training."""
        trace, recipe = given(request.trace, self.card.name), request.recipe
        records = len(request.retain) + len(request.forget)
        steps = steps_of(records, recipe.descent.batch_size)
        then = copy.deepcopy(model)
        added = {k: torch.zeros_like(p) for k, p in model.named_parameters()}
        weights: Sequence[float | Mapping[str, Tensor]] = (
            [part_of(trace, f"rates/{epoch}") for epoch in range(recipe.descent.epochs)]
            if recipe.descent.optimizer == "adamw"
            else weights_of_epochs(recipe.descent, steps, records)
        )
        for epoch, weight in enumerate(weights):
            then.load_state_dict(part_of(trace, str(epoch)))
            draws = generator(seed, "gradients", epoch)
            rows = deal(len(request.retain), BESIDE * len(request.forget), draws)
            size = max(1, self.descent.batch_size // (1 + BESIDE))
            batches = recipe.ordered(request.forget, size, draws)
            beside = recipe.ordered(View(request.retain, rows), BESIDE * size, draws)
            gradient = mean_gradient(then, request.task, batches, beside)
            for name, part in gradient.items():
                times = weight[name].to(part) / records if isinstance(weight, Mapping) else weight
                added[name].sub_(part * times, alpha=len(request.forget))
        norm = sum(float(part.double().square().sum()) for part in added.values()) ** 0.5
        notes.add("norm of what is taken back", self.scale * norm)
        return added

    def work(self, sizes: Sizes) -> Cost:
        looked = (1 + BESIDE) * sizes.forget * sizes.epochs
        samples = looked + sizes.retain * self.descent.epochs
        again = sizes.retain * (self.norms == "recalibrate")
        return Cost(forward=samples + again, backward=samples)
