"""What a run is made of: stages, each a pure function of settings, a seed and other stages."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from expunge.bench.problem import Problem
from expunge.bench.record import clock, counts
from expunge.bench.store import Artifact, Store
from expunge.config import key, plain
from expunge.core.cost import Cost, Meter, metered
from expunge.core.descent import Diverged, train
from expunge.core.rng import derive, fenced
from expunge.core.state import finite, lay_out
from expunge.lab import Lab, Order
from expunge.method import Method, Outcome, Sizes
from expunge.methods.retrain import Retrain
from expunge.subject import WhiteBox
from expunge.types import Data, Json, Recipe, Refused, Request, Start, Trace, Watch

MODEL, RECORD, ANSWER = "models", "records", "answers"


@dataclass(frozen=True, eq=False, kw_only=True)
class Stage:
    """One computation whose result is kept.

    Attributes:
        kind: Which shelf of the store the result is on.
        what: What it is, in words.
        about: Plain data that, hashed, is its key: settings, seed, keys of its inputs.
        needs: Stages that come before.
        work: The samples it will take through a network.
        make: Computes it.
        leaves: Stages whose results it keeps too, since it comes by them.
    """

    kind: str
    what: str
    about: Json
    needs: tuple["Stage", ...]
    work: Cost
    make: Callable[["Bench", Meter], Artifact]
    leaves: tuple["Stage", ...] = ()

    @cached_property
    def key(self) -> str:
        return key(self.about)


@dataclass(frozen=True, eq=False, kw_only=True)
class Pretrained(Start):
    """Weights that another stage trains, on other records.

    Attributes:
        stage: Which.
    """

    stage: Stage


class Bench:
    """Where stages are computed: a store, and the models that are in memory."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._subjects: dict[str, WhiteBox] = {}
        self._starts: dict[str, Mapping[str, Tensor]] = {}

    def result(self, stage: Stage) -> Artifact:
        """Fetch the stage's result, or compute and keep it."""
        return self.store.get(stage.kind, stage.key) or self.make(stage, Meter())

    def make(self, stage: Stage, meter: Meter) -> Artifact:
        """Compute the stage's result and keep it."""
        made = stage.make(self, meter)
        self.store.put(stage.kind, stage.key, made)
        return made

    def subject(
        self, stage: Stage, problem: Problem, fresh: Callable[[Recipe], nn.Module]
    ) -> WhiteBox:
        """Return the model that a stage trained or unlearned, ready to be audited.

        Raises:
            Diverged: If the stage ended so.
        """
        if stage.key not in self._subjects:
            artifact = self.result(stage)
            self._subjects[stage.key] = WhiteBox(
                restored(artifact, problem, fresh),
                cost=Cost(**artifact.facts["cost"], **artifact.facts["measured"]),
                notes=artifact.facts.get("notes", {}),
            )
        return self._subjects[stage.key]

    def ready(self, recipe: Recipe) -> Recipe:
        """Return the recipe with the weights that training starts from at hand.

        Raises:
            Diverged: If pretraining ended so.
        """
        start = recipe.start
        if not isinstance(start, Pretrained):
            return recipe
        if start.digest not in self._starts:
            self._starts[start.digest] = _weights(self.result(start.stage))
        tensors = self._starts[start.digest]
        return replace(recipe, start=Start(digest=start.digest, about=start.about, tensors=tensors))

    def clear(self) -> None:
        """Drop what is in memory; the store keeps it."""
        self._subjects.clear()

    def lab(self, problem: Problem, seed: int = 0, **known: Any) -> Lab:
        """Return a lab for the problem that keeps its answers in the store."""
        lab = problem.lab(seed, shelf=self, **known)
        return replace(lab, request=replace(lab.request, recipe=self.ready(problem.recipe)))

    def find(self, about: Json) -> Mapping[str, Tensor] | None:
        """Return what is kept of a lab's answer.

        Raises:
            Diverged: Where the model that was to give it ended so.
        Refused: Where a method would not make that model.
        """
        found = self.store.get(ANSWER, answer_key(about))
        return None if found is None else _sound(found).tensors

    def put(self, about: Json, tensors: Mapping[str, Tensor]) -> None:
        """Keep a lab's answer."""
        self.store.put(ANSWER, answer_key(about), Artifact(dict(tensors), {}))

    def trained(self, orders: Sequence[Order]) -> Iterator[nn.Module]:
        """Train through the store: what a lab calls for further models."""
        for recipe, data, seed in orders:
            stage = training("further model", recipe, data, seed)
            yield _restore(self.result(stage), _blank(Recipe.fresh, recipe), data)


