"""Sequence: several methods, each applied to the result of the one before.

Composition as such, without a paper of its own; Salgado Herrera, Thouvenot, Héliou and Becue,
"Comparative Analysis of Machine Unlearning Approaches for Data Protection", CAID 2024,
https://hal.science/hal-05046594v1, speak of pseudo-labels that are combined with Rotate.
"""

from dataclasses import dataclass, replace
from itertools import count

from torch import nn

from expunge.core import notes
from expunge.core.cost import Cost
from expunge.core.rng import derive
from expunge.method import Method, MethodCard, Sizes
from expunge.types import Request


@dataclass(frozen=True, kw_only=True)
class Sequence(Method):
    """Apply several methods one after the other.

    Each is shown the records that its own card names, and takes for the original what the
    one before returned. A watcher sees their rounds numbered throughout.

    Attributes:
        methods: Them, in order, each with settings of its own.
    """

    card = MethodCard(
        name="sequence",
        source="https://hal.science/hal-05046594v1",
        needs=(),
        norms="as each of its methods has it",
        null={"methods": []},
        toy={"methods": [{"name": "random_label"}, {"name": "finetune", "norms": "freeze"}]},
        quick=False,
    )

    methods: tuple[Method, ...]

    @property
    def parts(self) -> tuple[Method, ...]:
        return self.methods

    def unlearn(self, model: nn.Module, request: Request, seed: int) -> nn.Module:
        watch, rounds = request.watch, count()
        if watch is not None:
            told = watch
            request = replace(request, watch=lambda model, _: told(model, next(rounds)))
        noted = []
        for place, method in enumerate(self.methods):
            with notes.collected() as own:
                model = method.apply(model, request, derive(seed, "part", place))
            noted.append({"method": method.card.name} | own)
        notes.add("parts", noted)
        return model

    def work(self, sizes: Sizes) -> Cost:
        return sum((method.work(sizes) for method in self.methods), Cost())
