"""The nouns: immutable records that flow between the parts of the library."""

import hashlib
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Num
from pydantic_core import core_schema
from torch import Tensor, nn

Inputs = Tensor | dict[str, Tensor]
Model = Callable[[Inputs], Tensor]
Trace = Mapping[str, Tensor]
Watch = Callable[[nn.Module, int], None]
Json = Any  # what json.dumps takes; a recursive alias is slow under runtime checking


class Refused(ValueError):
    """What cannot be done with these records, this model or this case, and what to do instead."""


class Settings:
    """Base of every dataclass a spec may hold: no unknown key, no silent cast.

    A field whose type is a base class, `Architecture` say, takes a table with a `name`.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid", "strict": True}

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type, handler: Any) -> Any:
        """Have pydantic look a base class's table up by name, if it has a way to."""
        if not inspect.isabstract(cls):
            return handler(source)

        def named(value: object) -> object:
            if isinstance(value, cls):
                return value
            if not isinstance(value, Mapping):
                raise ValueError(f"expected a table with a name, got {value!r}")
            return NAMED[cls](value)

        return core_schema.no_info_plain_validator_function(named)


def later(default: Any) -> Any:
    """Return a field that a settings class was given after records of it had been made.

    It is part of plain data and keys only where it differs from its default, so that older
    keys stand.
    """
    return field(default=default, metadata={"later": True})


NAMED: dict[type, Callable[[Any], object]] = {}
"""What builds each base class's settings from a table; the registry fills it."""


class Preset(NamedTuple):
    """Named settings and where they come from."""

    settings: Mapping[str, Json]
    source: str


@dataclass(frozen=True, kw_only=True)
class Card:
    """Identity of a registered class.

    Attributes:
        name: Its key in the registry, in specs and on the command line.
        source: Where it was first described.
        version: Part of every cache key; raised by hand when the maths changes.
        presets: Other people's settings, as data; a spec names them.
    """

    name: str
    source: str = ""
    version: int = 1
    presets: Mapping[str, Preset] = field(default_factory=dict)


class Batch(NamedTuple):
    """Records: what the model sees, what it should say, where they come from."""

    x: Inputs
    y: Num[Tensor, "n *answer"]
    index: Int[Tensor, " n"]  # pyright: ignore[reportIncompatibleMethodOverride] of tuple


