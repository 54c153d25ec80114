"""What classes alone give away: how far a record may be moved before its class changes.

Choquette-Choo, Tramèr, Carlini and Papernot, "Label-Only Membership Inference Attacks", ICML 2021,
https://arxiv.org/abs/2007.14321

A model is sure of what it was trained on, and so such records lie farther from the boundary
between classes, and their neighbours are answered right more often.

Departures from the paper:
    1. The distance to the boundary is gauged by random noise of several sizes, as the paper does
       for tables, not by an optimised search, which takes thousands of queries per record.
    2. The score is the share of all answers that are right, without a network that learns from
       them which matter; nothing is fitted.
    3. Images are shifted and mirrored together and not rotated. What a shift brings in is black.
    4. Noise is Gaussian for every column of a table; the paper flips bits of binary ones.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from expunge import stats
from expunge.audit import Answer, Audit, AuditCard, Case
from expunge.core.cost import Cost
from expunge.core.rng import generator
from expunge.core.sample import some
from expunge.lab import beside
from expunge.membership import check_folds, membership
from expunge.subject import Access, Refused, Subject
from expunge.types import Data, Request

AT_ONCE = 512  # records per query; memory only, not the result

Copies = Callable[[Tensor, int], Tensor]
"""Takes one record and its index, returns copies of it that differ."""


class Spread(NamedTuple):
    """How far values reach, by column of a table or by channel of an image.

    Attributes:
        deviation: Their standard deviation.
        low: The least of them.
        high: The largest.
    """

    deviation: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, data: Data) -> "Spread":
        """Measure the records, in two passes over them.

        Raises:
            Refused: For values that are not finite.
        """
        across = (0, 2, 3) if len(data.shape) == 3 else (0,)

        def every(change: Callable[[Tensor], Tensor]) -> list[Tensor]:
            return [change(x.double()) for x, _, _ in data.batches(512) if isinstance(x, Tensor)]

        count = len(data) * (data.shape[1] * data.shape[2] if len(across) == 3 else 1)
        sums = every(lambda x: x.sum(across, keepdim=True))
        mean = torch.stack(sums).sum(0) / count
        if not bool(mean.isfinite().all()):
            raise Refused(
                "the records never trained on hold values that are not finite, so noise has no "
                "measure; clean the data first"
            )
        squares = every(lambda x: (x - mean).square().sum(across, keepdim=True))
        deviation = (torch.stack(squares).sum(0) / count).sqrt()
        low = torch.stack(every(lambda x: x.amin(across, keepdim=True))).amin(0)
        high = torch.stack(every(lambda x: x.amax(across, keepdim=True))).amax(0)
        return cls(*(part[0].float().cpu() for part in (deviation, low, high)))


def noisy(
    record: Float[Tensor, "*shape"],
    spread: Spread,
    scales: tuple[float, ...],
    queries: int,
    rng: torch.Generator,
) -> Float[Tensor, "copies *shape"]:
    """Return copies of a record with Gaussian noise: the same draws at every scale.

    Nothing leaves the range of the data: an endpoint might refuse it.

    Args:
        record: What is moved.
        spread: The data's own.
        scales: Of the noise, in the data's standard deviations.
        queries: Copies at each scale.
        rng: On the CPU.
    """
    draws = torch.randn(queries, *record.shape, generator=rng)
    noise = torch.cat([scale * draws for scale in scales]) * spread.deviation
    low, high = (edge.to(record.device) for edge in (spread.low, spread.high))
    return torch.clamp(record + noise.to(record.device), low, high)


def offsets(shifts: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return all shifts, down and right, of so many pixels in both directions together."""
    return [
        (down, right)
        for pixels in shifts
        for down in range(-pixels, pixels + 1)
        for right in sorted({abs(down) - pixels, pixels - abs(down)})
    ]


def augmented(
    image: Float[Tensor, "c h w"], shifts: tuple[int, ...], *, flip: bool
) -> Float[Tensor, "copies c h w"]:
    """Return the image shifted every way, and all of it mirrored too; not the image itself."""
    reach, (height, width) = max(shifts, default=0), image.shape[1:]
    padded = F.pad(image, [reach] * 4)
    made = [image] + [
        padded[:, reach - down : reach - down + height, reach - right : reach - right + width]
        for down, right in offsets(shifts)
    ]
    copies = torch.stack(made)
    return torch.cat([copies, copies.flip(-1)])[1:] if flip else copies[1:]


def robustness(right: Bool[Tensor, "n answers"]) -> Float[Tensor, " n"]:
    """Return which share of a record's answers is right; 0 where that on itself is wrong.

    Args:
        right: Whether the class was right, of the record itself (first column) and its copies.
    """
    return torch.where(right[:, 0], right.double().mean(1), 0.0)


