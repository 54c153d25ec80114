"""Look a problem over before any work: what does not fit is told now, not hours later."""

import logging
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from expunge import registry
from expunge.audit import Audit, Case
from expunge.bench.problem import Problem
from expunge.core.rng import fenced, generator
from expunge.core.state import mode
from expunge.lab import Needs, Repeat
from expunge.method import Method
from expunge.subject import Refused, WhiteBox

log = logging.getLogger(__name__)


def check(problem: Problem, methods: Iterable[Method] = (), audits: Iterable[Audit] = ()) -> None:
    """Refuse a network, augmentation, method or audit that the records are not for.

    Raises:
        ValueError: In one sentence, naming the first of them.
    """
    shape, augment = problem.sets.train.shape, problem.recipe.augment
    if (augment.crop or augment.flip) and len(shape) != 3:
        raise ValueError(
            f"crop and flip are for images, but a record here has shape {shape}; leave "
            "`augment` out"
        )
    _check_tokens(problem)
    _try_network(problem)
    case, methods = stand_in(problem), tuple(methods)
    for method in methods:
        method.check(case.original.model, problem.recipe.task)
    if methods:  # what a run has unlearned once it can unlearn again
        again = Repeat(None, lambda _: case.original.model, lambda *_: case.original.model)
        case = replace(case, lab=problem.lab(0, unlearn=again))
    for audit in audits:
        audit.check(case)


def applicable(case: Case, *, shadows: bool = False) -> list[Audit]:
    """Return every quick audit that can be asked of the case; warn of the others.

    Args:
        case: Whom they would be asked of.
        shadows: Whether those that train shadow models are among them: a grid tells what they
            take, and keeps them for all its methods.
    """
    found = []
    for name, cls in registry.audits.known().items():
        if not vars(cls)["card"].quick:
            continue
        audit = registry.audits.build({"name": name})
        if audit.needs != Needs() and not shadows:
            log.info("%s was left out, since it needs %s; name it to have it", name, audit.needs)
            continue
        try:
            audit.check(case)
        except Refused as reason:
            log.warning("%s was left out: %s", name, reason)
        else:
            found.append(audit)
    return found


def stand_in(problem: Problem) -> Case:
    """Return a case whose models are untrained: enough to ask whether an audit applies."""
    with fenced(0):
        blank = WhiteBox(problem.recipe.drawn())
    return Case(
        original=blank,
        unlearned=blank,
        request=problem.request,
        test=problem.test,
        alike=problem.alike,
        unseen=problem.sets.unseen,
        lab=problem.lab(0),
    )


def _check_tokens(problem: Problem) -> None:
    """Refuse token numbers for which a network with a vocabulary of its own has no room."""
    model, train = problem.recipe.model, problem.sets.train
    known = getattr(model, "vocabulary", None)
    if known is None:
        return
    parts = (train, problem.sets.test)
    batches = (part.take(torch.arange(len(part))) for part in parts)
    largest = max(int(batch.x.max()) for batch in batches if isinstance(batch.x, Tensor))
    if largest >= known:
        raise ValueError(
            f"records hold token number {largest}, but '{model.card.name}' has a vocabulary of "
            f"{known}; set vocabulary = {largest + 1}, or the size of the one they were coded by"
        )


def _try_network(problem: Problem) -> None:
    """Pass two records through an untrained network, and count its answers."""
    recipe, train = problem.recipe, problem.sets.train
    name, wanted = recipe.model.card.name, recipe.task.outputs
    with fenced(0):
        network = recipe.drawn().to(train.y.device)
        batch = train.take(torch.arange(min(2, len(train))))
        batch = recipe.task.pose(batch, generator(0, "check"))
        try:
            with torch.no_grad(), mode(network, training=False):
                outputs = network(batch.x)
        except (RuntimeError, TypeError) as error:
            raise ValueError(
                f"the model '{name}' cannot take records of shape {train.shape}: "
                f"{str(error).splitlines()[0]}; check its settings, or take another"
            ) from error
    if not isinstance(outputs, Tensor):
        raise ValueError(
            f"the model '{name}' returns a {type(outputs).__name__}, expected a tensor of "
            "logits; wrap it in a module that returns them"
        )
    if wanted and outputs.shape[-1] != wanted:
        raise ValueError(
            f"the data has {wanted} classes, but the model '{name}' gives "
            f"{outputs.shape[-1]} answers; give its last layer {wanted} outputs"
        )
