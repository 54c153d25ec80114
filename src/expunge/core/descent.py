"""The library's one training loop."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from expunge.core import rng
from expunge.core.state import Norms, convolves, device_of, lay_out, mode, recalibrate
from expunge.types import Batch, Data, Descent, Inputs, Recipe, Watch, each

Objective = Callable[[Batch], Tensor]
Mask = Mapping[str, Tensor]
Adjust = Callable[[Mapping[str, Tensor]], None]


class Diverged(RuntimeError):
    """The loss or the weights became NaN or infinite."""


class Pass(NamedTuple):
    """One pass over records: what is minimised, and what BatchNorm does meanwhile."""

    data: Data
    objective: Objective
    norms: Norms


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
    """Minimise each pass's objective in turn, in place, with one optimiser.

    Args:
        model: Its mode is restored afterwards and its gradients are dropped.
        rounds: Groups of passes; a watcher is shown the model after each group.
        descent: The optimiser's settings. `epochs` is the caller's business: `rounds`
            decides.
        recipe: Poses and augments the records as in training.
        draws: Of the order, of augmentation, and of whatever objectives draw from it.
        watch: Shown a copy of the model after each round; changes nothing.
        mask: Per parameter, True where it may move. Elsewhere it keeps its bits:
            decay is folded into the gradient before masking, so that neither decay nor
            momentum moves it.
        adjust: Changes the gradients, by parameter name, in place before each step.

    Raises:
        Diverged: After the first round that ends with a loss that is not finite.
    """
    layout = lay_out(model)
    optimizer = _optimizer(model, descent, folded=mask is not None)
    device = device_of(model).type
    half = _half(model, descent, device)
    total = sum(p.data.steps(descent.batch_size) for group in rounds for p in group)
    step = 0
    for number, group in enumerate(rounds):
        loss = torch.zeros(())
        for data, objective, norms in group:
            with mode(model, training=True, norms=norms):
                for batch in recipe.shuffled(data, descent.batch_size, draws):
                    with torch.autocast(device, torch.bfloat16, enabled=half):
                        loss = objective(batch._replace(x=_laid_out(batch.x, layout)))
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    _shape_gradients(model, descent, mask, adjust)
                    for settings in optimizer.param_groups:
                        settings["lr"] = descent.rate(step / total)
                    optimizer.step()
                    step += 1
        if not math.isfinite(loss.item()):
            raise Diverged(
                f"the loss was {loss.item()} after round {number + 1} of {len(rounds)}; "
                f"lower the learning rate ({descent.lr:g}) or the number of rounds"
            )
        if watch is not None:
            with rng.fenced(number), torch.no_grad():
                watch(copy.deepcopy(model).eval(), number)
    optimizer.zero_grad(set_to_none=True)


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
        teach = Pass(data, lambda batch: recipe.task.loss(model, batch), "update")
        rounds = [[teach]] * recipe.descent.epochs
        draws = rng.generator(seed, "order")
        descend(model, rounds, recipe.descent, recipe, draws, watch=watch)
    return model.eval()


def _optimizer(model: nn.Module, descent: Descent, *, folded: bool) -> torch.optim.Optimizer:
    """Return a new optimiser: one that was used before would carry old momentum."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if descent.optimizer == "adamw":
        decay = 0.0 if folded else descent.weight_decay
        betas = (descent.momentum, 0.999)
        return torch.optim.AdamW(parameters, descent.lr, betas, weight_decay=decay, fused=True)
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


def _half(model: nn.Module, descent: Descent, device: str) -> bool:
    """Return whether the forward pass runs in bf16: fp32 where that gains nothing."""
    if descent.precision != "auto":
        return descent.precision == "bf16"
    if device == "cuda":
        return torch.cuda.is_bf16_supported()
    return convolves(model) and torch.cpu._is_avx512_bf16_supported()
