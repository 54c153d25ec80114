"""What every unlearning method is, and what none is trusted to do for itself."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, NamedTuple, final

from jaxtyping import Int
from torch import Tensor, nn

from expunge.core import descent, notes, rng, state
from expunge.core.cost import Cost, Meter, metered
from expunge.core.descent import Diverged as Diverged
from expunge.types import Batch, Card, Data, Json, Recipe, Refused, Request, Settings, Task, Trace
from expunge.types import Preset as Preset

Need = Literal["original", "retain", "forget", "val", "nonmembers", "trace"]
LayerKind = Literal["convolution"]
Mechanism = Literal[
    "re-initialise weights",
    "permute weights",
    "prune weights",
    "add noise",
    "choose by gradients",
    "use curvature",
    "project weights",
    "distil",
    "relabel",
    "raise the loss",
    "train on retain",
    "train on forget",
    "train on validation",
]


class NotGranted(RuntimeError):
    """A method read records that its card does not name."""


class Search(NamedTuple):
    """Where a tuner looks for a number: between two ends, evenly or by orders of magnitude."""

    low: float
    high: float
    log: bool = True


@dataclass(frozen=True, kw_only=True)
class MethodCard(Card):
    """What the docs, the report and the tests need to know of a method.

    Attributes:
        needs: What it reads. A set it does not name raises when it is read, and is no
            part of its cache key.
        norms: What becomes of BatchNorm's running statistics, in words.
        null: Settings under which it must return the model unchanged, if there are any.
        toy: Settings fit for a problem of a few hundred samples.
        quick: Whether it belongs in a demonstration of one minute.
        tasks: Names of the tasks it makes sense for.
        layers: Kinds of layers that it cannot do without.
        mechanisms: What it does to a model; some settings may leave some of them out.
        search: Settings that a tuner searches, by dotted name; left out, the learning rate,
            if there is one.
        foreseen: Whether `work` tells exactly what will be counted, or the most it can be
            where that depends on the data: a search along a line, a run that stops early.
    """

    needs: tuple[Need, ...]
    norms: str
    null: Mapping[str, Json] | None
    toy: Mapping[str, Json] = field(default_factory=dict)
    quick: bool = True
    tasks: tuple[str, ...] = ("classification", "next_token", "denoising")
    layers: tuple[LayerKind, ...] = ()
    mechanisms: tuple[Mechanism, ...] = ()
    search: Mapping[str, Search] = field(default_factory=dict)
    foreseen: Literal["exactly", "at most"] = "exactly"


@dataclass(frozen=True)
class Outcome:
    """An unlearned model and what it cost.

    Attributes:
        notes: What the method noted of its run, as plain data.
    """

    model: nn.Module
    cost: Cost
    notes: Mapping[str, Json] = field(default_factory=dict)


class Sizes(NamedTuple):
    """How many records a request holds: enough to foresee what unlearning costs.

    Attributes:
        epochs: Of the original's training, not a number of records.
        outputs: Width of the model's last layer; 0 where the task does not fix it.
    """

    retain: int
    forget: int
    val: int
    nonmembers: int
    epochs: int
    outputs: int = 0

    @classmethod
    def of(cls, request: Request) -> "Sizes":
        return cls(
            retain=len(request.retain),
            forget=len(request.forget),
            val=len(request.val),
            nonmembers=len(request.nonmembers),
            epochs=request.recipe.descent.epochs,
            outputs=request.task.outputs,
        )


@dataclass(frozen=True, eq=False)
class Withheld(Data):
    """A set that a method has not asked for: its size is known, its records are not."""

    data: Data
    name: str
    method: str

    @property
    def index(self) -> Int[Tensor, " n"]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.data.index

    def _refuse(self) -> "NotGranted":
        return NotGranted(
            f"{self.method} reads request.{self.name}, which its card does not name; add "
            f"'{self.name}' to the card's `needs`"
        )

    @property
    def y(self) -> Tensor:
        raise self._refuse()

    def read(self, rows: Int[Tensor, " k"]) -> Batch:
        del rows
        raise self._refuse()

    def select(self, rows: Int[Tensor, " k"]) -> Data:
        del rows
        raise self._refuse()

    def join(self, other: Data) -> Data:
        del other
        raise self._refuse()

    def to(self, device: str) -> Data:
        return Withheld(self.data.to(device), self.name, self.method)


@dataclass(frozen=True, kw_only=True)
class Method(Settings, ABC):
    """An unlearning method: hyper-parameters as fields, the algorithm in `unlearn`."""

    card: ClassVar[MethodCard]

    @property
    def parts(self) -> tuple["Method", ...]:
        """The methods it is made of, if it is made of any."""
        return ()

    @property
    def trains(self) -> bool:
        """Whether it trains the original its own way, and unlearns from no other."""
        return type(self).train is not Method.train

    @property
    def needs(self) -> tuple[Need, ...]:
        """What it reads: what its card names, and what its parts read."""
        named = dict.fromkeys(self.card.needs)
        for part in self.parts:
            named |= dict.fromkeys(part.needs)
        return tuple(named)

    @abstractmethod
    def unlearn(self, model: nn.Module, request: Request, seed: int) -> nn.Module:
        """Return the unlearned model; `model` is this call's own copy."""

    @abstractmethod
    def work(self, sizes: Sizes) -> Cost:
        """Return the samples that will go forward and backward; a plan is priced by it."""

    def fresh(self, recipe: Recipe) -> nn.Module:
        """Return an untrained network of the shape this method works on and returns."""
        return recipe.fresh()

    def train(self, recipe: Recipe, data: Data, seed: int) -> tuple[nn.Module, Trace]:
        """Train the original that this method will be applied to."""
        return descent.train(recipe, data, seed), {}

    @final
    def __call__(
        self, model: nn.Module, request: Request, *, seed: int, meter: Meter | None = None
    ) -> Outcome:
        """Run `unlearn` on a copy, inside a random fence, and check what it gives.

        Args:
            model: The original; it is left untouched.
            request: What is to be forgotten.
            seed: Of everything random in the method.
            meter: Read by another thread to show progress.

        Raises:
            Diverged: If the result is not finite.
            Refused: If model, task or records do not fit the method.
            ValueError: If the model, or the result, is of another shape than `fresh` builds.
        """
        with rng.fenced(seed):
            shape = self.fresh(request.recipe).state_dict().keys()
        self._check_shape(model, shape, "was given")
        self.check(model, request.task)
        with metered(meter) as bill, notes.collected() as noted:
            out = self.apply(copy.deepcopy(model), request, seed)
        self._check_shape(out, shape, "returned")
        if not state.finite(out):
            raise Diverged(
                f"{self!r} returned weights that are not finite; lower its learning rate "
                "or its number of epochs"
            )
        return Outcome(out, bill.cost, noted)

    @final
    def apply(self, model: nn.Module, request: Request, seed: int) -> nn.Module:
        """Run `unlearn` on `model` itself, fenced, on the records it may read.

        This is how a method runs its parts; anyone else calls the method.
        """
        with rng.fenced(seed):
            out = self.unlearn(model, self.granted(request), seed)
        return out.eval().requires_grad_(True)

    @final
    def check(self, model: nn.Module, task: Task) -> None:
        """Refuse, before any work, a task or a network that it or a part of it is not for.

        Raises:
            Refused: In one sentence.
        """
        name, tasks = self.card.name, self.card.tasks
        if task.card.name not in tasks:
            raise Refused(f"{name} is not for {task.card.name}, but for {', '.join(tasks)}")
        if "convolution" in self.card.layers and not state.convolves(model):
            raise Refused(
                f"{name} is for networks with two-dimensional convolutions, but a "
                f"{type(model).__name__} was given that has none; take 'convnet' or 'resnet', or "
                "another method"
            )
        for part in self.parts:
            own = [k for k in ("train", "fresh") if getattr(type(part), k) is not vars(Method)[k]]
            if own:
                raise Refused(
                    f"{part.card.name} cannot be part of {name}: it works on networks that it "
                    "trains in its own way; use it alone"
                )
            part.check(model, task)

    def granted(self, request: Request) -> Request:
        """Return the request without the records that the method does not need."""
        names = ("retain", "forget", "val", "nonmembers")
        withheld = {
            name: Withheld(getattr(request, name), name, self.card.name)
            for name in names
            if name not in self.needs
        }
        return replace(request, **withheld)

    def _check_shape(self, model: nn.Module, shape: object, verb: str) -> None:
        keys = model.state_dict().keys()
        if keys != shape:
            raise ValueError(
                f"{self.card.name} {verb} a network other than its `fresh` builds from "
                f"the recipe, with {sorted(keys)[:3]}... A method that trains its own "
                "way needs an original from its own `train`."
            )