def answer_key(about: Json) -> str:
    """Return where a lab's answer is kept."""
    return key({"answer": about})


def training(what: str, recipe: Recipe, data: Data, seed: int, by: Method | None = None) -> Stage:
    """Return the stage that trains a model, by the recipe or by a method's own way."""
    about = {"stage": "train", "recipe": plain(recipe), "data": data.digest, "seed": seed}
    if by is not None:
        about["by"] = plain(by)
    samples = len(data) * recipe.descent.epochs

    def make(bench: Bench, meter: Meter) -> Artifact:
        try:
            ready = bench.ready(recipe)
            with metered(meter) as bill:
                if by is None:
                    model, trace = train(ready, data, seed), {}
                else:
                    model, trace = by.train(ready, data, seed)
            if not finite(model):
                raise Diverged("the weights are not finite; lower the learning rate of `training`")
        except Diverged as error:
            return diverged(f"{what}: {error}")
        except Refused as error:
            return refused(f"{what}: {error}")
        return _pack(model, bill.cost, trace)

    return Stage(
        kind=MODEL,
        what=what,
        about=about,
        needs=beginnings(recipe),
        work=Cost(forward=samples, backward=samples),
        make=make,
    )


def pretraining(recipe: Recipe, data: Data, seed: int, about: Mapping[str, Json]) -> Pretrained:
    """Return the weights that a stage trains on other records, for training to start from."""
    stage = training("pretraining", recipe, data, derive(seed, "pretrain"))
    return Pretrained(digest=stage.key, about=about, stage=stage)


def original(problem: Problem, method: Method, seed: int) -> Stage:
    """Return the stage that trains the model `method` starts from."""
    return training(
        f"original, seed {seed}",
        problem.recipe,
        problem.sets.train,
        derive(seed, "train"),
        by=method if method.trains else None,
    )


def unlearned(problem: Problem, method: Method, seed: int, number: int = 0) -> Stage:
    """Return the stage that applies `method`; it depends on what the card names alone.

    Runs of other numbers start from the same original and differ in the method's own seed.
    """
    before = original(problem, method, seed)
    needs = method.needs
    about = {
        "stage": "unlearn",
        "method": plain(method),
        "recipe": plain(problem.recipe),
        "data": {n: problem.digests[n] for n in needs if n in problem.digests},
        "original": before.key if "original" in needs else None,
        "seed": seed,
    } | ({"number": number} if number else {})

    def make(bench: Bench, meter: Meter) -> Artifact:
        return unlearn(bench, problem, method, seed, meter, number=number)

    return Stage(
        kind=MODEL,
        what=f"{method.card.name}, seed {seed}" + f", run {number}" * (number > 0),
        about=about,
        needs=(before,) if "original" in needs else beginnings(problem.recipe),
        work=method.work(Sizes.of(problem.request)),
        make=make,
    )


