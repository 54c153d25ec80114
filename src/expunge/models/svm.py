"""A linear support vector machine: one linear layer, trained by a hinge.

Vapnik, "The Nature of Statistical Learning Theory", 1995; one class against the rest and with
squares, as scikit-learn's LinearSVC has it by default:
https://scikit-learn.org/stable/modules/svm.html

A margin is no logit. Audits and methods that compare posteriors take them from the softmax of
margins over a temperature, as Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural
Networks", ICML 2017, https://arxiv.org/abs/1706.04599, fit it: once, on records held out, after
which it stands for every model of the recipe. It is a setting of the recipe, so that nothing fits
it unasked; left alone it is 1 for all of them.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from expunge.core.state import mode
from expunge.models.normalize import Level, first
from expunge.models.shapes import answers, flat
from expunge.types import Architecture, Card, Data, Task, later

STEPS = 100  # of bisection; each halves the interval's logarithm


class Temperature(nn.Module):
    """Divide margins by a number that is not trained."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, margins: Tensor) -> Tensor:
        return margins / self.value


def calibrate(margins: Float[Tensor, "n classes"], y: Int[Tensor, " n"]) -> float:
    """Return the temperature by which softmax(margins / temperature) is likeliest.

    With b = 1 / temperature the mean negative log-likelihood is convex, and its slope is the
    mean of the expected margin less that of the right class; its only zero is bisected.

    Args:
        margins: Of records held out of training.
        y: Their classes.

    Raises:
        ValueError: Where all margins name the right class, or they do so no better than chance:
            then there is no such temperature.
    """
    margins = margins.detach().double()
    right = margins.gather(1, y[:, None])[:, 0].mean()

    def slope(b: float) -> float:
        expected = ((b * margins).softmax(1) * margins).sum(1).mean()
        return float(expected - right)

    if slope(0.0) >= 0 or float(margins.amax(1).mean() - right) <= 0:
        raise ValueError(
            f"expected margins that name the right class of most of {len(y)} records but not of "
            "all, so that a temperature can be fitted; give more records that were held out"
        )
    low, high = 1e-9, 1e9
    for _ in range(STEPS):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 1 / (low * high) ** 0.5


@dataclass(frozen=True, kw_only=True)
class SVM(Architecture):
    """One linear layer, trained by the hinge, squared or not, of each class against the rest.

    With weight decay w and n records, that of weights and biases alike, it is LinearSVC with
    C = 1 / (n w). What the network gives are margins over the temperature, so that their softmax
    is the posterior. The temperature changes neither the training nor the classes that are named.

    Attributes:
        temperature: What margins are divided by; `calibrated` finds it. At 1 the last layer
            is the linear one, which methods that change the last layer ask for.
        squared: Whether the hinge is squared. Its gradient is then defined everywhere, which
            methods that read gradients want; the plain hinge has a kink, and no curvature at
            all, so that a step by inverse curvature is one along the gradient.
        mean: Subtracted from inputs; None is 0.5 for images and 0 for features.
        std: Divides inputs; None is 0.25 for images and 1 for features.
    """

    card = Card(name="svm", source="https://scikit-learn.org/stable/modules/svm.html")

    temperature: float = 1.0
    mean: Level | None = None
    std: Level | None = None
    squared: bool = later(True)

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"expected temperature > 0, got {self.temperature}")

    def build(self, inputs: tuple[int, ...], outputs: int) -> nn.Module:
        features, classes = flat(inputs, "svm"), answers(outputs, "svm")
        scaled = [] if self.temperature == 1 else [Temperature(self.temperature)]
        before = first(inputs, self.mean, self.std)
        return nn.Sequential(before, nn.Flatten(), nn.Linear(features, classes), *scaled)

    def adapt(self, task: Task) -> Task:
        if task.card.name != "classification":
            raise ValueError(
                f"'svm' names classes, but the task is {task.card.name}; take 'lstm' for tokens "
                "or 'denoiser' for denoising"
            )
        asked: Any = task  # its class is beside this package, not below it
        objective = "hinge" if self.squared else "plain_hinge"
        return replace(asked, objective=objective, temperature=self.temperature)

    def calibrated(self, network: nn.Module, held_out: Data) -> "SVM":
        """Return these settings with the temperature that fits records held out of training.

        Args:
            network: Trained by these settings; its weights fit the new settings too.
            held_out: Records it was not trained on.
        """
        with mode(network, training=False), torch.no_grad():
            parts = [(network(batch.x), batch.y) for batch in held_out.batches(512)]
        outputs, y = (torch.cat(part) for part in zip(*parts, strict=True))
        return replace(self, temperature=calibrate(self.temperature * outputs, y))