def each(x: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    """Apply `change` to the tensor, or to every tensor of the dict."""
    if isinstance(x, dict):
        return {name: change(part) for name, part in x.items()}
    return change(x)


def seen(stored: Tensor) -> Tensor:
    """Return what a model sees of what is stored: bytes are pixels in [0, 1]."""
    return stored.float().div_(255) if stored.dtype == torch.uint8 else stored


def fingerprints(x: Inputs) -> list[str]:
    """Return a digest of each record's content, whatever batch it came in."""
    parts = [x[k] for k in sorted(x)] if isinstance(x, dict) else [x]
    rows = [part.detach().cpu().contiguous().flatten(1).numpy() for part in parts]
    records = zip(*rows, strict=True)
    return [
        hashlib.sha256(b"|".join(r.tobytes() for r in record)).hexdigest() for record in records
    ]


def steps_of(records: int, size: int) -> int:
    """Return how many batches of `size` one pass over so many records has."""
    full, left = divmod(records, size)
    return full + (left > (1 if full else 0))


class Data(ABC):
    """Records that can be counted, selected, joined, batched and hashed.

    Attributes:
        index: Each record's position in the data set it was first selected from.
    """

    index: Int[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.index)

    @property
    @abstractmethod
    def y(self) -> Num[Tensor, "n *answer"]:
        """Every record's answer, on the CPU or wherever the records are."""

    @abstractmethod
    def read(self, rows: Int[Tensor, " k"]) -> Batch:
        """Read the records at `rows` as they are stored."""

    @abstractmethod
    def select(self, rows: Int[Tensor, " k"]) -> "Data":
        """Return the data set of the records at `rows`."""

    @abstractmethod
    def join(self, other: "Data") -> "Data":
        """Return both, one after the other, as a data set with positions of its own."""

    @abstractmethod
    def to(self, device: str) -> "Data":
        """Return the same records, handed out on `device`."""

    def take(self, rows: Int[Tensor, " k"]) -> Batch:
        """Read the records at `rows` as a model sees them."""
        batch = self.read(rows)
        return batch._replace(x=each(batch.x, seen))

    def batches(self, size: int, rng: torch.Generator | None = None) -> Iterator[Batch]:
        """Yield one pass, shuffled by `rng` or, without it, in order.

        A last record left alone joins the batch before it: BatchNorm has no statistics
        of a single record, and its gradient would count as much as a batch's.
        """
        n = len(self)
        order = torch.arange(n) if rng is None else torch.randperm(n, generator=rng)
        for step in range(count := self.steps(size)):
            yield self.take(order[step * size : n if step == count - 1 else (step + 1) * size])

    def steps(self, size: int) -> int:
        """Return how many batches of `size` one pass has."""
        return steps_of(len(self), size)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of one record's `x`; empty where `x` is a dict of tensors."""
        x = self.read(torch.arange(min(1, len(self)))).x
        return () if isinstance(x, dict) else tuple(x.shape[1:])

    @cached_property
    def digest(self) -> str:
        """Hash of the content, the same for every kind of data set and batch size."""
        whole = hashlib.sha256()
        for rows in torch.arange(len(self)).split(256):
            x, y, _ = self.read(rows)
            for record in zip(fingerprints(x), y.cpu().numpy(), strict=True):
                whole.update(record[0].encode() + record[1].tobytes())
        return whole.hexdigest()


Schedule = Literal["constant", "cosine", "linear", "onecycle", "triangle", "exponential"]


@dataclass(frozen=True, kw_only=True)
class Descent(Settings):
    """Hyper-parameters of a run of stochastic gradient descent.

    Attributes:
        optimizer: `sgd` with momentum, or `adamw` (decay decoupled from the gradient).
        lr: Peak learning rate.
        epochs: Passes over the data; what one is, is the method's business.
        batch_size: Records per step.
        momentum: Of SGD; AdamW's first beta.
        nesterov: Look ahead along the momentum; SGD only.
        weight_decay: L2 penalty (SGD) or decoupled decay (AdamW).
        schedule: Of the learning rate over all steps, down to 0 but for `constant`;
            `onecycle` first climbs over the first 30 % of the steps; `triangle` climbs
            over the first half, and falls to the height it started from; `exponential`
            falls by a tenth with every epoch.
        stride: How often the rate changes: with every step, or with every epoch.
        warmup: Fraction of the steps, in [0, 1), over which the rate climbs from 0.
        precision: Of the forward pass: `auto` is bf16 where the hardware has it and the
            network convolves, which is where it pays, and fp32 elsewhere.
    """

    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 1e-2
    epochs: int = 5
    batch_size: int = 128
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    schedule: Schedule = "constant"
    stride: Literal["step", "epoch"] = "step"
    warmup: float = 0.0
    precision: Literal["auto", "bf16", "fp32"] = "auto"

    def __post_init__(self) -> None:
        if not (self.lr >= 0 and self.epochs >= 0 and self.batch_size >= 1):
            raise ValueError(
                "expected lr >= 0, epochs >= 0 and batch_size >= 1, "
                f"got lr={self.lr}, epochs={self.epochs}, batch_size={self.batch_size}"
            )
        if not (0 <= self.momentum < 1 and self.weight_decay >= 0 and 0 <= self.warmup < 1):
            raise ValueError(
                "expected momentum and warmup in [0, 1) and weight_decay >= 0, got "
                f"{self.momentum}, {self.warmup}, {self.weight_decay}"
            )

    def rate(self, progress: float) -> float:
        """Return the learning rate after a fraction of all steps, in [0, 1]."""
        if self.schedule == "triangle":
            return self.lr * self._triangle(progress)
        if self.schedule == "exponential":
            return self.lr * 0.9 ** (progress * self.epochs)
        warmup = 0.3 if self.schedule == "onecycle" else self.warmup
        if progress < warmup:
            return self.lr * progress / warmup
        left = (1 - progress) / (1 - warmup)
        shape = {
            "constant": 1.0,
            "cosine": (1 - math.cos(math.pi * left)) / 2,
            "linear": left,
            "onecycle": (1 - math.cos(math.pi * left)) / 2,
        }
        return self.lr * shape[self.schedule]

    def _triangle(self, progress: float) -> float:
        """Return the height of a triangle of as many steps as there are epochs.

        Five epochs are 1/3, 2/3, 1, 2/3 and 1/3 high.
        """
        up = (self.epochs + 1) // 2
        place = 1 + progress * self.epochs
        return place / up if place <= up else (self.epochs + 1 - place) / (self.epochs + 1 - up)


@dataclass(frozen=True, kw_only=True)
class Augment(Settings):
    """Random changes of images during training, one draw per image.

    Attributes:
        crop: Pixels an image may shift each way; what moves in is black.
        flip: Whether half of the images are mirrored left to right.
    """

    crop: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        if self.crop < 0:
            raise ValueError(f"expected crop >= 0 pixels, got {self.crop}")

    def __call__(self, x: Inputs, rng: torch.Generator) -> Inputs:
        """Return the batch, shifted and mirrored."""
        if not self.crop and not self.flip:
            return x
        if isinstance(x, dict) or x.dim() != 4:
            raise Refused(
                "crop and flip are for images of shape (n, channels, height, width); "
                "leave `augment` out for other records"
            )
        n, channels, height, width = x.shape
        rows = torch.arange(height).expand(n, height)
        columns = torch.arange(width).expand(n, width)
        if self.flip:
            mirrored = torch.rand(n, generator=rng) < 0.5
            columns = torch.where(mirrored[:, None], columns.flip(1), columns)
        if self.crop:
            shift = torch.randint(0, 2 * self.crop + 1, (2, n, 1), generator=rng)
            x = F.pad(x.contiguous(memory_format=torch.channels_last), [self.crop] * 4)
            rows, columns = rows + shift[0], columns + shift[1]
        # Whole pixels are gathered, in channels-last order, which is how convolutions want them.
        pixels = x.permute(0, 2, 3, 1).reshape(-1, channels)
        first = torch.arange(0, len(pixels), x.shape[2] * x.shape[3])[:, None, None]
        place = first + x.shape[3] * rows[:, :, None] + columns[:, None]
        moved = pixels.index_select(0, place.flatten().to(x.device))
        return moved.view(n, height, width, channels).permute(0, 3, 1, 2)


class Task(Settings, ABC):
    """What the model is asked, and how wrong an answer is."""

    card: ClassVar[Card]

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Width of the model's last layer; 0 where the task does not fix it."""

    def pose(self, batch: Batch, rng: torch.Generator) -> Batch:
        """Turn records into questions and right answers: the random part of a loss."""
        del rng
        return batch

    @abstractmethod
    def losses(self, outputs: Tensor, y: Tensor) -> Float[Tensor, " n"]:
        """Return each record's loss, differentiable in `outputs`.

        It is what audits ask for: of a classifier the negative log-likelihood of its
        posteriors, whatever it was trained by.
        """

    def training_losses(self, outputs: Tensor, y: Tensor) -> Float[Tensor, " n"]:
        """Return each record's loss as training has it: the same, but for a hinge."""
        return self.losses(outputs, y)

    @abstractmethod
    def divergence(
        self, teacher: Tensor, student: Tensor, temperature: float
    ) -> Float[Tensor, " n"]:
        """Return how far each record's student output is from its teacher's."""

    @abstractmethod
    def relabel(self, y: Tensor, rng: torch.Generator) -> Tensor:
        """Return wrong answers of the right form."""

    def draw(self, outputs: Tensor, y: Tensor, chance: Tensor) -> Tensor:
        """Return answers drawn from the distribution that the outputs stand for.

        Args:
            outputs: Of the model.
            y: Right answers, for their form alone.
            chance: Uniform in [0, 1), one number for each of `y`.

        Raises:
            Refused: Where outputs stand for no distribution.
        """
        del outputs, y, chance
        raise Refused(
            f"the outputs of {self.card.name} stand for no distribution to draw answers from; "
            "use the empirical Fisher"
        )

    def every(self, outputs: Tensor, y: Tensor) -> Iterator[tuple[Float[Tensor, " n"], Tensor]]:
        """Yield all answers there are, each with its probability for each record.

        Raises:
            Refused: Where they are too many to go through.
        """
        del outputs, y
        raise Refused(
            f"{self.card.name} has too many answers to go through them all; draw them "
            "instead, by the Monte-Carlo Fisher"
        )

    def weigh(self, y: Tensor) -> Float[Tensor, " n"] | None:
        """Return each record's weight in a training loss; None where all are equal."""
        del y

    def loss(self, model: Model, batch: Batch) -> Float[Tensor, ""]:
        """Return the batch's mean training loss, in single precision."""
        losses = self.training_losses(model(batch.x).float(), batch.y)
        weights = self.weigh(batch.y)
        return losses.mean() if weights is None else (weights * losses).sum() / weights.sum()


class Architecture(Settings, ABC):
    """A network's shape; the weights come later.

    Attributes:
        denoises: Whether its task is `denoising`, whatever the records' answers are.
    """

    card: ClassVar[Card]
    denoises: ClassVar[bool] = False

    @abstractmethod
    def build(self, inputs: tuple[int, ...], outputs: int) -> nn.Module:
        """Return an untrained network, drawn from the global generator.

        Args:
            inputs: Shape of one record's `x`.
            outputs: Width of the last layer.
        """

    def adapt(self, task: Task) -> Task:
        """Return the task as this network is trained for it: with its own loss, if it has one."""
        return task


@dataclass(frozen=True, eq=False, kw_only=True)
class Start:
    """Weights that training starts from instead of chance: pretraining's.

    Attributes:
        digest: Hash of what made them.
        about: What made them, in plain data, for records and reports.
        tensors: By name; None while they have not been made.
    """

    digest: str
    about: Mapping[str, Json] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] | None = field(default=None, repr=False)

    def load(self, network: nn.Module) -> None:
        """Copy what fits, by name and shape; a head for other classes stays as drawn.

        Raises:
            RuntimeError: While the weights have not been made.
            Refused: Where less than half of the network's weights would be loaded.
        """
        if self.tensors is None:
            raise RuntimeError("pretraining has not run yet; train through the engine's stages")
        state = network.state_dict()
        fits = {k: v for k, v in self.tensors.items() if k in state and state[k].shape == v.shape}
        loaded, whole = (sum(v.numel() for v in part.values()) for part in (fits, state))
        if 2 * loaded < whole:
            raise Refused(
                f"only {loaded} of the network's {whole} numbers are in the weights to start "
                "from; they are probably of another architecture"
            )
        network.load_state_dict(state | fits)


