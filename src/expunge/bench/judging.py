"""The stages that judge: further models that audits need, and the audits themselves."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import NoReturn

from torch import nn

from expunge.audit import Audit, Case, Finding
from expunge.bench.problem import Problem
from expunge.bench.record import SCHEMA, failure, outcome
from expunge.bench.stages import (
    ANSWER,
    RECORD,
    Bench,
    Stage,
    answer_key,
    applied,
    beginnings,
    controls,
    diverged,
    original,
    refused,
    restored,
    training,
    unlearned,
)
from expunge.bench.store import Artifact
from expunge.config import plain
from expunge.core.cost import Cost, Meter, metered
from expunge.core.descent import Diverged
from expunge.core.rng import derive
from expunge.lab import Lab, Repeat, packs
from expunge.method import Method, Sizes
from expunge.types import Recipe, Refused, Request
from expunge.verdict import RULE

log = logging.getLogger(__name__)


def _never(*_: object) -> NoReturn:
    """Stand in for what another stage has computed before.

    Raises:
        RuntimeError: Where it has not.
    """
    raise RuntimeError("expected the stages that an audit needs to have run before it")


def further(
    problem: Problem, method: Method, seed: int, audits: Sequence[Audit]
) -> tuple[Stage, ...]:
    """Return the stages of models that audits need besides the one in question and controls."""
    again, alone, count, after, kept = (
        max((getattr(audit.needs, kind) for audit in audits), default=0)
        for kind in ("unlearned", "retrained", "shadows", "unlearned_shadows", "shadow_networks")
    )
    lab = problem.lab(seed)
    orders = [lab.order("retrained", number) for number in range(alone)]
    halves = [lab.order("shadow", number) for number in range(kept)]
    return (
        *(unlearned(problem, method, seed, number) for number in range(1, again + 1)),
        *(training(f"retrained model {i}", *order) for i, order in enumerate(orders)),
        *(training(f"shadow model {i}", *order) for i, order in enumerate(halves)),
        *shadows(problem, count, kept=max(after, kept)),
        *(unlearned_shadow(problem, method, number) for number in range(after)),
    )


def shadows(problem: Problem, count: int, kept: int = 0) -> tuple[Stage, ...]:
    """Return the stages that train shadow models and ask them of every record of the pool.

    Small networks are trained a pack at a time; the first stage of a pack leaves the others.

    Args:
        problem: Whose pool and recipe.
        count: How many.
        kept: Of how many, from the first, the weights are wanted too.
    """
    found: list[Stage] = []
    for pack in packs(problem.recipe, range(kept, count)):
        alone = [shadow(problem, number, pack) for number in pack]
        found += [replace(s, leaves=tuple(alone[i + 1 :])) for i, s in enumerate(alone)]
    return (*(shadow(problem, number) for number in range(min(kept, count))), *found)


def shadow(problem: Problem, number: int, pack: Sequence[int] = ()) -> Stage:
    """Return the stage of one shadow model.

    Args:
        problem: Whose pool and recipe.
        number: Of the shadow.
        pack: Numbers of those that are trained with it, unless they are there; the margins
            alone are kept then. Without it the weights are kept too.
    """
    lab = problem.shadowing
    order = lab.order("shadow", number)
    trained = training(f"shadow model {number}", *order)

    def make(bench: Bench, meter: Meter) -> Artifact:
        own = bench.lab(problem)
        try:
            if not pack or bench.store.has(trained.kind, trained.key):
                (model,) = bench.trained([order])
                return Artifact({"margin": own.margins(model)}, {})
            with metered(meter):
                own.train_shadows([n for n in pack if not _there(bench, own, n)])
        except Diverged as error:
            return diverged(f"shadow model {number}: {error}")
        except Refused as error:
            return refused(f"shadow model {number}: {error}")
        return Artifact(dict(own.keep(lab.about_shadow(number), dict)), {})

    return Stage(
        kind=ANSWER,
        what=f"shadow model {number}",
        about={"answer": lab.about_shadow(number)},
        needs=beginnings(problem.recipe) if pack else (trained,),
        work=Cost(forward=len(lab.pool)) + (trained.work if pack else Cost()),
        make=make,
    )


def _there(bench: Bench, lab: Lab, number: int) -> bool:
    return bench.store.has(ANSWER, answer_key(lab.about_shadow(number)))


def unlearned_shadow(problem: Problem, method: Method, number: int) -> Stage:
    """Return the stage in which a shadow model unlearns its part of what is asked about."""
    lab = problem.shadowing
    order = lab.order("shadow", number)
    before = training(f"shadow model {number}", *order, by=method if method.trains else None)
    request, _ = lab.shadow_request(number)

    def make(bench: Bench, meter: Meter) -> Artifact:
        def forgotten(request: Request, *_: object) -> nn.Module:
            seed = derive(order.seed, "unlearn", method.card.name)
            return applied(bench, before, problem, request, method, seed, meter).model

        again = bench.lab(problem, unlearn=Repeat(None, _never, forgotten, plain(method)))
        try:
            return Artifact({"margin": again.unlearn_shadow(number)}, {})
        except Diverged as error:
            return diverged(f"{method.card.name}, shadow {number}: {error}")
        except Refused as error:
            return refused(f"{method.card.name}, shadow {number}: {error}")

    return Stage(
        kind=ANSWER,
        what=f"{method.card.name}, shadow {number}",
        about={"answer": lab.about_unlearned_by(plain(method), number)},
        needs=(before,),
        work=method.work(Sizes.of(request)),
        make=make,
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
        "rule": RULE,
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
                alike=problem.alike,
                unseen=problem.sets.unseen,
                lab=bench.lab(
                    problem,
                    seed,
                    train=bench.trained,
                    unlearn=Repeat(
                        subject.key, lambda number: again(bench, number), _never, plain(method)
                    ),
                ),
            )
            _check_answers(case, method)
            findings, unasked = _asked(case, audits, derive(seed, "audit"))
        except Diverged as error:
            return Artifact({}, failure("diverged", error))
        except Refused as error:
            return Artifact({}, failure("failed", error))
        return Artifact({}, outcome(case, findings, unasked))

    return Stage(
        kind=RECORD,
        what=f"audits of {method.card.name}, seed {seed}",
        about=about,
        needs=(subject, before, *others, *more),
        # Answers of the controls are shared by all methods; this is the dearest case.
        work=Cost(forward=asked * looks) + _asking(problem, audits, len(others) + 2),
        make=make,
    )


def _asked(case: Case, audits: Sequence[Audit], seed: int) -> tuple[list[Finding], dict[str, str]]:
    """Return what the audits found, and why some could not be asked of this model.

    Raises:
        Refused: Where none could.
    """
    findings, unasked = [], {}
    for audit in audits:
        try:
            findings.append(audit(case, seed=seed))
        except Refused as reason:
            log.warning("%s was left out: %s", audit.card.name, reason)
            unasked[audit.card.name] = str(reason)
    if audits and not findings:
        raise Refused("; ".join(f"{name}: {reason}" for name, reason in unasked.items()))
    return findings, unasked


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
