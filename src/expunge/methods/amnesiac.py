"""Amnesiac unlearning: take back the steps of training that the forgotten records were in.

Graves, Nagisetty and Ganesh, "Amnesiac Machine Learning", AAAI 2021,
https://arxiv.org/abs/2010.10981

Training keeps what every batch with a sensitive record changed. Forgetting subtracts the
changes of the batches with forgotten records; all else that was learned from these batches
goes with them, so the paper trains a little more afterwards.

Departures from the paper:
    1. Batches are drawn anew in every epoch, as in all training here; the authors' code, whose
       batches stay the same, adds up each batch's changes over epochs. Of random records nearly
       every batch may hold one: the notes say what share of the recorded steps was taken back.
    2. Weights and biases are taken back, and BatchNorm's statistics are not, as in their code.
    3. All records are sensitive by default, so that any may be forgotten; `classes` and `first`
       name some. What would be kept is reckoned before training, and refused beyond `limit`.
    4. Changes are kept in single precision; `half` halves what they take, and rounds them.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from expunge.core import notes, rng
from expunge.core.cost import Cost
from expunge.core.descent import Pass, descend, settle, teach
from expunge.core.rng import generator
from expunge.core.state import Norms
from expunge.core.traces import affordable, given, located
from expunge.method import Method, MethodCard, Sizes
from expunge.types import Batch, Data, Descent, Recipe, Refused, Request, Trace


def flat(model: nn.Module) -> Float[Tensor, " weights"]:
    """Return a copy of all weights and biases, one after another."""
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@torch.no_grad()
def take_back(model: nn.Module, changes: Float[Tensor, "steps weights"]) -> None:
    """Subtract the changes from the weights, in place, with sums in double precision."""
    now = flat(model).double()
    left = now - changes.double().sum(0).to(now.device)
    sizes = [p.numel() for p in model.parameters()]
    for p, part in zip(model.parameters(), left.split(sizes), strict=True):
        p.copy_(part.view(p.shape))


class Recorder:
    """Keeps what each step with a sensitive record changed, and which such records it had."""

    def __init__(
        self, model: nn.Module, data: Data, sensitive: Bool[Tensor, " n"], epochs: int
    ) -> None:
        self.changes: list[Tensor] = []
        self.met = torch.full((epochs, len(data)), -1, dtype=torch.int32)
        self._model, self._index, self._sensitive = model, data.index, sensitive
        self._rows = torch.zeros(0, dtype=torch.long)
        self._before = self._weights()
        self._passed = torch.zeros(len(data), dtype=torch.long)

    def note(self, batch: Batch) -> None:
        """Remember which sensitive records the step to come is on."""
        rows = located(self._index, batch.index)
        self._rows = rows[self._sensitive[rows]]

    def after(self, rate: float) -> None:
        """Keep what the step changed, where it was on any."""
        del rate
        now = self._weights()
        rows = self._rows
        if len(rows):
            self.met[self._passed[rows], rows] = len(self.changes)
            self._passed[rows] += 1
            self.changes.append((now - self._before).cpu())
        self._before = now

    def _weights(self) -> Tensor:
        return flat(self._model)


def steps_with(met: Int[Tensor, "epochs n"], rows: Int[Tensor, " forget"]) -> Int[Tensor, " steps"]:
    """Return which of the recorded steps any of the records was in."""
    return met[:, rows].unique().long()


@dataclass(frozen=True, kw_only=True)
class Amnesiac(Method):
    """Subtract the steps that were on forgotten records, then train on the others.

    Attributes:
        descent: Of the training on retained records afterwards; of 0 epochs there is none.
        classes: Whose records are sensitive.
        first: How many records of the training set, from the first on, are sensitive; with
            `classes`, either makes a record so. With neither all are.
        half: Whether changes are kept in half precision.
        norms: BatchNorm's policy on retained records.
        limit: GiB that the changes may take; more is refused before training.
    """

    card = MethodCard(
        name="amnesiac",
        source="https://arxiv.org/abs/2010.10981",
        needs=("original", "retain", "forget", "trace"),
        norms="left by the subtraction, updated on retained records by default",
        null=None,
        quick=False,
        mechanisms=("re-initialise weights", "train on retain"),
    )

    descent: Descent = Descent(lr=1e-2, epochs=1)
    classes: tuple[int, ...] = ()
    first: int | None = None
    half: bool = False
    norms: Norms = "update"
    limit: float = 8.0

    def __post_init__(self) -> None:
        if self.first is not None and self.first < 1:
            raise ValueError(f"expected first >= 1 records, got {self.first}")

    def train(self, recipe: Recipe, data: Data, seed: int) -> tuple[nn.Module, Trace]:
        sensitive, epochs = self._sensitive(data), recipe.descent.epochs
        with rng.fenced(rng.derive(seed, "weights")):
            model = recipe.fresh().to(data.y.device)
            numbers = sum(p.numel() for p in model.parameters())
            steps = data.steps(recipe.descent.batch_size)
            most = epochs * min(steps, int(sensitive.sum()))
            affordable(
                most * numbers * (2 if self.half else 4),
                self.limit,
                f"the changes of up to {most} steps, of {numbers:,} weights each,",
                "name fewer sensitive records by `classes` or `first`, set half=true",
            )
            recorder = Recorder(model, data, sensitive, epochs)
            draws = generator(seed, "order")
            teach(model, recipe, data, draws, note=recorder.note, after=recorder.after)
        kind = torch.half if self.half else torch.float
        changes = [
            torch.zeros(0, numbers, dtype=kind),
            *(c[None].to(kind) for c in recorder.changes),
        ]
        trace = {"changes": torch.cat(changes), "met": recorder.met, "index": data.index.cpu()}
        return model.eval(), trace

    def unlearn(self, model: nn.Module, request: Request, seed: int) -> nn.Module:
        trace = given(request.trace, self.card.name)
        rows = located(trace["index"], request.forget.index)
        known = (trace["met"][:, rows] >= 0).all(0)
        if not known.all():
            raise Refused(
                f"{int((~known).sum())} of {len(rows)} records to forget were not among the "
                "sensitive ones, whose steps training kept; name them by `classes` or `first`, or "
                "neither for all, and train again"
            )
        steps = steps_with(trace["met"], rows)
        take_back(model, trace["changes"][steps])
        notes.add("steps taken back", len(steps))
        notes.add("share of recorded steps", len(steps) / max(1, len(trace["changes"])))
        lesson = Pass(request.retain, lambda batch: request.task.loss(model, batch), self.norms)
        rounds = [[lesson]] * self.descent.epochs
        recipe, draws = request.recipe, generator(seed, "order")
        descend(model, rounds, self.descent, recipe, draws, watch=request.watch)
        if rounds:
            settle(model, request.retain, self.norms, self.descent, recipe, draws)
        return model

    def work(self, sizes: Sizes) -> Cost:
        samples = sizes.retain * self.descent.epochs
        again = sizes.retain * (self.norms == "recalibrate" and self.descent.epochs > 0)
        return Cost(forward=samples + again, backward=samples)

    def _sensitive(self, data: Data) -> Bool[Tensor, " n"]:
        if not self.classes and self.first is None:
            return torch.ones(len(data), dtype=torch.bool)
        sensitive = torch.arange(len(data)) < (self.first or 0)
        if self.classes:
            y = data.y.cpu()
            if y.dim() != 1:
                raise Refused(
                    "expected records of one class each to choose by `classes`, got answers of "
                    f"shape {tuple(y.shape)}; choose by `first`"
                )
            sensitive |= torch.isin(y, torch.tensor(self.classes))
        return sensitive
