"""The linear layer that gives a classifier's answers: found, widened, cut."""

import math

import torch
from torch import Tensor, nn

from expunge.core.losses import PADDING
from expunge.core.state import mode
from expunge.types import Inputs, Refused, Task


def check_classes(task: Task, y: Tensor, whose: str = "forget") -> None:
    """Refuse answers that the network has no output for, before any work is done.

    Args:
        task: Says how many answers there are; one that leaves it open accepts all.
        y: Of the records.
        whose: Which set they are of, for the message.

    Raises:
        Refused: Naming the classes that are missing.
    """
    if y.is_floating_point() or task.outputs == 0:
        return
    wrong = y[((y < 0) | (y >= task.outputs)) & (y != PADDING)].unique().tolist()
    if wrong:
        raise Refused(
            f"the {whose} set has records of class {', '.join(map(str, wrong[:5]))}, but the "
            f"network answers with classes 0 to {task.outputs - 1} only; the labels were "
            "probably numbered otherwise than in training: number them alike"
        )


@torch.no_grad()
def last_linear(model: nn.Module, x: Inputs) -> tuple[str, Tensor]:
    """Return the name of the linear layer whose output is the network's own, and that output.

    Every linear layer is watched during one call, so neither the order of definition nor
    names play a part.

    Args:
        model: Called in eval mode, left as found.
        x: One record or more.

    Raises:
        Refused: Where no linear layer gives the output.
    """
    given: dict[str, Tensor] = {}
    hooks = [
        layer.register_forward_hook(
            lambda _layer, _inputs, output, name=name: given.update({name: output})
        )
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear)
    ]
    try:
        with mode(model, training=False):
            output = model(x)
    finally:
        for hook in hooks:
            hook.remove()
    heads = [name for name, its in given.items() if torch.equal(its.flatten(), output.flatten())]
    if not heads:
        raise Refused(
            f"expected the output of the {type(model).__name__} to be that of one of its linear "
            f"layers, but none of the {len(given)} that were called gives it; a network that "
            "changes its logits afterwards, or ends in a convolution, has no last linear layer"
        )
    return heads[-1], output


def find_head(model: nn.Module, x: Inputs, classes: int) -> str:
    """Return the name of the linear layer that gives one logit per class; see `last_linear`.

    Args:
        model: Called in eval mode, left as found.
        x: One record or more.
        classes: How many answers the layer must give.

    Raises:
        Refused: Where no linear layer gives the output, or it gives another number of
            answers.
    """
    name, output = last_linear(model, x)
    width = output.shape[-1]
    if output.dim() != 2 or width != classes:
        raise Refused(
            f"expected a row of {classes} logits for each record, one per class of the task, "
            f"got an output of shape {tuple(output.shape)}; build the network for {classes} "
            "classes, or say so in the task"
        )
    return name


@torch.no_grad()
def widen(head: nn.Linear, draws: torch.Generator) -> None:
    """Add one answer to a linear layer, in place.

    The new weights are uniform in ±√(6 / (inputs + answers)), as Glorot and Bengio, AISTATS
    2010, have it; the new bias is 0. The other rows keep their bits.
    """
    bound = math.sqrt(6 / (head.in_features + head.out_features + 1))
    row = bound * (2 * torch.rand(1, head.in_features, generator=draws) - 1)
    head.weight = nn.Parameter(torch.cat([head.weight, row.to(head.weight)]))
    if head.bias is not None:
        head.bias = nn.Parameter(torch.cat([head.bias, head.bias.new_zeros(1)]))
    head.out_features += 1


@torch.no_grad()
def cut(head: nn.Linear) -> None:
    """Take the last answer of a linear layer away again, in place."""
    head.weight = nn.Parameter(head.weight[:-1].clone())
    if head.bias is not None:
        head.bias = nn.Parameter(head.bias[:-1].clone())
    head.out_features -= 1
