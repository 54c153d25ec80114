"""A membership oracle that sees inside: gradients, activations, loss and label of each record.

Nasr, Shokri and Houmansadr, "Comprehensive Privacy Analysis of Deep Learning: Passive and Active
White-box Inference Attacks against Centralized and Federated Learning", S&P 2019,
https://arxiv.org/abs/1812.00910

Each signal has an encoder of its own, and one more encodes them all. The gradient is that of the
last linear layer's weights: for each record the product of what the layer is fed and of what the
loss asks of the logits.

Departures from the paper and its code:
    1. One layer's gradient and the activations before it, of all the layers; the last one's
       tells most there.
    2. The encoder of the gradient is smaller: with the code's widths it would have a hundred
       million weights for 512 features. The preset of the audit has the code's.
    3. Every signal is divided by its root mean square over the records that are fitted: a fitted
       network's gradients are far below 1.
    4. PyTorch's own initial weights, for the code's of deviation 0.01; dropout before the widest
       layer only.
    5. The last layer is fed ten numbers between 0 and 1, by which records can be pictured, as Ma
       et al. do, https://arxiv.org/abs/2003.10933.
    6. The best epoch is chosen on records of its own, not on those that the oracle is tried on.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from expunge.core.descent import Pass, descend
from expunge.core.head import last_linear
from expunge.core.oracle import THRESHOLD
from expunge.core.rng import derive, fenced, generator
from expunge.core.state import mode
from expunge.types import Batch, Data, Descent, Recipe, Refused, Settings, Task

EMBEDDING = 10
"""Numbers between 0 and 1 that a record is encoded as."""

Signals = Mapping[str, Tensor]
"""Of each record: `activations` before the last layer, `error` (the loss's gradient by the
logits), `loss` and `label`. The weights' gradient is the product of the first two."""


@dataclass(frozen=True, kw_only=True)
class Encoders(Settings):
    """The inference network, and how it is trained.

    Attributes:
        filters: Of each row of the gradient, which has a row for each feature.
        widths: Of the layers after them.
        dropout: Before the first of those.
        epochs: Passes over the records; the best is kept.
        lr: Of Adam.
        batch_size: Records per step.
    """

    filters: int = 16
    widths: tuple[int, ...] = (128, 64)
    dropout: float = 0.2
    epochs: int = 50
    lr: float = 1e-3
    batch_size: int = 64

    def __post_init__(self) -> None:
        if min(self.filters, self.epochs, self.batch_size, *self.widths) < 1 or not self.widths:
            raise ValueError(
                "expected at least 1 filter, epoch, record per step and width of each layer, got "
                f"filters={self.filters}, epochs={self.epochs}, batch_size={self.batch_size}, "
                f"widths={self.widths}"
            )
        if not (0 <= self.dropout < 1 and self.lr > 0):
            raise ValueError(
                f"expected dropout in [0, 1) and lr above 0, got {self.dropout} and {self.lr}"
            )


def find_layer(model: nn.Module, data: Data) -> str:
    """Return the name of the layer whose gradient is read.

    Raises:
        Refused: Where no linear layer gives the network's output, a row per record.
    """
    name, output = last_linear(model, data.take(torch.arange(1)).x)
    if output.dim() != 2:
        raise Refused(
            f"expected a row of logits for each record, got an output of shape "
            f"{tuple(output.shape)}; the white-box oracle is for classifiers"
        )
    return name


def read_signals(model: nn.Module, layer: str, data: Data, task: Task) -> Signals:
    """Return what is seen of each record, in order, on the CPU.

    Args:
        model: Read in eval mode, left as found.
        layer: The last linear one.
        data: The records.
        task: Whose losses are differentiated.
    """
    fed: list[Tensor] = []
    hook = model.get_submodule(layer).register_forward_pre_hook(
        lambda _, inputs: fed.append(inputs[0].detach())
    )
    parts: dict[str, list[Tensor]] = {}
    try:
        with mode(model, training=False):
            for x, y, _ in data.batches(128):
                with torch.no_grad():
                    logits = model(x).float()
                with torch.enable_grad():
                    losses = task.losses(logits.requires_grad_(), y)
                    (error,) = torch.autograd.grad(losses.sum(), logits)
                told = {"activations": fed.pop(), "error": error, "loss": losses, "label": y}
                for name, part in told.items():
                    parts.setdefault(name, []).append(part.detach().cpu())
    finally:
        hook.remove()
    return {name: torch.cat(part) for name, part in parts.items()}


