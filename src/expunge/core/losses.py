"""Losses per record, as pure functions of logits."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

PADDING = -100  # PyTorch's own mark for "no answer wanted here"


def cross_entropy(
    logits: Float[Tensor, "n *positions classes"], y: Int[Tensor, "n *positions"]
) -> Float[Tensor, " n"]:
    """Return each record's cross-entropy in nats, averaged over its positions."""
    every = F.cross_entropy(logits.movedim(-1, 1), y, reduction="none", ignore_index=PADDING)
    wanted = (y != PADDING).reshape(len(y), -1)
    return every.reshape(len(y), -1).sum(1) / wanted.sum(1).clamp(min=1)


def squared_hinge(margins: Float[Tensor, "n classes"], y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Return each record's squared hinge, summed over classes: one against the rest.

    A class's own records should have a margin of at least 1, all others one of at most -1;
    what is lacking is squared. With a penalty on the squared weights this is what
    scikit-learn's LinearSVC minimises.
    """
    own = y[:, None] == torch.arange(margins.shape[-1], device=y.device)
    return (1 - torch.where(own, margins, -margins)).clamp(min=0).square().sum(-1)


def kl(
    teacher: Float[Tensor, "n *positions classes"],
    student: Float[Tensor, "n *positions classes"],
    temperature: float = 1.0,
) -> Float[Tensor, " n"]:
    """Return KL(teacher ‖ student) per record in nats, averaged over positions.

    Args:
        teacher: Logits of the distribution whose entropy is fixed.
        student: Logits of the distribution being fitted.
        temperature: Divides both sets of logits; the result is multiplied by its
            square so that gradients keep their scale.
    """
    p = (teacher / temperature).log_softmax(-1)
    q = (student / temperature).log_softmax(-1)
    each = (p.exp() * (p - q)).sum(-1)
    return temperature**2 * each.reshape(len(p), -1).mean(1)


def jensen_shannon(
    p: Float[Tensor, "n *positions classes"], q: Float[Tensor, "n *positions classes"]
) -> Float[Tensor, " n"]:
    """Return the Jensen–Shannon divergence per record in nats, in [0, ln 2].

    Args:
        p: Logits or log-probabilities.
        q: Logits or log-probabilities.
    """
    p, q = p.log_softmax(-1), q.log_softmax(-1)
    m = torch.logaddexp(p, q) - math.log(2)
    each = 0.5 * ((p.exp() * (p - m)).sum(-1) + (q.exp() * (q - m)).sum(-1))
    return each.reshape(len(p), -1).mean(1)


def confidence(logits: Float[Tensor, "n classes"], y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Return log(p / (1 - p)) of each true class: near Gaussian across models."""
    log_p = logits.log_softmax(-1)
    true = log_p.gather(-1, y[:, None])[:, 0]
    rest = log_p.scatter(-1, y[:, None], -torch.inf).logsumexp(-1)
    return true - rest


def entropy(logits: Float[Tensor, "n classes"]) -> Float[Tensor, " n"]:
    """Return each record's predictive entropy in nats, in [0, ln classes]."""
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


def modified_entropy(
    logits: Float[Tensor, "n classes"], y: Int[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Return entropy that knows the right answer: 0 for sure and right, large for wrong.

    Song and Mittal, USENIX Security 2021, https://arxiv.org/abs/2003.10595, equation 8:
    -(1 - p_y) log p_y - sum over the other classes of p_k log(1 - p_k), in nats.
    """
    log_p = logits.double().log_softmax(-1)
    p = log_p.exp()
    # Where p is near 1, 1 - p cancels; there the other classes' mass is summed instead.
    top = log_p.argmax(-1, keepdim=True)
    rest = log_p.scatter(-1, top, -torch.inf).logsumexp(-1, keepdim=True)
    log_rest = torch.log1p(-p.clamp(max=0.75)).scatter(-1, top, rest)
    terms = -p * log_rest
    right = y[:, None]
    others = terms.sum(-1) - terms.gather(-1, right)[:, 0]
    own = -log_rest.gather(-1, right)[:, 0].exp() * log_p.gather(-1, right)[:, 0]
    return (own + others).to(logits.dtype)
