"""Signals of membership: one number per record, made of what a model says of it.

Yeom et al., "Privacy Risk in Machine Learning", CSF 2018 (loss), https://arxiv.org/abs/1709.01604;
Song and Mittal, "Systematic Evaluation of Privacy Risks of Machine Learning Models", USENIX
Security 2021 (confidence, entropy, modified entropy), https://arxiv.org/abs/2003.10595
"""

from collections.abc import Callable
from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor

from expunge.core import losses

Signal = Callable[[Tensor, Tensor], Tensor]
"""Takes outputs and right answers, returns one number per record."""

Name = Literal["loss", "confidence", "probability", "entropy", "modified_entropy"]


def probability(logits: Float[Tensor, "n classes"], y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Return the probability of each true class; where it is almost 1, records tie."""
    return logits.softmax(-1).gather(-1, y[:, None])[:, 0]


SIGNALS: dict[Name, Signal] = {
    "loss": losses.cross_entropy,
    "confidence": losses.confidence,
    "probability": probability,
    "entropy": lambda outputs, _: losses.entropy(outputs),
    "modified_entropy": losses.modified_entropy,
}

LOW: tuple[Name, ...] = ("loss", "entropy", "modified_entropy")
"""Signals that are low for records that a model was trained on."""


def towards_members(name: Name) -> Signal:
    """Return the signal, turned so that more is more like a member."""
    signal, sign = SIGNALS[name], -1 if name in LOW else 1
    return lambda outputs, y: sign * signal(outputs, y)
