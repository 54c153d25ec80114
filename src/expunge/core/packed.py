"""Several small networks trained at the same time, as one stack of parameters.

A small network leaves most of a machine idle: a step's time goes into calling operations, not
into arithmetic. Stacked, many networks share every call. Each member's batches, draws and
updates are its own, so that the result is that of `core.descent.train`, up to rounding. For
networks whose arithmetic takes most of the time, packing gains nothing.

A network that is a chain of layers is run with its members' channels side by side: a
convolution of many members is one in groups, BatchNorm has statistics per channel anyway. Any
other network goes through `vmap`, which on a CPU is slow for convolutions: it brings the
channels together and apart again in every layer.
"""

import copy
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from expunge.core import rng
from expunge.core.descent import Diverged, Pass, descend
from expunge.core.sample import joined
from expunge.core.state import Norms, lay_out
from expunge.core.view import View
from expunge.types import Augment, Batch, Data, Descent, Inputs, Recipe, Task, each

# Layers that treat every channel alike, or by numbers of its own.
PER_CHANNEL = (
    nn.Identity,
    nn.ReLU,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
)

# Layers with a form of their own for members side by side.
WIDE = (nn.Flatten, nn.Conv2d, nn.Linear)


class Member(NamedTuple):
    """One of several networks that are trained together.

    Attributes:
        network: Trained in place.
        data: Its records; every member has as many.
        draws: Of its order, augmentation and poses.
        name: What errors call it.
    """

    network: nn.Module
    data: Data
    draws: torch.Generator
    name: str


class Stack(nn.Module):
    """Networks of one shape as one network, each fed with records of its own.

    Every parameter and buffer has the rows of all members, one member's after another's.
    Records in and answers out are in the same order: the first n are the first member's.
    Optimisers work number by number, so that one for the stack is one for every member.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        """Copy the networks' states.

        Raises:
            ValueError: Where one of them cannot be stacked, or they are not of one shape.
        """
        super().__init__()
        for network in networks:
            if (reason := refusal(network)) is not None:
                raise ValueError(f"{reason}; train such networks one after another")
        states = [_tensors(network) for network in networks]
        self._shapes = {name: tensor.shape for name, tensor in states[0].items()}
        if any({k: t.shape for k, t in s.items()} != self._shapes for s in states):
            raise ValueError(
                "expected networks of one shape, got some whose parameters differ in name or "
                "size; build all by one recipe"
            )
        self.count = len(networks)
        self.network = copy.deepcopy(networks[0])
        for name, tensor in _tensors(self.network).items():
            rows = torch.stack([state[name].detach() for state in states])
            # `data` keeps the parameter itself, and with it ties and what is frozen.
            tensor.data = rows.flatten(0, 1) if tensor.dim() else rows
        self._chain = chain(self.network)

    def states(self) -> dict[str, Float[Tensor, "count *shape"] | Tensor]:
        """Return views of all parameters and buffers, the members in front."""
        return {name: self._apart(name, part) for name, part in _tensors(self.network).items()}

    def _apart(self, name: str, tensor: Tensor) -> Tensor:
        return tensor.view(self.count, *self._shapes[name])

    def forward(self, x: Inputs) -> Tensor:
        """Return every member's answers to its own records, one member's after another's."""
        own = each(x, lambda part: part.unflatten(0, (self.count, -1)))
        if self._chain is None or isinstance(own, dict):
            return self._vectorised(self.network, self.states(), own, 0).flatten(0, 1)
        wide = own.transpose(0, 1).flatten(1, 2)
        if wide.dim() == 4:
            wide = wide.contiguous(memory_format=torch.channels_last)
        for name, layer in self._chain.items():
            wide = self._through(name, layer, wide)
        return wide.unflatten(1, (self.count, -1)).transpose(0, 1).flatten(0, 1)

    def _through(self, name: str, layer: nn.Module, wide: Tensor) -> Tensor:
        """Return a layer's outputs, the members' channels side by side as in its inputs."""
        if type(layer) in PER_CHANNEL:
            return layer(wide)
        if type(layer) is nn.Flatten and (layer.start_dim, layer.end_dim) == (1, -1):
            return layer(wide)
        if type(layer) is nn.Conv2d and layer.padding_mode == "zeros":
            return F.conv2d(
                wide,
                layer.weight,
                layer.bias,
                layer.stride,
                layer.padding,  # pyright: ignore[reportArgumentType] either overload's
                layer.dilation,
                groups=self.count * layer.groups,
            )
        own = wide.unflatten(1, (self.count, -1))
        if type(layer) is nn.Linear and own.dim() == 3:
            x, w = own.transpose(0, 1), self._apart(f"{name}.weight", layer.weight).mT
            if layer.bias is None:
                outputs = torch.bmm(x, w)
            else:
                bias = self._apart(f"{name}.bias", layer.bias)
                outputs = torch.baddbmm(bias[:, None], x, w)
            return outputs.transpose(0, 1).flatten(1, 2)
        state = {k: self._apart(f"{name}.{k}", part) for k, part in _tensors(layer).items()}
        return self._vectorised(layer, state, own, 1).flatten(1, 2)

    def _vectorised(
        self, module: nn.Module, states: Mapping[str, Tensor], x: Inputs, dim: int
    ) -> Tensor:
        """Return what the module gives with every member's state; `x` has members at `dim`.

        In single precision: under `vmap` autocast casts a layer's inputs and not its weights.
        """

        def one(state: dict[str, Tensor], x: Inputs) -> Tensor:
            return functional_call(module, state, (x,))

        x = each(x, lambda part: part.float() if part.dtype is torch.bfloat16 else part)
        device = next(iter(states.values())).device.type if states else "cpu"
        with torch.autocast(device, enabled=False):
            return vmap(one, in_dims=(0, dim), out_dims=dim)(dict(states), x)

    @torch.no_grad()
    def unstack(self, networks: Sequence[nn.Module]) -> None:
        """Copy each member's state into its network, in the layout that it runs fastest in."""
        whole = self.states()
        for number, network in enumerate(networks):
            for name, tensor in _tensors(network).items():
                tensor.copy_(whole[name][number])
            lay_out(network)


