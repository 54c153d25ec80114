"""UNSC: forget along directions that no retained record's features have.

Chen, Zhu, Yu and Zhou, "Machine Unlearning via Null Space Calibration", IJCAI 2024,
https://arxiv.org/abs/2404.13588

Departures from the paper and its code:
    1. One sum of outer products and one eigen-decomposition per layer stand for a singular
       value decomposition per class and layer and their merging; every retained record in
       the sample counts alike.
    2. Convolutions' windows have their true stride and padding; the authors' code takes stride
       1 and none.
    3. Inputs are found by the parameter they meet, not by hooks in the order of calls, which is
       not the order of the parameters in a residual network and misses most of a Swin.
    4. Weight decay is projected with the gradient: added after, it would leave the null space.
    5. What is not seen as one linear map keeps its bits: biases, norms, embeddings, recurrent
       weights, grouped convolutions. Others leave depthwise convolutions unprojected.
    6. Labels never name a forgotten class where any other class is left. The authors' code for
       one class takes the runner-up, which may be another forgotten one.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import scipy.linalg
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from expunge.core import notes
from expunge.core.cost import Cost
from expunge.core.descent import Pass, descend
from expunge.core.head import check_classes
from expunge.core.inputs import InputCovariances
from expunge.core.losses import PADDING
from expunge.core.relabel import row_of
from expunge.core.rng import generator
from expunge.core.state import mode
from expunge.data.strata import draw
from expunge.method import Method, MethodCard, Preset, Sizes
from expunge.types import Batch, Data, Descent, Request

CODE = "https://github.com/rainmilk/mra4mu, scripts/{}/unlearn.sh, but for its constant label"
NOTEBOOKS = "https://github.com/HQC-ML/Machine-Unlearning-via-Null-Space-Calibration, notebook for"

log = logging.getLogger(__name__)


class Projection(NamedTuple):
    """A projection of a weight's rows onto the directions that its inputs lack.

    Attributes:
        basis: Orthonormal columns, of whichever space has fewer: the inputs' or the rest.
        inputs: Whether they span the inputs' space.
        rank: Dimensions of the inputs' space.
    """

    basis: Float[Tensor, "width columns"]
    inputs: bool
    rank: int

    def __call__(self, weight: Float[Tensor, "out *shape"]) -> Float[Tensor, "out *shape"]:
        rows = weight.flatten(1)
        along = rows @ self.basis @ self.basis.T
        return (rows - along if self.inputs else along).view(weight.shape)


def null_space(covariance: Float[Tensor, "width width"], energy: float) -> Projection:
    """Return the projection away from the fewest directions that hold `energy` of the inputs.

    Args:
        covariance: A^T A of the inputs A, in double precision.
        energy: Share of the inputs' squared length, in (0, 1]; of 1, directions in which
            there is nothing but round-off stay free.
    """
    values, vectors = _eigh(covariance)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    width = len(values)
    noise = width * torch.finfo(values.dtype).eps * values[0]
    reached = values.cumsum(0) >= energy * values.sum()
    enough = int((~reached).sum()) + 1
    rank = min(enough, int((values > noise).sum()))
    inputs = 2 * rank <= width
    basis = vectors[:, :rank] if inputs else vectors[:, rank:]
    return Projection(basis.float(), inputs, rank)


def _eigh(matrix: Float[Tensor, "width width"]) -> tuple[Tensor, Tensor]:
    """Return eigenvalues, rising, and eigenvectors of a symmetric matrix.

    Divide and conquer is fast, and now and then fails where many eigenvalues are equal, as
    those of dead channels are; QR iteration does not.
    """
    try:
        return torch.linalg.eigh(matrix)
    except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage] documented
        log.warning("an eigen-decomposition did not converge; taking the slower QR iteration")
        found = scipy.linalg.eigh(matrix.cpu().numpy(), driver="ev")
        values, vectors = (torch.from_numpy(part).to(matrix) for part in found)
        return values, vectors


def forgotten(y: Int[Tensor, "n *positions"], classes: int) -> Int[Tensor, " k"] | None:
    """Return the classes of the forget set, or None where those are all there are."""
    named = y[y != PADDING].unique()
    return named if len(named) < classes else None


def pseudo_labels(
    logits: Float[Tensor, "n *positions classes"],
    y: Int[Tensor, "n *positions"],
    avoid: Int[Tensor, " k"] | None,
) -> Int[Tensor, "n *positions"]:
    """Return each record's likeliest class that is not forgotten.

    Args:
        logits: The original's.
        y: True classes; what is padding stays padding.
        avoid: Classes that no label may name. None avoids each record's own alone: where the
            forget set has records of every class, there would be no class left.
    """
    if avoid is None:
        masked = logits.scatter(-1, y.clamp(min=0)[..., None], -torch.inf)
    else:
        masked = logits.index_fill(-1, avoid, -torch.inf)
    return torch.where(y == PADDING, y, masked.argmax(-1))


def as_run(
    folder: str,
    lr: float,
    *,
    batch_size: int = 256,
    epochs: int = 10,
    weight_decay: float = 5e-4,
) -> Preset:
    """Return what the authors of the Membership Recall Attack ran on a data set.

    Their command names no class, so that every class was masked and all labels were one
    constant. That is not repeated here.
    """
    descent = {
        "lr": lr,
        "epochs": epochs,
        "batch_size": batch_size,
        "momentum": 0.9,
        "weight_decay": weight_decay,
    }
    settings = {"descent": descent, "energy": 0.99, "samples": batch_size}
    return Preset(settings, CODE.format(folder))


@dataclass(frozen=True, kw_only=True)
class NullSpace(Method):
    """Teach the likeliest class that is not forgotten, without touching retained outputs.

    Each step is projected so that a layer's outputs on a sample of retained records do not
    change. What may be learnt is what the original would say if it knew the retained classes
    alone; where the forget set has records of every class, the likeliest wrong class.

    A layer whose retained inputs have every direction is frozen, and a warning names it.

    Attributes:
        descent: Its epochs are passes over the forget set. SGD only: AdamW rescales each weight
            by itself, which leaves the null space.
        energy: Share of the retained inputs' squared length, in (0, 1], that is protected in
            each layer. What is not protected leaks, and adds up over layers.
        samples: Retained records whose inputs are protected, of every class its share.
    """

    card = MethodCard(
        name="null_space",
        source="https://arxiv.org/abs/2404.13588",
        needs=("original", "retain", "forget"),
        norms="frozen",
        null={"descent": {"lr": 0.0}},
        toy={"descent": {"lr": 5e-2, "epochs": 3}, "energy": 0.9, "samples": 40},
        presets={
            "paper": Preset(
                as_run("cifar10", 1e-5, weight_decay=5e-3).settings,
                "Sui et al., IJCAI 2025, section 5.1, prints momentum and decay alone; the rest "
                "is its code's for CIFAR-10",
            ),
            "authors_code": as_run("cifar10", 1e-5),
            "authors_code_cifar100": as_run("cifar100", 2.6e-4),
            "authors_code_pet37": as_run("pet37", 1.2e-4, batch_size=64, epochs=20),
            "unsc_authors": Preset(
                {
                    "descent": {"lr": 0.04, "epochs": 25, "batch_size": 256, "momentum": 0.0},
                    "energy": 0.97,
                    "samples": 2304,
                },
                f"{NOTEBOOKS} CIFAR-10: 256 records of each of nine retained classes",
            ),
            "unsc_authors_cifar100": Preset(
                {
                    "descent": {"lr": 0.04, "epochs": 25, "batch_size": 256, "momentum": 0.0},
                    "energy": 0.99,
                    "samples": 256,
                },
                f"{NOTEBOOKS} CIFAR-100: one mixed batch of retained records",
            ),
        },
        tasks=("classification", "next_token"),
        mechanisms=("project weights", "relabel", "train on forget"),
    )

    descent: Descent = Descent(lr=4e-2, epochs=10, momentum=0.0)
    energy: float = 0.99
    samples: int = 256

    def __post_init__(self) -> None:
        if not (0 < self.energy <= 1 and self.samples >= 1):
            raise ValueError(
                "expected energy in (0, 1] and samples >= 1, "
                f"got energy={self.energy}, samples={self.samples}"
            )
        if self.descent.optimizer != "sgd":
            raise ValueError(
                f"null_space needs optimizer='sgd', got '{self.descent.optimizer}', which "
                "rescales each weight by itself and so leaves the null space"
            )

    def unlearn(self, model: nn.Module, request: Request, seed: int) -> nn.Module:
        check_classes(request.task, request.forget.y)
        task, draws = request.task, generator(seed, "order")
        projections = self._projections(model, request, generator(seed, "samples"))
        answers = self._answers(model, request, draws)
        row = row_of(request.forget)
        parameters = dict(model.named_parameters())

        def relabelled(batch: Batch) -> Tensor:
            return task.loss(model, batch._replace(y=answers[row(batch)]))

        def project(gradients: Mapping[str, Tensor]) -> None:
            for name, gradient in gradients.items():
                if name in projections:
                    gradient.add_(parameters[name].detach(), alpha=self.descent.weight_decay)
                    gradient.copy_(projections[name](gradient))
                else:
                    gradient.zero_()

        descend(
            model,
            [[Pass(request.forget, relabelled, "freeze")]] * self.descent.epochs,
            replace(self.descent, weight_decay=0.0),
            request.recipe,
            draws,
            watch=request.watch,
            adjust=project,
        )
        return model

    def _projections(
        self, model: nn.Module, request: Request, draws: torch.Generator
    ) -> dict[str, Projection]:
        """Return a projection for each weight that may move; say which may not."""
        retain = request.retain
        rows = draw(retain.y, min(self.samples, len(retain)), draws)
        covariances = InputCovariances(model)
        with mode(model, training=False), torch.no_grad(), covariances:
            for batch in self._batches(retain.select(rows), request, draws):
                model(batch.x)
        found = {k: null_space(c, self.energy) for k, c in covariances.known().items()}
        widths = {name: len(projection.basis) for name, projection in found.items()}
        notes.add("rank", {k: [p.rank, widths[k]] for k, p in found.items()})
        matrices = [name for name, p in model.named_parameters() if p.dim() > 1]
        notes.add("unseen", [name for name in matrices if name not in found])
        full = [name for name, projection in found.items() if projection.rank == widths[name]]
        if full:
            log.warning(
                "null_space: retained inputs fill the whole space of %d of %d layers, which "
                "stay as they are: %s. Lower `energy` or `samples` to let them move.",
                len(full),
                len(found),
                ", ".join(full),
            )
        return {name: projection for name, projection in found.items() if name not in full}

    def _answers(self, model: nn.Module, request: Request, draws: torch.Generator) -> Tensor:
        """Return a label for each record of the forget set, in its order."""
        labels, avoid = [], forgotten(request.forget.y, request.task.outputs)
        with mode(model, training=False), torch.no_grad():
            for batch in self._batches(request.forget, request, draws):
                labels.append(pseudo_labels(model(batch.x).float(), batch.y, avoid))
        return torch.cat(labels)

    def _batches(self, data: Data, request: Request, draws: torch.Generator) -> Iterator[Batch]:
        return request.recipe.ordered(data, self.descent.batch_size, draws)

    def work(self, sizes: Sizes) -> Cost:
        taught = sizes.forget * self.descent.epochs
        read = min(self.samples, sizes.retain) + sizes.forget
        return Cost(forward=read + taught, backward=taught)
