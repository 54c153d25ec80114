"""What a run is made of: stages, each a pure function of settings, a seed and other stages."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor, nn

from expunge.audit import Audit, Case
from expunge.bench.problem import Problem
from expunge.bench.record import SCHEMA, clock, counts, failure, outcome
from expunge.bench.store import Artifact, Store
from expunge.config import key, plain
from expunge.core.cost import Cost, Meter, metered
from expunge.core.descent import Diverged, train
from expunge.core.rng import derive, fenced
from expunge.core.state import finite, lay_out
from expunge.lab import Lab
from expunge.method import Method, Sizes
from expunge.methods.retrain import Retrain
from expunge.subject import WhiteBox
from expunge.types import Data, Json, Recipe, Trace

MODEL, RECORD = "models", "records"


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
    """

    kind: str
    what: str
    about: Json
    needs: tuple["Stage", ...]
    work: Cost
    make: Callable[["Bench", Meter], Artifact]

    @cached_property
    def key(self) -> str:
        return key(self.about)


class Bench:
    """Where stages are computed: a store, and the models that are in memory."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._subjects: dict[str, WhiteBox] = {}

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
                _restore(artifact, _blank(fresh, problem.recipe), problem.sets.train),
                cost=Cost(**artifact.facts["cost"], **artifact.facts["measured"]),
            )
        return self._subjects[stage.key]

    def clear(self) -> None:
        """Drop what is in memory; the store keeps it."""
        self._subjects.clear()

    def trained(self, recipe: Recipe, data: Data, seed: int) -> nn.Module:
        """Train through the store: what a lab calls for shadow models."""
        stage = training("shadow model", recipe, data, seed)
        return _restore(self.result(stage), _blank(Recipe.fresh, recipe), data)


def training(what: str, recipe: Recipe, data: Data, seed: int, by: Method | None = None) -> Stage:
    """Return the stage that trains a model, by the recipe or by a method's own way."""
    about = {"stage": "train", "recipe": plain(recipe), "data": data.digest, "seed": seed}
    if by is not None:
        about["by"] = plain(by)
    samples = len(data) * recipe.descent.epochs

    def make(bench: Bench, meter: Meter) -> Artifact:
        del bench
        try:
            with metered(meter) as bill:
                if by is None:
                    model, trace = train(recipe, data, seed), {}
                else:
                    model, trace = by.train(recipe, data, seed)
            if not finite(model):
                raise Diverged("the weights are not finite; lower the learning rate of `training`")
        except Diverged as error:
            return _diverged(f"{what}: {error}")
        return _pack(model, bill.cost, trace)

    return Stage(
        kind=MODEL,
        what=what,
        about=about,
        needs=(),
        work=Cost(forward=samples, backward=samples),
        make=make,
    )


def original(problem: Problem, method: Method, seed: int) -> Stage:
    """Return the stage that trains the model `method` starts from."""
    own = type(method).train is not Method.train
    return training(
        f"original, seed {seed}",
        problem.recipe,
        problem.sets.train,
        derive(seed, "train"),
        by=method if own else None,
    )


def unlearned(problem: Problem, method: Method, seed: int) -> Stage:
    """Return the stage that applies `method`; it depends on what the card names alone."""
    before = original(problem, method, seed)
    needs = method.card.needs
    about = {
        "stage": "unlearn",
        "method": plain(method),
        "recipe": plain(problem.recipe),
        "data": {n: problem.digests[n] for n in needs if n in problem.digests},
        "original": before.key if "original" in needs else None,
        "seed": seed,
    }

    def make(bench: Bench, meter: Meter) -> Artifact:
        network, request = _blank(Recipe.fresh, problem.recipe), problem.request
        try:
            if "original" in needs:
                artifact = bench.result(before)
                blank = _blank(method.fresh, problem.recipe)
                network = _restore(artifact, blank, problem.sets.train)
                request = replace(request, trace=_part(artifact, "trace/"))
            outcome = method(
                network.to(problem.sets.train.y.device),
                request,
                seed=derive(seed, "unlearn", method.card.name),
                meter=meter,
            )
        except Diverged as error:
            return _diverged(str(error))
        return _pack(outcome.model, outcome.cost, {})

    return Stage(
        kind=MODEL,
        what=f"{method.card.name}, seed {seed}",
        about=about,
        needs=(before,) if "original" in needs else (),
        work=method.work(Sizes.of(problem.request)),
        make=make,
    )


