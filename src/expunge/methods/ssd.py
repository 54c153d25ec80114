"""Selective synaptic dampening: shrink the weights that matter to the forget set above all.

Foster, Schoepf and Brintrup, "Fast Machine Unlearning Without Retraining Through Selective
Synaptic Dampening", AAAI 2024, https://arxiv.org/abs/2308.07707

A weight's importance to a set of records is the set's diagonal of the empirical Fisher
information. Weights that are more than alpha times as important to the forget set as to all
training records are multiplied by λ times the inverse of that ratio, but never enlarged.
Nothing is trained.

Departures from the paper and its code:
    1. Importance is the mean of squared gradients of single records, which is the Fisher's
       diagonal. The code squares the gradient of each batch's mean loss, which grows with what
       the records of a batch have in common, so that alpha is tied to the batch's size;
       `importance="batch"` does as it does.
    2. Importance to all records is the mean of that to both parts, by their numbers: the
       forget set is gone through once, not twice. With `importance="batch"` no batch is of
       both, where the code has one such.
    3. Losses are read on unaugmented records and count alike. With `importance="batch"` a
       task's class weights count as in training.
    4. Importance to the forget set is at most n / n_forget times that to all n records, so
       that no larger alpha selects a weight, whatever the network; the paper's 10 selects none
       where a tenth is forgotten. Left out, alpha is a power of that bound (`selectivity`); a
       warning says when one that was given is beyond it.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from expunge.core import notes
from expunge.core.cost import Cost
from expunge.core.grads import mean_gradient, squared_gradients
from expunge.core.rng import generator
from expunge.core.state import recalibrate
from expunge.method import Method, MethodCard, Preset, Search, Sizes
from expunge.types import Data, Request

CODE = "https://github.com/if-loops/selective-synaptic-dampening, {}"

log = logging.getLogger(__name__)

Importance = Mapping[str, Float[Tensor, "..."]]


def as_run(script: str, alpha: float, batch_size: int, dampening: float = 1.0) -> Preset:
    """Return what one of the authors' scripts sets."""
    settings = {"alpha": alpha, "dampening": dampening, "batch_size": batch_size}
    return Preset({**settings, "importance": "batch"}, CODE.format(script))


def pooled(forget: Importance, retain: Importance, share: float) -> dict[str, Tensor]:
    """Return the importance to both sets, of which `share` is the forget set."""
    return {k: torch.lerp(retain[k], part, share) for k, part in forget.items()}


def factors(
    forget: Importance, train: Importance, alpha: float, dampening: float
) -> dict[str, Tensor]:
    """Return what each weight is multiplied by, in (0, 1]; equations 6 and 7 of the paper.

    Args:
        forget: Importance to the forget set.
        train: Importance to all training records.
        alpha: How many times as large the one must be as the other.
        dampening: Times their inverse ratio is the factor; λ in the paper.
    """
    return {
        k: torch.where(f > alpha * train[k], (dampening * train[k] / f).clamp(max=1), 1.0)
        for k, f in forget.items()
    }