@dataclass(frozen=True, eq=False, kw_only=True)
class Abreast(Recipe):
    """A recipe whose batches are one of every member's, one after another.

    Attributes:
        members: Whose records and draws.
    """

    members: Sequence[Member]

    def shuffled(self, data: Data, size: int, rng: torch.Generator) -> Iterator[Batch]:
        """Yield one pass over the members' own records, whatever `data` and `rng` are."""
        del data, rng
        pool = _pool(self.members)
        drawn = self.augment != Augment() or type(self.task).pose is not Task.pose
        if pool is not None and not drawn:
            yield from self._gathered(pool, size)
            return
        passes = [Recipe.shuffled(self, m.data, size, m.draws) for m in self.members]
        yield from map(joined, zip(*passes, strict=True))

    def _gathered(self, pool: Data, size: int) -> Iterator[Batch]:
        """Yield the same, read from what all have in common, all members' records at once."""
        first = self.members[0].data
        rows = torch.stack(
            [
                cast(View, m.data).rows[torch.randperm(len(first), generator=m.draws)]
                for m in self.members
            ]
        )
        count = first.steps(size)
        for step in range(count):
            end = len(first) if step == count - 1 else (step + 1) * size
            yield pool.take(rows[:, step * size : end].flatten())


def _pool(members: Sequence[Member]) -> Data | None:
    """Return the data set that all members' records are views of, if there is one."""
    views = [member.data for member in members if isinstance(member.data, View)]
    first = views[0].data if len(views) == len(members) else None
    return first if all(view.data is first for view in views) else None


def chain(network: nn.Module) -> dict[str, nn.Module] | None:
    """Return the layers that a network calls one after another, by name, None for others.

    These are the networks that packing is for: it makes small ones some times as fast, and
    leaves large ones about as fast, as one after another.
    """
    hooked = any(m._forward_pre_hooks or m._forward_hooks for m in network.modules())
    if type(network) is not nn.Sequential or hooked:
        return None
    layers: dict[str, nn.Module] = {}
    for name, layer in network._modules.items():  # children would leave out a repeated one
        if layer is None:
            return None
        inner = chain(layer)
        layers |= {name: layer} if inner is None else {f"{name}.{k}": m for k, m in inner.items()}
    whole = sum(len(_tensors(layer)) for layer in layers.values())
    return layers if whole == len(_tensors(network)) else None  # unless layers share tensors


def refusal(network: nn.Module) -> str | None:
    """Return why networks like this one cannot be trained as a stack, None where they can.

    BatchNorm can: every member has statistics of its own. What `torch.func` cannot
    vectorise for other reasons, such as a branch on a value, raises its own error in the
    first step.
    """
    met: dict[nn.Module, str] = {}
    for name, module in network.named_modules(remove_duplicate=False):
        kind = f"layer '{name}' ({type(module).__name__})"
        if isinstance(module, _DropoutNd) and module.p > 0:
            return f"{kind} draws from the global generator, which members would share"
        if isinstance(module, nn.RNNBase):
            return f"{kind} recurs, for which PyTorch has no vectorised form"
        if isinstance(module, _BatchNorm) and module.momentum is None:
            return f"{kind} averages by the number of batches, which it reads as a plain number"
        if module in met and _tensors(module):
            return (
                f"{kind} is also '{met[module]}', and `functional_call` leaves such a layer changed"
            )
        met[module] = name
    return None