def controls(problem: Problem, count: int) -> tuple[Stage, ...]:
    """Return the stages of the negative controls: what the method `retrain` gives."""
    return tuple(unlearned(problem, Retrain(), number) for number in range(count))


def audited(
    problem: Problem, method: Method, seed: int, audits: Sequence[Audit], retrained: int
) -> Stage:
    """Return the stage that asks every audit of one unlearned model.

    A control that is the very model in question is left out.
    """
    subject = unlearned(problem, method, seed)
    before = original(problem, method, seed)
    others = tuple(c for c in controls(problem, retrained) if c.key != subject.key)
    about = {
        "stage": "audit",
        "schema": SCHEMA,
        "problem": problem.key,
        "subject": subject.key,
        "original": before.key,
        "retrained": [c.key for c in others],
        "audits": [plain(audit) for audit in audits],
        "seed": seed,
    }
    sizes = Sizes.of(problem.request)
    looks = len(others) + 2
    asked = sizes.retain + sizes.forget + sizes.val + 2 * len(problem.test)

    def make(bench: Bench, meter: Meter) -> Artifact:
        del meter
        try:
            case = Case(
                original=bench.subject(before, problem, method.fresh),
                unlearned=bench.subject(subject, problem, method.fresh),
                retrained=tuple(bench.subject(c, problem, Recipe.fresh) for c in others),
                request=problem.request,
                test=problem.test,
                lab=Lab(request=problem.request, seed=seed, train=bench.trained),
            )
            _check_answers(case, method)
            findings = [audit(case, seed=derive(seed, "audit")) for audit in audits]
        except Diverged as error:
            return Artifact({}, failure("diverged", error))
        return Artifact({}, outcome(case, findings))

    return Stage(
        kind=RECORD,
        what=f"audits of {method.card.name}, seed {seed}",
        about=about,
        needs=(subject, before, *others),
        # Answers of the controls are shared by all methods; this is the dearest case.
        work=Cost(forward=asked * looks),
        make=make,
    )


def _check_answers(case: Case, method: Method) -> None:
    """Raise `Diverged` for a model with finite weights whose losses are not.

    The audits ask the same of it, and a classifier's answers are kept.
    """
    request, task = case.request, case.request.task
    for data in (request.retain, request.forget, request.val, case.test):
        losses = case.unlearned.score(data, task, task.losses, 0)
        if not losses.isfinite().all():
            raise Diverged(
                f"{method.card.name} returned a model whose loss is not finite on "
                f"{int((~losses.isfinite()).sum())} of {len(data)} records; lower its learning "
                "rate or its number of epochs"
            )


def _pack(model: nn.Module, cost: Cost, trace: Trace) -> Artifact:
    tensors = {f"model/{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"trace/{k}": v for k, v in trace.items()}
    return Artifact(tensors, {"cost": counts(cost), "measured": clock(cost)})


def _blank(fresh: Callable[[Recipe], nn.Module], recipe: Recipe) -> nn.Module:
    """Return a network to load weights into; the global generator stays as it was."""
    with fenced(0):
        return fresh(recipe)


def _diverged(why: str) -> Artifact:
    """Return what is kept of a model that could not be made."""
    return Artifact({}, {"diverged": why})


def _restore(artifact: Artifact, network: nn.Module, data: Data) -> nn.Module:
    """Return the model, where the records are; raise `Diverged` where there is none."""
    if "diverged" in artifact.facts:
        raise Diverged(artifact.facts["diverged"])
    network.load_state_dict(_part(artifact, "model/"))
    lay_out(network)
    return network.to(data.y.device).eval()


def _part(artifact: Artifact, prefix: str) -> dict[str, Tensor]:
    named = artifact.tensors.items()
    return {k.removeprefix(prefix): v for k, v in named if k.startswith(prefix)}
