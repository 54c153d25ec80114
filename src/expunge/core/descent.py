"""The library's one training loop."""

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from expunge.core import rng
from expunge.core.cost import paused
from expunge.core.state import Norms, convolves, device_of, lay_out, mode, recalibrate
from expunge.types import Augment, Batch, Data, Descent, Inputs, Recipe, Watch, each, steps_of

Objective = Callable[[Batch], Tensor]
Mask = Mapping[str, Tensor]
Adjust = Callable[[Mapping[str, Tensor]], None]

ADAMW_SQUARES = 0.999  # AdamW's second beta: of its mean of squared gradients
ADAMW_LEAST = 1e-8  # what its divisor has more than that mean's root


class Diverged(RuntimeError):
    """The loss or the weights became NaN or infinite."""


class Pass(NamedTuple):
    """One pass over records.

    Attributes:
        data: The records.
        objective: What is minimised.
        norms: What BatchNorm does meanwhile.
        descent: Settings of its own. Passes of equal settings share an optimiser, and
            those settings' schedule runs over the steps of these passes alone.
        before: Called when the pass begins: noise on the weights, new labels.
        after: Called after each step with its learning rate: a projection of the weights.
        steps: After how many it ends; None goes through all records.
        skip: Asked before the pass begins; where it says True there is no pass.
        still: Modules of the model that stay in eval mode meanwhile; their children may not.
        augment: Whether records are augmented as in training.
    """

    data: Data
    objective: Objective
    norms: Norms
    descent: Descent | None = None
    before: Callable[[], None] | None = None
    after: Callable[[float], None] | None = None
    steps: int | None = None
    skip: Callable[[], bool] | None = None
    still: Sequence[nn.Module] = ()
    augment: bool = True

    def length(self, size: int) -> int:
        """Return how many steps it takes in batches of `size`."""
        whole = self.data.steps(size)
        return whole if self.steps is None else min(self.steps, whole)

    def prepared(self, recipe: Recipe) -> Recipe:
        """Return the recipe that its records are posed and, if so, augmented by."""
        return recipe if self.augment else replace(recipe, augment=Augment())


def covered(records: int, size: int, steps: int) -> int:
    """Return how many of the records the first `steps` batches of `size` hold."""
    return records if steps >= steps_of(records, size) else steps * size


class Run:
    """An optimiser, and how far along its schedule it is."""

    def __init__(self, model: nn.Module, descent: Descent, passes: Sequence[Pass], *, folded: bool):
        self.descent = descent
        self.optimizer = _optimizer(model, descent, folded=folded)
        self._steps = [p.length(descent.batch_size) for p in passes]
        self._total = sum(self._steps)
        self._done = 0

    def step(self) -> float:
        """Take a step at the rate that the schedule gives, and return that rate."""
        progress = self._done / self._total
        if self.descent.stride == "epoch":
            progress = self._passed() / len(self._steps)
        rate = self.descent.rate(progress)
        for settings in self.optimizer.param_groups:
            settings["lr"] = rate
        self.optimizer.step()
        self._done += 1
        return rate

    def _passed(self) -> int:
        """Return how many passes are over."""
        return sum(end <= self._done for end in itertools.accumulate(self._steps))


def descend(
    model: nn.Module,
    rounds: Sequence[Sequence[Pass]],
    descent: Descent,
    recipe: Recipe,
    draws: torch.Generator,
    *,
    watch: Watch | None = None,
    mask: Mask | None = None,
    adjust: Adjust | None = None,
) -> None:
    """Minimise each pass's objective in turn, in place.

    Args:
        model: Its mode is restored afterwards and its gradients are dropped.
        rounds: Groups of passes; a watcher is shown the model after each group.
        descent: The optimiser's settings, for passes without settings of their own.
            `epochs` is the caller's business: `rounds` decides.
        recipe: Poses and augments the records as in training.
        draws: Of the order, of augmentation, and of whatever objectives draw from it.
        watch: Shown a copy of the model after each round; changes nothing and costs nothing.
        mask: Per parameter, True where it may move. Elsewhere it keeps its bits:
            decay is folded into the gradient before masking, so that neither decay nor
            momentum moves it.
        adjust: Changes the gradients, by parameter name, in place before each step.

    Raises:
        Diverged: After the first round that ends with a loss that is not finite.
    """
    layout = lay_out(model)
    device = device_of(model).type
    runs = _runs(model, rounds, descent, folded=mask is not None)
    for number, group in enumerate(rounds):
        loss = torch.zeros(())
        for current in group:
            if current.skip is not None and current.skip():
                continue
            run = runs[current.descent or descent]
            half = half_precision(model, run.descent, device)
            if current.before is not None:
                current.before()
            size = run.descent.batch_size
            batches = current.prepared(recipe).shuffled(current.data, size, draws)
            with mode(model, training=True, norms=current.norms, still=current.still):
                for batch in itertools.islice(batches, current.length(size)):
                    with torch.autocast(device, torch.bfloat16, enabled=half):
                        loss = current.objective(batch._replace(x=_laid_out(batch.x, layout)))
                    run.optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    _shape_gradients(model, run.descent, mask, adjust)
                    rate = run.step()
                    if current.after is not None:
                        current.after(rate)
        if not math.isfinite(loss.item()):
            raise Diverged(
                f"the loss was {loss.item()} after round {number + 1} of {len(rounds)}; "
                f"lower the learning rate ({_rates(runs)}) or the number of rounds"
            )
        show(watch, model, number)
    model.zero_grad(set_to_none=True)