class InferenceNetwork(nn.Module):
    """Encoders of all signals; gives how likely a record is a member, in [0, 1]."""

    def __init__(self, signals: Signals, settings: Encoders) -> None:
        """Draw the weights from the global generator; scales are those of `signals`."""
        super().__init__()
        width, self.classes = signals["activations"].shape[1], signals["error"].shape[1]
        flat = width * settings.filters
        self.rows = nn.Sequential(nn.Linear(self.classes, settings.filters), nn.ReLU())
        self.gradient = nn.Sequential(nn.Dropout(settings.dropout), _layers(flat, *settings.widths))
        self.activations, self.loss = _layers(width, 100, 64), _layers(1, 100, 64)
        self.label = _layers(self.classes, 128, 64)
        self.joint = nn.Sequential(
            _layers(settings.widths[-1] + 3 * 64, 256, 128, 64),
            nn.Linear(64, EMBEDDING),
            nn.Sigmoid(),
        )
        self.head = nn.Sequential(nn.Linear(EMBEDDING, 1), nn.Sigmoid())
        for name in ("activations", "error", "loss"):
            scale = signals[name].double().square().mean().sqrt().clamp(min=1e-30)
            self.register_buffer(f"{name}_scale", scale.to(signals[name]))

    def embed(self, signals: Signals) -> Float[Tensor, "n embedding"]:
        """Return each record's encoding, numbers in [0, 1]."""
        fed, error, loss = (
            signals[name] / self.get_buffer(f"{name}_scale")
            for name in ("activations", "error", "loss")
        )
        gradient = fed[:, :, None] * error[:, None]
        label = F.one_hot(signals["label"], self.classes).to(fed)
        parts = (
            self.gradient(self.rows(gradient).flatten(1)),
            self.activations(fed),
            self.loss(loss[:, None]),
            self.label(label),
        )
        return self.joint(torch.cat(parts, 1))

    def forward(self, signals: Signals) -> Float[Tensor, " n"]:
        return self.head(self.embed(signals))[:, 0]


def _layers(*widths: int) -> nn.Sequential:
    pairs = itertools.pairwise(widths)
    return nn.Sequential(*(m for a, b in pairs for m in (nn.Linear(a, b), nn.ReLU())))


@torch.no_grad()
def encoded(network: InferenceNetwork, signals: Signals) -> Float[Tensor, "n embedding"]:
    """Return each record's encoding, a few records at a time: their gradients are large."""
    rows = torch.arange(len(signals["label"])).split(256)
    parts = [{name: part[some] for name, part in signals.items()} for some in rows]
    return torch.cat([network.embed(part) for part in parts])


@torch.no_grad()
def says(network: InferenceNetwork, encodings: Float[Tensor, "n embedding"]) -> Bool[Tensor, " n"]:
    """Return which records are called members, by their encodings."""
    return network.head(encodings)[:, 0] > THRESHOLD


def fit_network(
    known: Data, choosing: Data, settings: Encoders, recipe: Recipe
) -> InferenceNetwork:
    """Train the inference network on known members and others, and return its best epoch's.

    Args:
        known: Signals of records as `x`, and as `y` 1 for members and 0 for as many others.
        choosing: Others like them, by which the best epoch is chosen.
        settings: Of the network.
        recipe: The target's; it is posed as that task, and not augmented.

    Raises:
        Refused: For signals that are not finite.
    """
    seen, asked = (data.take(torch.arange(len(data))) for data in (known, choosing))
    assert isinstance(seen.x, dict)
    assert isinstance(asked.x, dict)
    for name, part in seen.x.items():
        if not bool(part.isfinite().all()):
            raise Refused(
                f"the {name} of some records are not finite; the model diverged, and should be "
                "trained anew"
            )
    with fenced(derive(0, "white box")):
        network = InferenceNetwork(seen.x, settings)
        best: list[tuple[float, InferenceNetwork]] = [(-math.inf, network)]

        def watch(current: nn.Module, _: int) -> None:
            assert isinstance(current, InferenceNetwork)
            assert isinstance(asked.x, dict)
            said = says(current, encoded(current, asked.x))
            right = float((said == (asked.y > 0)).double().mean())
            if right > best[0][0]:
                best[0] = (right, current)

        def objective(batch: Batch) -> Tensor:
            return F.mse_loss(network(batch.x), batch.y.float())

        adam = Descent(
            optimizer="adamw", lr=settings.lr, batch_size=settings.batch_size, precision="fp32"
        )
        rounds = [[Pass(known, objective, "update", augment=False)]] * settings.epochs
        descend(network, rounds, adam, recipe, generator(0, "white box"), watch=watch)
    return best[0][1].eval()