@dataclass(frozen=True, kw_only=True)
class Recipe(Settings):
    """How the original was trained: all that is needed to train another like it.

    Attributes:
        model: The network's architecture.
        inputs: Shape of one record.
        task: The objective.
        descent: The optimiser's settings.
        augment: Changes of the records during training.
        start: What training starts from; None starts from chance.
    """

    model: Architecture
    inputs: tuple[int, ...]
    task: Task
    descent: Descent
    augment: Augment = Augment()
    start: Start | None = None

    def fresh(self) -> nn.Module:
        """Return a network that has not seen the records: pretrained, or drawn at random.

        What is random comes from the global generator.
        """
        network = self.drawn()
        if self.start is not None:
            self.start.load(network)
        return network

    def drawn(self) -> nn.Module:
        """Return a network drawn from the global generator, whatever training starts from."""
        return self.model.build(self.inputs, self.task.outputs)

    def shuffled(self, data: Data, size: int, rng: torch.Generator) -> Iterator[Batch]:
        """Yield one pass as in training: shuffled, augmented, posed."""
        for batch in data.batches(size, rng):
            yield self.task.pose(batch._replace(x=self.augment(batch.x, rng)), rng)

    def ordered(self, data: Data, size: int, rng: torch.Generator) -> Iterator[Batch]:
        """Yield every record once, in order, unchanged but posed."""
        for batch in data.batches(size):
            yield self.task.pose(batch, rng)


