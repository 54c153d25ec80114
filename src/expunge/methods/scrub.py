"""SCRUB: a student leaves its teacher on the forget set, and stays with it on the rest.

Kurmanji, Triantafillou, Hayes and Triantafillou, "Towards Unbounded Machine Unlearning",
NeurIPS 2023, https://arxiv.org/abs/2302.09880

The teacher is the original. The first epochs begin with a pass over the forget set that
raises the divergence from the teacher; every epoch then has one over the retain set that
lowers it, and the loss. SCRUB+R (`rewind=True`) goes back to the epoch whose error on the
forget set is nearest to that on like records which were never trained on.

Departures from the paper and its code:
    1. BatchNorm's statistics stay as they are on forget passes; the code has them moved
       (`forget_norms="update"`).
    2. AdamW's weight decay is decoupled from the gradient; the code's Adam has it coupled.
    3. Where the passes' batches differ in size, and whenever the rate falls, an optimiser of
       its own takes over. The code keeps one, with its momentum.
    4. The code's pull towards an average of the weights (`smoothing`) is one towards the
       original: its average begins to move only when its last epoch is over.
    5. For the rewinding, validation records of the forget set's mix of classes are all the
       validation records, weighted by class, and not some of them. The code of the paper has
       no rewinding.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from expunge.core import notes
from expunge.core.cost import Cost
from expunge.core.descent import Pass, descend, settle
from expunge.core.head import check_classes
from expunge.core.rng import generator
from expunge.core.state import Norms, mode
from expunge.method import Method, MethodCard, Preset, Search, Sizes
from expunge.types import Batch, Data, Descent, Refused, Request

CODE = "https://github.com/meghdadk/SCRUB, {}"
REMINISCENCE = (
    "https://github.com/orthogonalunlearning-replay/OUR, which attacks it: {}; the batches' "
    "size is ours"
)


def distance(weights: Sequence[Tensor], start: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Return the sum over tensors of the Euclidean distance to the start."""
    return torch.stack([(p - q).norm() for p, q in zip(weights, start, strict=True)]).sum()


def same_mix(
    wrong: Bool[Tensor, " n"], y: Int[Tensor, " n"], forget: Int[Tensor, " m"]
) -> Float[Tensor, ""]:
    """Return the error rate that these records would have with the forget set's mix of classes.

    Args:
        wrong: Which records are answered wrongly.
        y: Their classes.
        forget: The forget set's classes.

    Raises:
        Refused: Where a class of the forget set has no record here.
    """
    classes, counts = forget.unique(return_counts=True)
    missing = sorted({*classes.tolist()} - {*y.unique().tolist()})
    if missing:
        raise Refused(
            "expected validation records of every class of the forget set for scrub to rewind "
            f"by, but there are none of class {', '.join(map(str, missing[:5]))}; hold more out "
            "(`holdout`), or leave the rewinding out with rewind = False"
        )
    rates = torch.stack([wrong[y == c].double().mean() for c in classes])
    return (rates * counts).sum() / counts.sum()


def nearest(errors: Sequence[float], reference: float) -> int:
    """Return which epoch to rewind to, counted from 0.

    It is the last, unless its error is above the reference; then that of the nearest error,
    the latest of equals.
    """
    last = len(errors) - 1
    if errors[last] <= reference:
        return last
    return min(range(len(errors)), key=lambda epoch: (abs(errors[epoch] - reference), -epoch))


class Tape:
    """The model after each epoch, and how often it errs on the forget set."""

    def __init__(self, model: nn.Module, request: Request, size: int) -> None:
        self._model, self._request, self._size = model, request, size
        self._kept: list[dict[str, Tensor]] = []
        self.errors: list[float] = []

    def record(self) -> None:
        """Keep the model as it is now."""
        self._kept.append(copy.deepcopy(self._model.state_dict()))
        self.errors.append(float(self.wrong(self._request.forget).double().mean()))

    def rewind(self, epoch: int) -> None:
        """Put the model, in place, back to where it was after an epoch, counted from 0."""
        self._model.load_state_dict(self._kept[epoch])

    @torch.no_grad()
    def wrong(self, data: Data) -> Tensor:
        """Return which records the model answers wrongly, in eval mode."""
        with mode(self._model, training=False):
            asked = data.batches(self._size)
            return torch.cat([self._model(x).argmax(-1) != y for x, y, _ in asked])


