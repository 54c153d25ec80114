"""Boundary expand: send forgotten records to a class of their own, then cut it off.

Chen, Gao, Liu, Peng and Wang, "Boundary Unlearning: Rapid Forgetting of Deep Networks via
Shifting the Decision Boundary", CVPR 2023 (there Boundary Expanding),
https://arxiv.org/abs/2303.11570

Departures from the paper and the code that goes by its name:
    1. BatchNorm's statistics stay as they are; the code has forget batches move them
       (`norms="update"`).
    2. The row to add is put on whichever linear layer gives the output; the code has the
       sizes of one network in it. Copies of it never cut the row off again.
    3. A watcher sees the network cut, as it would be returned.
"""

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from expunge.core.cost import Cost
from expunge.core.descent import Pass, descend
from expunge.core.head import check_classes, cut, find_head, widen
from expunge.core.rng import generator
from expunge.method import Method, MethodCard, Preset, Sizes
from expunge.types import Batch, Descent, Request


@dataclass(frozen=True, kw_only=True)
class BoundaryExpand(Method):
    """Teach forgotten records one more class, and take that class away again.

    Attributes:
        descent: The optimiser.
        norms: BatchNorm's policy.
    """

    card = MethodCard(
        name="boundary_expand",
        source="https://arxiv.org/abs/2303.11570",
        needs=("original", "forget"),
        norms="frozen by default",
        null={"descent": {"lr": 0.0}},
        toy={"descent": {"lr": 5e-2}},
        presets={
            "unofficial_code": Preset(
                {"descent": {"lr": 1e-5, "epochs": 10, "batch_size": 64}, "norms": "update"},
                "https://github.com/TY-LEE-KR/Boundary-Unlearning-Code, boundary_unlearning.py",
            ),
        },
        tasks=("classification",),
        mechanisms=("relabel", "train on forget"),
    )

    descent: Descent = Descent(lr=1e-4, epochs=10, batch_size=64)
    norms: Literal["freeze", "update"] = "freeze"

    def unlearn(self, model: nn.Module, request: Request, seed: int) -> nn.Module:
        task, draws = request.task, generator(seed, "order")
        check_classes(task, request.forget.y)
        one = request.forget.take(torch.arange(1))
        name = find_head(model, one.x, task.outputs)

        def head(network: nn.Module) -> nn.Linear:
            return cast(nn.Linear, network.get_submodule(name))

        def banish(batch: Batch) -> Tensor:
            beyond = torch.full_like(batch.y, task.outputs)
            return task.losses(model(batch.x).float(), beyond).mean()

        def watch(network: nn.Module, number: int) -> None:
            if request.watch is not None:
                cut(head(network))
                request.watch(network, number)

        widen(head(model), generator(seed, "row"))
        rounds = [[Pass(request.forget, banish, self.norms)]] * self.descent.epochs
        descend(model, rounds, self.descent, request.recipe, draws, watch=watch)
        cut(head(model))
        return model

    def work(self, sizes: Sizes) -> Cost:
        samples = sizes.forget * self.descent.epochs
        return Cost(forward=samples + 1, backward=samples)  # one record finds the head
