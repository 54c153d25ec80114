"""Bad teacher: imitate an untrained network on the forget set, the original on the retain set.

Chundawat, Tarun, Mandal and Kankanhalli, "Can Bad Teaching Induce Forgetting? Unlearning in Deep
Networks Using an Incompetent Teacher", AAAI 2023, https://arxiv.org/abs/2205.08096

No label is read. The student starts as the original, so that on retained records it need only
stay what it is; the sample of them holds it there while the forget set moves it.

Departures from the paper and its code:
    1. The divergence is summed over classes and averaged over records; the code averages over
       classes too, which divides its gradients by their number. Adam's steps hardly change.
    2. At temperatures other than 1 the divergence has the usual factor T², so that gradients
       keep their scale.
    3. Each record goes through its own teacher only; the code asks both of all records and
       drops half of the answers.
    4. An untrained network with BatchNorm is far from uniform in what it answers, and answers
       nearly all records alike. `teacher="uniform"` teaches knowing nothing instead.
"""

import copy
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from expunge.core.cost import Cost
from expunge.core.descent import Pass, descend, settle
from expunge.core.rng import derive, fenced, generator
from expunge.core.state import Norms, device_of
from expunge.method import Method, MethodCard, Preset, Sizes
from expunge.types import Batch, Data, Descent, Inputs, Model, Refused, Request, each

CODE = "https://github.com/vikram2000b/bad-teaching-unlearning, its notebook on CIFAR-100"


@torch.no_grad()
def lessons(
    x: Inputs,
    forgotten: Bool[Tensor, " n"],
    competent: Model,
    incompetent: Model | None,
    like: Float[Tensor, "n *answer"],
) -> Float[Tensor, "n *answer"]:
    """Return the outputs that the student is to imitate, each from its record's own teacher.

    Args:
        x: Of both kinds of records.
        forgotten: Which of them are the incompetent teacher's.
        competent: Teaches the others.
        incompetent: None is one that knows nothing: outputs of 0 are a uniform distribution,
            and the mean of the noise where noise is to be named.
        like: Outputs, for their form alone.
    """
    taught = torch.zeros_like(like)
    for teacher, mine in ((competent, ~forgotten), (incompetent, forgotten)):
        rows = mine.nonzero()[:, 0].to(like.device)
        if teacher is not None and len(rows):
            taught[rows] = teacher(_some(x, rows)).to(taught)
    return taught


def _some(x: Inputs, rows: Tensor) -> Inputs:
    return each(x, lambda part: part[rows])


@dataclass(frozen=True, kw_only=True)
class BadTeacher(Method):
    """Imitate an incompetent teacher on forgotten records, the original on some retained ones.

    Attributes:
        descent: The optimiser; an epoch is a pass over the forget set and the sample, shuffled.
        fraction: Of retained records, those in the sample, which is drawn once.
        teacher: Whether the incompetent teacher is an untrained network of the original's
            architecture (`random`), or answers as one that knows nothing (`uniform`).
        temperature: Divides the outputs of teachers and student before they are compared.
        norms: BatchNorm's policy in the student; the teachers are in eval mode.
    """

    card = MethodCard(
        name="bad_teacher",
        source="https://arxiv.org/abs/2205.08096",
        needs=("original", "retain", "forget"),
        norms="updated on batches of both sets by default",
        null={"descent": {"lr": 0.0}, "norms": "freeze"},
        toy={"descent": {"lr": 1e-2, "epochs": 3, "batch_size": 32}},
        quick=False,
        presets={
            "authors_code": Preset(
                {
                    "descent": {"optimizer": "adamw", "lr": 1e-4, "epochs": 1, "batch_size": 256},
                    "fraction": 0.3,
                    "teacher": "random",
                    "temperature": 1.0,
                    "norms": "update",
                },
                CODE,
            ),
        },
        mechanisms=("distil", "train on forget", "train on retain"),
    )

    descent: Descent = Descent(optimizer="adamw", lr=1e-4, epochs=1, batch_size=256)
    fraction: float = 0.3
    teacher: Literal["random", "uniform"] = "random"
    temperature: float = 1.0
    norms: Norms = "update"

    def __post_init__(self) -> None:
        if not (0 < self.fraction <= 1 and self.temperature > 0):
            raise ValueError(
                "expected fraction in (0, 1] and temperature > 0, got "
                f"{self.fraction} and {self.temperature}"
            )

    def unlearn(self, model: nn.Module, request: Request, seed: int) -> nn.Module:
        both, count = self._taught(request, seed), len(request.forget)
        task, recipe, draws = request.task, request.recipe, generator(seed, "order")
        competent, incompetent = copy.deepcopy(model).eval(), None
        if self.teacher == "random":
            with fenced(derive(seed, "incompetent teacher")):
                # Pretrained weights, where the original has them, would be competence.
                incompetent = recipe.drawn().to(device_of(model)).eval()

        def imitate(batch: Batch) -> Tensor:
            outputs = model(batch.x).float()
            taught = lessons(batch.x, batch.index < count, competent, incompetent, outputs)
            return task.divergence(taught, outputs, self.temperature).mean()

        rounds = [[Pass(both, imitate, self.norms)]] * self.descent.epochs
        descend(model, rounds, self.descent, recipe, draws, watch=request.watch)
        settle(model, request.retain, self.norms, self.descent, recipe, draws)
        return model

    def _taught(self, request: Request, seed: int) -> Data:
        """Return the forget set and, after it, the sample of the retain set.

        Raises:
            Refused: Where there is nothing to draw the sample from.
        """
        retain = request.retain
        if not len(retain):
            raise Refused(
                "expected retained records for the original to teach, got none; forget fewer, or "
                "take a method that does without, such as 'gradient_ascent'"
            )
        rows = torch.randperm(len(retain), generator=generator(seed, "sample"))
        sample = rows[: self._sampled(len(retain))].sort().values
        return request.forget.join(retain.select(sample))

    def _sampled(self, retain: int) -> int:
        """Return how many retained records are in the sample: at least one."""
        return max(1, int(self.fraction * retain))

    def work(self, sizes: Sizes) -> Cost:
        sampled = self._sampled(sizes.retain)
        samples = (sizes.forget + sampled) * self.descent.epochs
        asked = (sampled + sizes.forget * (self.teacher == "random")) * self.descent.epochs
        again = sizes.retain * (self.norms == "recalibrate")
        return Cost(forward=samples + asked + again, backward=samples)