def right_answers(
    subject: Subject, data: Data, copies: Copies, count: int
) -> Bool[Tensor, "n answers"]:
    """Return whether the class is right, of each record (first column) and of its copies.

    Args:
        subject: Who is asked.
        data: The records.
        copies: Makes them.
        count: Copies of each record.

    Raises:
        Refused: For answers that are not one class per record, or outputs that are not finite.
    """
    found: list[Tensor] = []
    for rows in torch.arange(len(data)).split(max(1, AT_ONCE // (1 + count))):
        x, y, index = data.take(rows)
        assert isinstance(x, Tensor)  # `check` has seen to it
        made = [
            torch.cat([record[None], copies(record, number)])
            for record, number in zip(x, index.tolist(), strict=True)
        ]
        said = torch.cat([_labels(subject, part) for part in torch.cat(made).split(AT_ONCE)])
        found.append(said.view(len(rows), -1) == y.cpu()[:, None])
    return torch.cat(found)


def _labels(subject: Subject, x: Tensor) -> Tensor:
    if subject.access is Access.LABELS:
        said = subject.labels(x).cpu()
    else:
        outputs = subject.outputs(x)
        if not bool(outputs.amax(-1).isfinite().all()):
            raise Refused(
                f"expected finite outputs, got {int((~outputs.isfinite()).sum())} of "
                f"{outputs.numel()} that are NaN or infinite, which have no most likely class; "
                "the model has probably diverged: lower the learning rate of what made it"
            )
        said = outputs.argmax(-1).cpu()
    if said.shape != x.shape[:1] or said.is_floating_point():
        raise Refused(
            f"expected one class per record, got a {tuple(said.shape)} tensor of {said.dtype} for "
            f"{len(x)} records; a function that answers with probabilities is a Served(function)"
        )
    return said


@dataclass(frozen=True, kw_only=True)
class LabelOnly(Audit):
    """Are forget records farther from a change of class than records never trained on?

    Asks any endpoint that answers for whatever it is given, and reads the classes only. The same
    draws are put to all models. `auc_unperturbed` is what being right about the record itself
    tells; what lies above it is due to the copies. `queries` counts all records put to the model.

    Attributes:
        perturbation: `noise` for tables and images, `augmentation` for images.
        queries: Noisy copies of each record at each scale.
        scales: Of the noise, in the standard deviations of the test records, by column or by
            channel.
        shifts: Of images, in pixels, down and right together.
        flip: Whether images are mirrored too; not for what has a left and a right, as digits.
        records: At most so many forget records and so many never trained on are asked about,
            drawn at random; None asks about all.
    """

    card = AuditCard(
        name="label_only",
        source="https://arxiv.org/abs/2007.14321",
        access=Access.LABELS,
        alone=True,
        tasks=("classification",),
        decides=True,
        unit="area under the ROC curve; 0.5 is chance",
        quick=False,
        probes=True,
        toy={"queries": 8},
    )

    perturbation: Literal["noise", "augmentation"] = "noise"
    queries: int = 16
    scales: tuple[float, ...] = (0.25, 0.5, 1.0)
    shifts: tuple[int, ...] = (1, 2)
    flip: bool = True
    records: int | None = 1000

    def __post_init__(self) -> None:
        if not (self.queries >= 1 and self.scales and all(0 < s < 1e6 for s in self.scales)):
            raise ValueError(
                "expected queries >= 1 and at least one scale, all above 0 and below a million, "
                f"got queries={self.queries} and scales={self.scales}"
            )
        if any(shift < 1 for shift in self.shifts) or not (self.shifts or self.flip):
            raise ValueError(
                "expected shifts of at least 1 pixel, and some unless images are mirrored, got "
                f"shifts={self.shifts} and flip={self.flip}"
            )
        if self.records is not None and self.records < 2:
            raise ValueError(f"expected records >= 2 or none, got {self.records}")

    @property
    def copies(self) -> int:
        """How many copies are made of each record."""
        if self.perturbation == "noise":
            return self.queries * len(self.scales)
        return (1 + self.flip) * (1 + len(offsets(self.shifts))) - 1

    def check(self, case: Case) -> None:
        super().check(case)
        check_folds(case, 1, self.card.name)
        x = case.request.forget.take(torch.arange(1)).x
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise Refused(
                "label_only moves records a little, which takes tensors of numbers; tokens and "
                "dicts of tensors have no small steps"
            )
        if self.perturbation == "augmentation" and (
            x.dim() != 4 or max(self.shifts, default=0) >= min(x.shape[2:])
        ):
            raise Refused(
                f"label_only shifts images by up to {max(self.shifts, default=0)} pixels, but a "
                f"record here has shape {tuple(x.shape[1:])}; take perturbation='noise' for "
                "tables, or smaller `shifts`"
            )

    def asked(self, request: Request, others: Data) -> tuple[Data, Data]:
        """Return the forget records and the others that are asked about."""
        return some(request.forget, self.records, "forget"), some(others, self.records, "beside")

    def work(self, request: Request, test: Data) -> Cost:
        asked = sum(map(len, self.asked(request, beside(request, test))))
        return Cost(forward=asked * (1 + self.copies))

    def ask(self, subject: Subject, case: Case, seed: int) -> Answer:
        forget, others = self.asked(case.request, case.nonmembers)
        spread = Spread.of(case.test) if self.perturbation == "noise" else None

        def right(data: Data, name: str) -> Tensor:
            def copies(record: Tensor, number: int) -> Tensor:
                if spread is None:
                    return augmented(record, self.shifts, flip=self.flip)
                # Draws of a record's own do not depend on what else is asked with it.
                draws = generator(seed, "noise", name, number)
                return noisy(record, spread, self.scales, self.queries, draws)

            return right_answers(subject, data, copies, self.copies)

        inside, outside = right(forget, "forget"), right(others, "others")
        alone = stats.auc(inside[:, 0].double(), outside[:, 0].double())
        answer = membership(robustness(inside), robustness(outside), forget)
        return answer.plus(
            {"auc_unperturbed": float(alone), "queries": float(inside.numel() + outside.numel())}
        )
