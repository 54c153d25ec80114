"""Distillation: draw the first and last layer anew, then learn from the original as a teacher.

Karypidis, Perifanis, Nikolaidis, Komodakis and Efraimidis (sixth in the final list), "6th place
solution", NeurIPS 2023 Machine Unlearning Challenge,
https://www.kaggle.com/competitions/neurips-2023-machine-unlearning/discussion/458740; compared
under this name by Salgado Herrera et al., "Comparative Analysis of Machine Unlearning
Approaches for Data Protection", CAID 2024.

The student first imitates the teacher on the validation set, which neither was trained on, so
that what the teacher knows of the forget set is asked for nowhere.

Departures from public code for it:
    1. It adds the cross-entropy against the teacher's answers to the divergence from them. The
       two differ by the teacher's entropy, a constant, so the divergence counted twice has the
       same gradient, and a task without class scores has it too.
    2. The first layer is the first with a matrix of weights to run, and the last the one
       that gives the output. In the authors' network they are `conv1` and `fc`.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from expunge.core.cost import Cost
from expunge.core.descent import Pass, descend, settle
from expunge.core.head import last_linear
from expunge.core.layers import first_layer, redraw
from expunge.core.rng import generator
from expunge.core.state import Norms
from expunge.method import Method, MethodCard, Preset, Sizes
from expunge.types import Batch, Descent, Refused, Request, Task

SEED_PAPER = "https://hal.science/hal-05046594v1: the number of epochs alone"


def imitation(task: Task, teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """Return the mean divergence of softened outputs, without the usual factor T²."""
    return task.divergence(teacher, student, temperature).mean() / temperature**2


@dataclass(frozen=True, kw_only=True)
class Distillation(Method):
    """Draw two layers anew; imitate the original on validation, then on retained records.

    Attributes:
        descent: The fine-tuning's optimiser, on the retain set.
        warmup: The imitation's optimiser, on the validation set. Its epochs come on top.
        temperature: Divides the outputs of teacher and student before they are compared.
        soft: Weight of the divergence beside the loss, when fine-tuning.
        norms: BatchNorm's policy.
    """

    card = MethodCard(
        name="distillation",
        source="https://www.kaggle.com/competitions/neurips-2023-machine-unlearning/discussion/458740",
        needs=("original", "retain", "val"),
        norms="updated on validation and retained records by default",
        null=None,
        toy={"descent": {"lr": 1e-2, "batch_size": 32}, "warmup": {"lr": 1e-2, "epochs": 2}},
        quick=False,
        presets={
            f"seed_paper_{epochs}": Preset({"descent": {"epochs": epochs}}, SEED_PAPER)
            for epochs in (5, 9, 20)
        },
        mechanisms=("re-initialise weights", "distil", "train on validation", "train on retain"),
    )

    descent: Descent = Descent(
        lr=1e-3, epochs=3, batch_size=64, weight_decay=5e-4, schedule="cosine", stride="epoch"
    )
    warmup: Descent = Descent(lr=9e-4, epochs=3, batch_size=64, weight_decay=5e-4)
    temperature: float = 5.0
    soft: float = 2.0
    norms: Norms = "update"

    def __post_init__(self) -> None:
        if not (self.temperature > 0 and self.soft >= 0):
            raise ValueError(
                f"expected temperature > 0 and soft >= 0, got {self.temperature} and {self.soft}"
            )

    def unlearn(self, model: nn.Module, request: Request, seed: int) -> nn.Module:
        if self.warmup.epochs and not len(request.val):
            raise Refused(
                "expected validation records for distillation to warm up on, got none; hold some "
                "out (`holdout`), or leave the warm-up out with warmup.epochs = 0"
            )
        task, recipe, draws = request.task, request.recipe, generator(seed, "order")
        teacher = copy.deepcopy(model).eval()
        one = request.retain.select(torch.arange(1))
        batch = next(iter(recipe.ordered(one, 1, generator(seed, "look"))))
        for name in {first_layer(model, batch.x), last_linear(model, batch.x)[0]}:
            redraw(model, name, seed)

        def imitate(batch: Batch, outputs: Tensor) -> Tensor:
            with torch.no_grad():
                target = teacher(batch.x).float()
            return imitation(task, target, outputs, self.temperature)

        def warm(batch: Batch) -> Tensor:
            return imitate(batch, model(batch.x).float())

        def teach(batch: Batch) -> Tensor:
            outputs = model(batch.x).float()
            return task.loss(lambda _: outputs, batch) + self.soft * imitate(batch, outputs)

        warming = Pass(request.val, warm, self.norms, descent=self.warmup)
        teaching = Pass(request.retain, teach, self.norms)
        rounds = [[warming]] * self.warmup.epochs + [[teaching]] * self.descent.epochs
        descend(model, rounds, self.descent, recipe, draws, watch=request.watch)
        settle(model, request.retain, self.norms, self.descent, recipe, draws)
        return model

    def work(self, sizes: Sizes) -> Cost:
        samples = sizes.val * self.warmup.epochs + sizes.retain * self.descent.epochs
        again = sizes.retain * (self.norms == "recalibrate")
        return Cost(forward=2 + 2 * samples + again, backward=samples)