def pays(network: nn.Module) -> bool:
    """Return whether several such networks train faster together than one after another.

    They do where every layer that learns has a form of its own for members side by side.
    """
    layers = chain(network)
    if layers is None or refusal(network) is not None:
        return False
    learning = [layer for layer in layers.values() if any(True for _ in layer.parameters())]
    return all(type(layer) in PER_CHANNEL + WIDE for layer in learning)


def descend_together(
    members: Sequence[Member], recipe: Recipe, descent: Descent, norms: Norms = "update"
) -> None:
    """Train every member for `descent.epochs` passes over its own records, in place.

    Args:
        members: Networks of one shape, with equally many records each.
        recipe: Poses and augments the records, and has the task.
        descent: The optimiser's settings, the same for all.
        norms: What BatchNorm does meanwhile.

    Raises:
        ValueError: Where they cannot be trained as a stack, or differ in records.
        Diverged: After the first pass that ends with a loss that is not finite; it says whose.
    """
    sizes = {member.name: len(member.data) for member in members}
    if len({*sizes.values()}) != 1:
        raise ValueError(
            f"expected members with equally many records, got {sizes or 'none'}: batches of "
            "other sizes cannot be stacked; train those of one size together"
        )
    networks = [member.network for member in members]
    stack, task = Stack(networks), recipe.task
    last = torch.zeros(len(members))

    def objective(batch: Batch) -> Tensor:
        nonlocal last
        losses = _losses(task, stack, batch)
        last = losses.detach()
        return losses.sum()  # whose gradient is, for each member, that of its own loss

    settings = {field: getattr(recipe, field) for field in Recipe.__dataclass_fields__}
    abreast = Abreast(**settings, members=members)
    first = members[0]
    rounds = [[Pass(first.data, objective, norms)]] * descent.epochs
    try:
        descend(stack, rounds, descent, abreast, first.draws)
    except Diverged as error:
        losses = zip(members, last.tolist(), strict=True)
        whose = ", ".join(m.name for m, loss in losses if not math.isfinite(loss))
        raise Diverged(f"{whose}: {error}") from error
    stack.unstack(networks)


def train_together(
    recipe: Recipe, datasets: Sequence[Data], seeds: Sequence[int]
) -> list[nn.Module]:
    """Return what `train(recipe, data, seed)` gives for each, trained at the same time.

    They start from the same weights and see the same batches; only rounding differs. Those
    with equally many records are one stack; every other number makes a stack of its own.

    Args:
        recipe: Followed by all, from scratch.
        datasets: Each one's records.
        seeds: Each one's seed.

    Raises:
        ValueError: Where seeds are not as many, or the recipe's network cannot be stacked;
            ask `refusal` before.
        Diverged: As in `train`; it says whose loss it was.
    """
    if len(datasets) != len(seeds):
        raise ValueError(
            f"expected one seed for each data set, got {len(seeds)} for {len(datasets)}"
        )
    members: list[Member] = []
    for number, (data, seed) in enumerate(zip(datasets, seeds, strict=True)):
        with rng.fenced(rng.derive(seed, "weights")):
            network = recipe.fresh().to(data.y.device)
        draws = rng.generator(seed, "order")
        members.append(Member(network, data, draws, f"model {number} (seed {seed})"))
    by_size = sorted(members, key=lambda member: len(member.data))
    for _, equal in itertools.groupby(by_size, key=lambda member: len(member.data)):
        descend_together([*equal], recipe, recipe.descent)
    return [member.network.eval() for member in members]


def _losses(task: Task, stack: Stack, batch: Batch) -> Float[Tensor, " count"]:
    """Return each member's mean loss on its own part of the batch."""
    outputs, y = stack(batch.x), batch.y
    if type(task).loss is Task.loss and task.weigh(y) is None:  # a plain mean, in one call
        return task.training_losses(outputs.float(), y).unflatten(0, (stack.count, -1)).mean(1)

    def one(outputs: Tensor, y: Tensor, index: Tensor) -> Tensor:
        return task.loss(lambda _: outputs, Batch(outputs, y, index))

    whole = outputs, y, batch.index.to(y.device)
    return vmap(one)(*(part.unflatten(0, (stack.count, -1)) for part in whole))


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    """Return all that makes up the network's state; what is tied comes once."""
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}