def unlearn(
    bench: Bench,
    problem: Problem,
    method: Method,
    seed: int,
    meter: Meter,
    watch: Watch | None = None,
    *,
    number: int = 0,
) -> Artifact:
    """Apply the method, with or without a watcher, and return what is kept of it."""
    own = ("unlearn", method.card.name) + ((number,) if number else ())
    before = original(problem, method, seed)
    request = replace(problem.request, watch=watch)
    try:
        outcome = applied(bench, before, problem, request, method, derive(seed, *own), meter)
    except Diverged as error:
        return diverged(str(error))
    except Refused as error:
        return refused(str(error))
    return _pack(outcome.model, outcome.cost, {}, outcome.notes)


def applied(
    bench: Bench,
    before: Stage,
    problem: Problem,
    request: Request,
    method: Method,
    seed: int,
    meter: Meter,
) -> Outcome:
    """Apply the method to the model of a stage, if it starts from one.

    Raises:
        Diverged: If the method, or what it starts from, ended so.
        Refused: If the method, or the training of what it starts from, refused the records.
    """
    network = _blank(Recipe.fresh, problem.recipe)
    request = replace(request, recipe=bench.ready(problem.recipe))
    if "original" in method.needs:
        artifact = bench.result(before)
        blank = _blank(method.fresh, problem.recipe)
        network = _restore(artifact, blank, problem.sets.train)
        request = replace(request, trace=_part(artifact, "trace/"))
    network = network.to(problem.sets.train.y.device)
    return method(network, request, seed=seed, meter=meter)


def controls(problem: Problem, count: int) -> tuple[Stage, ...]:
    """Return the stages of the negative controls: what the method `retrain` gives."""
    return tuple(unlearned(problem, Retrain(), number) for number in range(count))


def _pack(
    model: nn.Module, cost: Cost, trace: Trace, notes: Mapping[str, Json] | None = None
) -> Artifact:
    tensors = {f"model/{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"trace/{k}": v for k, v in trace.items()}
    facts = {"cost": counts(cost), "measured": clock(cost), "notes": dict(notes or {})}
    return Artifact(tensors, facts)


def _blank(fresh: Callable[[Recipe], nn.Module], recipe: Recipe) -> nn.Module:
    """Return a network to load weights into; the global generator stays as it was."""
    with fenced(0):
        return fresh(replace(recipe, start=None))


def beginnings(recipe: Recipe) -> tuple[Stage, ...]:
    """Return the stages that a training run by this recipe waits for."""
    return (recipe.start.stage,) if isinstance(recipe.start, Pretrained) else ()


def _weights(artifact: Artifact) -> Mapping[str, Tensor]:
    return _part(_sound(artifact), "model/")


def _sound(artifact: Artifact) -> Artifact:
    """Return it, or raise `Diverged` or `Refused` where it only says why there is none."""
    if "diverged" in artifact.facts:
        raise Diverged(artifact.facts["diverged"])
    if "refused" in artifact.facts:
        raise Refused(artifact.facts["refused"])
    return artifact


def diverged(why: str) -> Artifact:
    """Return what is kept of a model whose making ended in numbers that are not finite."""
    return Artifact({}, {"diverged": why})


def refused(why: str) -> Artifact:
    """Return what is kept of a model that a method will not make of these records."""
    return Artifact({}, {"refused": why})


def restored(
    artifact: Artifact, problem: Problem, fresh: Callable[[Recipe], nn.Module]
) -> nn.Module:
    """Return the model that a stage made of a problem.

    Raises:
        Diverged: Where there is none, since its making ended so.
        Refused: Where there is none, since a method would not make it.
    """
    return _restore(artifact, _blank(fresh, problem.recipe), problem.sets.train)


def _restore(artifact: Artifact, network: nn.Module, data: Data) -> nn.Module:
    """Return the model, where the records are; raise where there is none."""
    network.load_state_dict(_weights(artifact))
    lay_out(network)
    return network.to(data.y.device).eval()


def _part(artifact: Artifact, prefix: str) -> dict[str, Tensor]:
    named = artifact.tensors.items()
    return {k.removeprefix(prefix): v for k, v in named if k.startswith(prefix)}
