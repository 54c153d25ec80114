"""What a run is made of: stages, each a pure function of settings, a seed and other stages."""

from collections.abc import Callable, Mapping, Sequence
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
from expunge.lab import Lab, Needs, Repeat
from expunge.method import Method, Sizes
from expunge.methods.retrain import Retrain
from expunge.subject import WhiteBox
from expunge.types import Data, Json, Recipe, Start, Trace, Watch

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

    def kept(self, about: Json, make: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        """Return what `make` gives, or gave to whoever asked the same before."""
        name = key({"answer": about})
        found = self.store.get(ANSWER, name)
        if found is None:
            found = Artifact(dict(make()), {})
            self.store.put(ANSWER, name, found)
        return found.tensors

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
            return _diverged(f"{what}: {error}")
        return _pack(model, bill.cost, trace)

    return Stage(
        kind=MODEL,
        what=what,
        about=about,
        needs=_beginnings(recipe),
        work=Cost(forward=samples, backward=samples),
        make=make,
    )


def pretraining(recipe: Recipe, data: Data, seed: int, about: Mapping[str, Json]) -> Pretrained:
    """Return the weights that a stage trains on other records, for training to start from."""
    stage = training("pretraining", recipe, data, derive(seed, "pretrain"))
    return Pretrained(digest=stage.key, about=about, stage=stage)


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
        needs=(before,) if "original" in needs else _beginnings(problem.recipe),
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
    network = _blank(Recipe.fresh, problem.recipe)
    try:
        request = replace(problem.request, recipe=bench.ready(problem.recipe), watch=watch)
        if "original" in method.needs:
            artifact = bench.result(original(problem, method, seed))
            blank = _blank(method.fresh, problem.recipe)
            network = _restore(artifact, blank, problem.sets.train)
            request = replace(request, trace=_part(artifact, "trace/"))
        outcome = method(
            network.to(problem.sets.train.y.device),
            request,
            seed=derive(seed, *own),
            meter=meter,
        )
    except Diverged as error:
        return _diverged(str(error))
    return _pack(outcome.model, outcome.cost, {}, outcome.notes)


def controls(problem: Problem, count: int) -> tuple[Stage, ...]:
    """Return the stages of the negative controls: what the method `retrain` gives."""
    return tuple(unlearned(problem, Retrain(), number) for number in range(count))


def further(
    problem: Problem, method: Method, seed: int, audits: Sequence[Audit]
) -> tuple[Stage, ...]:
    """Return the stages of models that audits need besides the one in question and controls."""
    again = max((audit.needs.unlearned for audit in audits), default=0)
    alone = max((audit.needs.retrained for audit in audits), default=0)
    orders = Lab(request=problem.request, seed=seed).orders(Needs(retrained=alone))
    return (
        *(unlearned(problem, method, seed, number) for number in range(1, again + 1)),
        *(training(f"retrained model {i}", *order) for i, order in enumerate(orders)),
    )


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
    more = further(problem, method, seed, audits)
    sizes = Sizes.of(problem.request)
    looks = len(others) + len(more) + 2
    asked = sizes.retain + sizes.forget + sizes.val + 2 * len(problem.test)

    def again(bench: Bench, number: int) -> nn.Module:
        run = unlearned(problem, method, seed, number)
        return restored(bench.result(run), problem, method.fresh)

    def make(bench: Bench, meter: Meter) -> Artifact:
        del meter
        try:
            request = replace(problem.request, recipe=bench.ready(problem.recipe))
            case = Case(
                original=bench.subject(before, problem, method.fresh),
                unlearned=bench.subject(subject, problem, method.fresh),
                retrained=tuple(bench.subject(c, problem, Recipe.fresh) for c in others),
                request=request,
                test=problem.test,
                lab=Lab(
                    request=request,
                    seed=seed,
                    train=bench.trained,
                    keep=bench.kept,
                    unlearn=Repeat(subject.key, lambda number: again(bench, number)),
                ),
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
        needs=(subject, before, *others, *more),
        # Answers of the controls are shared by all methods; this is the dearest case.
        work=Cost(forward=asked * looks) + _asking(problem, audits, len(others) + 2),
        make=make,
    )


def _asking(problem: Problem, audits: Sequence[Audit], models: int) -> Cost:
    """Return what the audits themselves put through networks: an attack may train some."""
    each = [audit.work(problem.request, problem.test) for audit in audits]
    return Cost(
        forward=models * sum(cost.forward for cost in each),
        backward=models * sum(cost.backward for cost in each),
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


def _beginnings(recipe: Recipe) -> tuple[Stage, ...]:
    """Return the stages that a training run by this recipe waits for."""
    return (recipe.start.stage,) if isinstance(recipe.start, Pretrained) else ()


def _weights(artifact: Artifact) -> Mapping[str, Tensor]:
    if "diverged" in artifact.facts:
        raise Diverged(artifact.facts["diverged"])
    return _part(artifact, "model/")


def _diverged(why: str) -> Artifact:
    """Return what is kept of a model that could not be made."""
    return Artifact({}, {"diverged": why})


def restored(
    artifact: Artifact, problem: Problem, fresh: Callable[[Recipe], nn.Module]
) -> nn.Module:
    """Return the model that a stage made of a problem.

    Raises:
        Diverged: Where there is none.
    """
    return _restore(artifact, _blank(fresh, problem.recipe), problem.sets.train)


def _restore(artifact: Artifact, network: nn.Module, data: Data) -> nn.Module:
    """Return the model, where the records are; raise `Diverged` where there is none."""
    network.load_state_dict(_weights(artifact))
    lay_out(network)
    return network.to(data.y.device).eval()


def _part(artifact: Artifact, prefix: str) -> dict[str, Tensor]:
    named = artifact.tensors.items()
    return {k.removeprefix(prefix): v for k, v in named if k.startswith(prefix)}