@dataclass(frozen=True, kw_only=True)
class Scrub(Method):
    """Climb the divergence from the original on the forget set, descend it on the rest.

    Attributes:
        descent: The optimiser; its epochs are rounds of a max pass, if any, and a min pass.
        max_epochs: Of these, how many begin with a max pass over the forget set: the first
            ones. `msteps` in the code.
        forget_batch_size: Records per max step. A pass must have several: at the teacher itself
            the divergence has no slope, so that the very first step does nothing.
        alpha: Weight of the divergence in min passes.
        gamma: Weight of the task's loss in min passes.
        temperature: Divides the outputs of teacher and student before they are compared.
        smoothing: Weight, in all passes, of the distance to the original's weights, tensor by
            tensor.
        decays: After which epochs the rate falls to a tenth, in ascending order.
        rewind: Whether the result is of the epoch whose error on the forget set is nearest to
            the final model's on validation records of the same classes, where the final
            error on the forget set is above that; only for classification.
        norms: BatchNorm's policy on retained records.
        forget_norms: BatchNorm's policy on forgotten records.
    """

    card = MethodCard(
        name="scrub",
        source="https://arxiv.org/abs/2302.09880",
        needs=("original", "retain", "forget", "val"),
        norms="frozen on max passes, updated on min passes by default",
        null={"descent": {"lr": 0.0}, "norms": "freeze"},
        search={
            "descent.lr": Search(1e-4, 1e-1),
            "alpha": Search(1e-3, 1.0),
        },
        presets={
            "authors_code_small": Preset(
                {
                    "descent": {
                        "optimizer": "adamw",
                        "lr": 5e-4,
                        "epochs": 10,
                        "batch_size": 32,
                        "weight_decay": 0.1,
                    },
                    "max_epochs": 3,
                    "forget_batch_size": 64,
                    "alpha": 0.5,
                    "gamma": 1.0,
                    "temperature": 2.0,
                    "smoothing": 0.5,
                    "decays": [5, 8, 9],
                    "forget_norms": "update",
                },
                CODE.format("small_scale_unlearning.ipynb"),
            ),
            "authors_code_large": Preset(
                {
                    "descent": {"lr": 5e-4, "epochs": 3, "weight_decay": 5e-4},
                    "max_epochs": 2,
                    "forget_batch_size": 128,
                    "alpha": 1e-3,
                    "gamma": 0.99,
                    "temperature": 4.0,
                    "forget_norms": "update",
                },
                CODE.format("large_scale_unlearning.ipynb; the batches' size is ours"),
            ),
            "rum": Preset(
                {
                    "descent": {"lr": 5e-3, "epochs": 5},
                    "max_epochs": 5,
                    "forget_batch_size": 128,
                    "temperature": 4.0,
                    "forget_norms": "update",
                },
                "https://github.com/kairanzhao/RUM, whose 4 max epochs are 5 because they are "
                "counted from 0; what it does not name is ours",
            ),
        }
        | {
            f"reminiscence_{name}": Preset(
                {
                    "descent": {"optimizer": "adamw", "lr": lr, "epochs": epochs},
                    "max_epochs": 2,
                    "forget_batch_size": 128,
                    "alpha": 0.1,
                    "gamma": 1.0,
                    "temperature": 4.0,
                    "forget_norms": "update",
                },
                REMINISCENCE.format(about),
            )
            for name, lr, epochs, about in (
                ("class_resnet18", 1e-4, 9, "a class of CIFAR-100, ResNet-18"),
                ("class_vit", 6e-4, 9, "a superclass of CIFAR-100, a ViT"),
                ("sample_resnet18", 4e-4, 7, "a tenth of CIFAR-10, ResNet-18"),
                ("sample_vit", 4e-4, 10, "a tenth of CIFAR-100 by superclass, a ViT"),
            )
        },
        mechanisms=("distil", "train on forget", "train on retain"),
    )

    descent: Descent = Descent(lr=1e-2, epochs=6)
    max_epochs: int = 3
    forget_batch_size: int = 16
    alpha: float = 0.5
    gamma: float = 1.0
    temperature: float = 2.0
    smoothing: float = 0.0
    decays: tuple[int, ...] = ()
    rewind: bool = False
    norms: Norms = "update"
    forget_norms: Literal["freeze", "update"] = "freeze"

    def __post_init__(self) -> None:
        if not (min(self.alpha, self.gamma, self.smoothing) >= 0 and self.temperature > 0):
            raise ValueError(
                "expected alpha, gamma and smoothing >= 0 and temperature > 0, got "
                f"{self.alpha}, {self.gamma}, {self.smoothing} and {self.temperature}"
            )
        if not (self.max_epochs >= 0 and self.forget_batch_size >= 1):
            raise ValueError(
                "expected max_epochs >= 0 and forget_batch_size >= 1, got "
                f"{self.max_epochs} and {self.forget_batch_size}"
            )
        if list(self.decays) != sorted({*self.decays}) or not all(k >= 1 for k in self.decays):
            raise ValueError(
                f"expected decays to be epochs from 1 on in ascending order, got {self.decays}"
            )
        if self.rewind and self.norms == "recalibrate":
            raise ValueError(
                "rewind compares the models of each epoch, which norms='recalibrate' changes "
                "after the last; use 'update' or 'freeze'"
            )

    def unlearn(self, model: nn.Module, request: Request, seed: int) -> nn.Module:
        check_classes(request.task, request.forget.y)
        tape = self._tape(model, request)
        draws, recipe = generator(seed, "order"), request.recipe
        rounds = self._rounds(model, request, tape)
        descend(model, rounds, self.descent, recipe, draws, watch=request.watch)
        if tape is not None:
            self._choose(tape, request)
        settle(model, request.retain, self.norms, self.descent, recipe, draws)
        return model

    def _rounds(self, model: nn.Module, request: Request, tape: Tape | None) -> list[list[Pass]]:
        """Return each epoch's passes; all but the first begin by keeping the model."""
        teacher, task = copy.deepcopy(model).eval(), request.task
        start = [p.detach() for p in teacher.parameters()]

        def apart(batch: Batch, outputs: Tensor) -> Tensor:
            with torch.no_grad():
                target = teacher(batch.x).float()
            return task.divergence(target, outputs, self.temperature).mean()

        def pull() -> Tensor | float:
            if not self.smoothing:
                return 0.0
            return self.smoothing * distance([*model.parameters()], start)

        def climb(batch: Batch) -> Tensor:
            return pull() - apart(batch, model(batch.x).float())

        def stay(batch: Batch) -> Tensor:
            outputs = model(batch.x).float()
            taught = self.gamma * task.loss(lambda _: outputs, batch)
            return taught + self.alpha * apart(batch, outputs) + pull()

        rounds = []
        for epoch in range(self.descent.epochs):
            low = replace(self.descent, lr=self.descent.lr * 0.1 ** self._decayed(epoch))
            passes = [Pass(request.retain, stay, self.norms, descent=low)]
            if epoch < self.max_epochs:
                high = replace(low, batch_size=self.forget_batch_size)
                passes.insert(0, Pass(request.forget, climb, self.forget_norms, descent=high))
            if tape is not None and epoch:
                passes[0] = passes[0]._replace(before=tape.record)
            rounds.append(passes)
        return rounds

    def _decayed(self, epoch: int) -> int:
        """Return how often the rate has fallen before an epoch, counted from 0."""
        return sum(epoch >= end for end in self.decays)

    def _tape(self, model: nn.Module, request: Request) -> Tape | None:
        if not self.rewind or not self.descent.epochs:
            return None
        if request.task.card.name != "classification":
            raise Refused(
                "rewind compares how often classes are mistaken, and "
                f"{request.task.card.name} has no class of a record; use rewind = False"
            )
        same_mix(
            torch.zeros(len(request.val), dtype=torch.bool),
            request.val.y.cpu(),
            request.forget.y.cpu(),
        )
        return Tape(model, request, self.descent.batch_size)

    def _choose(self, tape: Tape, request: Request) -> None:
        """Rewind to the epoch nearest to what validation records say of the last."""
        tape.record()
        wrong = tape.wrong(request.val)
        reference = float(same_mix(wrong, request.val.y, request.forget.y))
        epoch = nearest(tape.errors, reference)
        tape.rewind(epoch)
        notes.add("forget_errors", tape.errors)
        notes.add("reference", reference)
        notes.add("epoch", epoch + 1)

    def work(self, sizes: Sizes) -> Cost:
        epochs = self.descent.epochs
        samples = sizes.forget * min(self.max_epochs, epochs) + sizes.retain * epochs
        looks = (sizes.forget * epochs + sizes.val) * (self.rewind and epochs > 0)
        again = sizes.retain * (self.norms == "recalibrate")
        return Cost(forward=2 * samples + looks + again, backward=samples)