def show(watch: Watch | None, model: nn.Module, number: int) -> None:
    """Show a watcher, if there is one, a copy of the model after a round; nothing is changed."""
    if watch is not None:
        with paused(), rng.fenced(number), torch.no_grad():
            watch(copy.deepcopy(model).eval(), number)


def settle(
    model: nn.Module,
    retain: Data,
    norms: Norms,
    descent: Descent,
    recipe: Recipe,
    draws: torch.Generator,
) -> None:
    """Re-estimate BatchNorm's statistics on `retain` if `norms` asks for it."""
    if norms == "recalibrate":
        recalibrate(model, recipe.shuffled(retain, descent.batch_size, draws))


def train(recipe: Recipe, data: Data, seed: int, watch: Watch | None = None) -> nn.Module:
    """Follow the recipe from scratch: how originals, controls and shadows are made."""
    with rng.fenced(rng.derive(seed, "weights")):
        model = recipe.fresh().to(data.y.device)
        teach(model, recipe, data, rng.generator(seed, "order"), watch=watch)
    return model.eval()


def teach(
    model: nn.Module,
    recipe: Recipe,
    data: Data,
    draws: torch.Generator,
    *,
    watch: Watch | None = None,
    note: Callable[[Batch], None] | None = None,
    after: Callable[[float], None] | None = None,
) -> None:
    """Follow the recipe from where the model is, in place, with an optimiser of its own.

    Args:
        model: What is trained.
        recipe: Its `descent` says for how many epochs, and how.
        data: The records.
        draws: Of the order, of augmentation and of poses.
        watch: As of `descend`.
        note: Shown each batch before its step.
        after: Called after each step with its learning rate.
    """

    def objective(batch: Batch) -> Tensor:
        if note is not None:
            note(batch)
        return recipe.task.loss(model, batch)

    lesson = Pass(data, objective, "update", after=after)
    rounds = [[lesson]] * recipe.descent.epochs
    descend(model, rounds, recipe.descent, recipe, draws, watch=watch)


def _runs(
    model: nn.Module, rounds: Sequence[Sequence[Pass]], descent: Descent, *, folded: bool
) -> dict[Descent, Run]:
    grouped: dict[Descent, list[Pass]] = {}
    for current in itertools.chain.from_iterable(rounds):
        grouped.setdefault(current.descent or descent, []).append(current)
    return {own: Run(model, own, passes, folded=folded) for own, passes in grouped.items()}


def _rates(runs: Iterable[Descent]) -> str:
    return ", ".join(f"{own.lr:g}" for own in runs)


def _optimizer(model: nn.Module, descent: Descent, *, folded: bool) -> torch.optim.Optimizer:
    """Return a new optimiser: one that was used before would carry old momentum."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if descent.optimizer == "adamw":
        decay = 0.0 if folded else descent.weight_decay
        betas = (descent.momentum, ADAMW_SQUARES)
        return torch.optim.AdamW(
            parameters, descent.lr, betas, ADAMW_LEAST, weight_decay=decay, fused=True
        )
    return torch.optim.SGD(
        parameters,
        descent.lr,
        descent.momentum,
        weight_decay=0.0 if folded else descent.weight_decay,
        nesterov=descent.nesterov,
        fused=True,
    )


def _shape_gradients(
    model: nn.Module, descent: Descent, mask: Mask | None, adjust: Adjust | None
) -> None:
    if mask is None and adjust is None:
        return
    gradients = {k: p.grad for k, p in model.named_parameters() if p.grad is not None}
    if adjust is not None:
        adjust(gradients)
    if mask is not None:
        parameters = dict(model.named_parameters())
        for name, gradient in gradients.items():
            gradient.add_(parameters[name].detach(), alpha=descent.weight_decay)
            gradient.masked_fill_(~mask[name], 0)  # a product would keep inf * 0 = NaN


def _laid_out(x: Inputs, layout: torch.memory_format) -> Inputs:
    def lay(part: Tensor) -> Tensor:
        return part.contiguous(memory_format=layout) if part.dim() == 4 else part

    return x if layout is torch.preserve_format else each(x, lay)


def half_precision(model: nn.Module, descent: Descent, device: str) -> bool:
    """Return whether the forward pass runs in bf16: fp32 where that gains nothing."""
    if descent.precision != "auto":
        return descent.precision == "bf16"
    if device == "cuda":
        return torch.cuda.is_bf16_supported()
    return convolves(model) and torch.cpu._is_avx512_bf16_supported()