@dataclass(frozen=True, kw_only=True)
class SelectiveSynapticDampening(Method):
    """Multiply the weights that are far more important to the forget set by less than one.

    Attributes:
        alpha: How many times as important a weight must be to the forget set as to all
            training records, 10 in the paper. From n / n_forget on no weight is.
        selectivity: To what power, in [0, 1), n / n_forget is alpha where that is left out: the
            larger, the fewer weights are selected.
        dampening: Times the inverse of that ratio is what a weight is multiplied by, at most
            1: the smaller, the stronger. λ in the paper.
        importance: Whether the gradients of single records are squared (`record`) or those
            of batches' mean losses (`batch`), in which a class that is alike adds up.
        batch_size: Records at once; with `record` no part of the result but for rounding.
        norms: BatchNorm's policy: statistics stay, or are estimated anew on the retain set.
    """

    card = MethodCard(
        name="ssd",
        source="https://arxiv.org/abs/2308.07707",
        needs=("original", "retain", "forget"),
        norms="frozen by default",
        null={"dampening": 1e12},
        search={
            "selectivity": Search(0.05, 0.95, log=False),
            "dampening": Search(0.01, 1.0),
        },
        presets={
            "authors_code": as_run("src/forget_full_class_main.py", 10.0, 64),
            "authors_code_vit": as_run("src/forget_full_class_main.py, for a ViT", 5.0, 64),
            "authors_code_subclass_vit": as_run("src/forget_subclass_main.py, for a ViT", 25.0, 64),
            "authors_code_random": as_run("src/forget_random_main.py", 10.0, 128),
            "authors_code_faces": as_run(
                "src/forget_full_class_main.py, as noted there for faces", 50.0, 64, 0.1
            ),
            "reminiscence": Preset(
                {"alpha": 5.0, "dampening": 0.5, "importance": "batch", "batch_size": 64},
                "https://github.com/orthogonalunlearning-replay/OUR, which attacks it; the batch's "
                "size is ours",
            ),
        },
        mechanisms=("use curvature", "choose by gradients"),
    )

    alpha: float | None = None
    selectivity: float = 0.5
    dampening: float = 1.0
    importance: Literal["record", "batch"] = "record"
    batch_size: int = 128
    norms: Literal["freeze", "recalibrate"] = "freeze"

    def __post_init__(self) -> None:
        if not ((self.alpha or 0) >= 0 and self.dampening > 0 and self.batch_size >= 1):
            raise ValueError(
                "expected alpha >= 0, dampening > 0 and batch_size >= 1, got "
                f"{self.alpha}, {self.dampening} and {self.batch_size}; dampening = 0 would set "
                "weights to zero: take a small number"
            )
        if not 0 <= self.selectivity < 1:
            raise ValueError(
                f"expected selectivity in [0, 1), got {self.selectivity}; from 1 on no weight is "
                "selected"
            )

    def unlearn(self, model: nn.Module, request: Request, seed: int) -> nn.Module:
        sizes = [self._terms(data) for data in (request.forget, request.retain)]
        bound = sum(sizes) / sizes[0]
        alpha = bound**self.selectivity if self.alpha is None else self.alpha
        if alpha >= bound:
            log.warning(
                "ssd: alpha = %g selects no weight, because importance to the forget set is at "
                "most n / n_forget = %g times that to all records; lower alpha or leave it out.",
                alpha,
                bound,
            )
        forget = self._important(model, request, request.forget, seed)
        train = pooled(forget, self._important(model, request, request.retain, seed), 1 / bound)
        scale = factors(forget, train, alpha, self.dampening)
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.mul_(scale[name])
        touched = sum(int((part < 1).sum()) for part in scale.values())
        notes.add("alpha", alpha)
        notes.add("dampened", touched / max(1, sum(part.numel() for part in scale.values())))
        if self.norms == "recalibrate":
            draws = generator(seed, "statistics")
            recalibrate(model, request.recipe.shuffled(request.retain, self.batch_size, draws))
        return model

    def _terms(self, data: Data) -> int:
        """Return how many squares the importance to a set is the mean of."""
        return len(data) if self.importance == "record" else data.steps(self.batch_size)

    def _important(self, model: nn.Module, request: Request, data: Data, seed: int) -> Importance:
        task, draws = request.task, generator(seed, "questions")
        batches = request.recipe.ordered(data, self.batch_size, draws)
        if self.importance == "record":
            return squared_gradients(model, task, batches)
        total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
        with torch.no_grad():
            for batch in batches:
                for name, part in mean_gradient(model, task, [batch]).items():
                    total[name] += part.square()
        return {name: part / self._terms(data) for name, part in total.items()}

    def work(self, sizes: Sizes) -> Cost:
        samples = sizes.retain + sizes.forget
        again = sizes.retain * (self.norms == "recalibrate")
        return Cost(forward=samples + again, backward=samples)
