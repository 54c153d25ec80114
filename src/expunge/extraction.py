"""A network to attack, whatever a subject gives: its own, or a copy that learned its answers.

The answers are put to use as in distillation. Data-free model extraction, Truong, Maini, Walls
and Papernot, CVPR 2021, https://arxiv.org/abs/2011.14779, makes up the records that it asks about;
here the attacker has the retained ones.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from expunge.audit import Case
from expunge.core import rng
from expunge.core.cost import Cost
from expunge.core.descent import Pass, descend
from expunge.subject import Access, Refused, Subject
from expunge.types import Batch, Data, Model, Recipe


def check_reach(case: Case, extract: int, name: str) -> None:
    """Refuse a case whose subjects neither give weights nor are copied.

    Args:
        case: Whose subjects.
        extract: Epochs that a copy learns for; 0 takes no copy.
        name: Of the audit that asks.
    """
    for subject in (case.unlearned, case.original, *case.retrained):
        if not extract and subject.access < Access.WEIGHTS:
            raise Refused(
                f"{name} trains the model and needs its weights, but a {type(subject).__name__} "
                f"gives {subject.access.name.lower()} only; set `extract` to the number of epochs "
                "for which a copy is to learn its answers"
            )


def reached(subject: Subject, recipe: Recipe, data: Data, extract: int, seed: int) -> nn.Module:
    """Return the subject's own network, or where `extract` is above 0 a copy of its answers.

    Args:
        subject: Left as found; so is its network, of which the caller makes a copy.
        recipe: The copy's architecture, what it starts from, and how it is trained.
        data: The records that are put to the subject; their own answers are not used.
        extract: Epochs that a copy learns for.
        seed: Of the copy's weights and of the order.
    """
    return extracted(subject.outputs, recipe, data, extract, seed) if extract else subject.model


def extracted(answers: Model, recipe: Recipe, data: Data, epochs: int, seed: int) -> nn.Module:
    """Return a new network that has learned to answer as a black box does.

    Args:
        answers: The black box; gives logits or log-probabilities.
        recipe: The network's architecture, what it starts from, and how it is trained.
        data: The records that are put to the box.
        epochs: Passes over them.
        seed: Of the weights and of the order.
    """
    with rng.fenced(rng.derive(seed, "extract")):
        network = recipe.fresh().to(data.y.device)

        def follow(batch: Batch) -> Tensor:
            with torch.no_grad():
                teacher = answers(batch.x).float()
            return recipe.task.divergence(teacher, network(batch.x).float(), 1.0).mean()

        settings = replace(recipe.descent, epochs=epochs)
        rounds = [[Pass(data, follow, "update")]] * epochs
        descend(network, rounds, settings, recipe, rng.generator(seed, "extract"))
    return network.eval()


def price(extract: int, records: int) -> Cost:
    """Return the samples that a copy takes: the box answers, the copy goes forward and back."""
    return Cost(forward=2 * extract * records, backward=extract * records)
