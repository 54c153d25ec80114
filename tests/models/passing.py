"""What every network must pass: trained, unlearned from, audited, read by the core."""

import copy

import torch
from torch import nn

from expunge import api
from expunge.bench.problem import Problem, Training
from expunge.core.cost import Meter
from expunge.core.grads import squared_gradients
from expunge.core.state import mode
from expunge.data.tensors import TensorData
from expunge.method import Sizes
from expunge.methods.finetune import Finetune
from expunge.types import Architecture, Batch, Descent, Inputs, Sets, Task


def rows(count: int, length: int, vocabulary: int, classes: int) -> TensorData:
    """Return token rows of which a class has tokens of its own, after some padding."""
    draws = torch.Generator().manual_seed(0)
    y = torch.arange(count) % classes
    each = (vocabulary - 1) // classes
    x = 1 + y[:, None] * each + torch.randint(0, each, (count, length), generator=draws)
    x[:, -3:] = 0
    return TensorData(x, y)


def pixels(count: int, *shape: int, classes: int) -> TensorData:
    """Return noisy images of one pattern per class."""
    draws = torch.Generator().manual_seed(0)
    y = torch.arange(count) % classes
    patterns = torch.rand(classes, *shape, generator=draws)
    return TensorData((patterns[y] + 0.1 * torch.randn(count, *shape, generator=draws)), y)


def halves(data: TensorData) -> Sets:
    middle = len(data) * 2 // 3
    whole = torch.arange(len(data))
    return Sets(data.select(whole[:middle]), data.select(whole[middle:]))


def obeys(model: Architecture, data: TensorData, epochs: int = 1, lr: float = 0.05) -> Problem:
    """Train, unlearn and audit, and hold the result to the laws of methods."""
    descent = Descent(lr=lr, epochs=epochs, batch_size=16)
    problem = api.problem(
        halves(data), model, ["0", "1", "2", "3"], training=Training(descent=descent)
    )
    original = problem.train(seed=0)
    before = copy.deepcopy(original.state_dict())
    method = Finetune(descent=Descent(lr=0.01, epochs=1, batch_size=16))
    meter = Meter()
    outcome = api.unlearn(original, problem, method, seed=1, meter=meter)
    again = api.unlearn(original, problem, method, seed=1)
    kept, other = outcome.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(kept[name], other[name]) for name in kept)
    assert all(torch.equal(before[name], part) for name, part in original.state_dict().items())
    assert any(not torch.equal(before[name], kept[name]) for name in kept)
    assert all(p.requires_grad for p in outcome.model.parameters())
    foreseen = method.work(Sizes.of(problem.request))
    assert (outcome.cost.forward, outcome.cost.backward) == (foreseen.forward, foreseen.backward)
    (finding,) = api.audit(problem, original, outcome, retrained=1, audits=["accuracy"])
    assert 0 <= finding.unlearned.values["forget"] <= 1
    return problem


def reads_squared_gradients(model: nn.Module, task: Task, x: Inputs) -> None:
    """Compare squared gradients with a loop over records, to the last parameter."""
    assert isinstance(x, torch.Tensor)
    y = torch.arange(len(x)) % task.outputs
    found = squared_gradients(model, task, [Batch(x, y, torch.arange(len(x)))])
    expected = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    with mode(model, training=False):
        for one, answer in zip(x, y, strict=True):
            loss = task.losses(model(one[None]), answer[None])
            parts = torch.autograd.grad(loss.sum(), list(model.parameters()))
            for name, part in zip(expected, parts, strict=True):
                expected[name] += part.square() / len(x)
    for name, one in expected.items():
        atol = 1e-6 * float(one.abs().max())
        torch.testing.assert_close(found[name], one, rtol=1e-3, atol=atol, msg=name)