@dataclass(frozen=True, eq=False, kw_only=True)
class Request:
    """What a deletion request shows an unlearning method: never the test set.

    Attributes:
        retain: Training records to keep.
        forget: Training records to remove.
        val: Records held out of training, for early stopping.
        nonmembers: Records never trained on.
        recipe: How the original was trained.
        trace: What training left behind for the methods that train their own way.
        watch: Called after each round with a copy of the model; changes no result.
    """

    retain: Data
    forget: Data
    val: Data
    nonmembers: Data
    recipe: Recipe
    trace: Trace | None = None
    watch: Watch | None = field(default=None, compare=False)

    @property
    def task(self) -> Task:
        return self.recipe.task


class Sets(NamedTuple):
    """A data set's parts, before anything is to be forgotten.

    Attributes:
        train: What the original is trained on.
        test: Held out; validation and non-members are cut from it by the split.
        classes: Names of the classes, in order; empty where there are none.
        ids: A name for each training record; empty where its position is its name.
        groups: Further columns of the training records, to choose a forget set by.
        planted: Held-out records of the kind of some of the training records that no held-out
            record of the data set is of: altered as those were, or from elsewhere as those are.
            None where there are none.
        shown: How many of `planted`, the first ones, methods may take for records never trained
            on; audits compare with the others.
        unseen: Records of classes that no model is trained on, with numbers of their own, from 0;
            None where none were withheld.
    """

    train: Data
    test: Data
    classes: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    groups: Mapping[str, tuple[str, ...]] = {}
    planted: Data | None = None
    shown: int = 0
    unseen: Data | None = None


class Source(Settings, ABC):
    """A data set that can be loaded."""

    card: ClassVar[Card]

    @abstractmethod
    def load(self) -> Sets:
        """Return its training and test records."""
