"""l1-sparse: thresholds by hand, the penalised loss by autograd, optima from scikit-learn."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import nn

from expunge.api import problem as pose
from expunge.bench.problem import Training
from expunge.method import Sizes, Withheld
from expunge.methods.l1_sparse import L1Sparse, Penalty
from expunge.types import Descent

LR, GAMMA = 0.3, 0.02
ONE = Descent(lr=LR, epochs=1, batch_size=10_000, momentum=0.0)


@pytest.fixture(scope="module")
def trained():
    problem = pose(
        {"name": "blobs", "classes": 3, "train": 60},
        "linear",
        range(12),
        training=Training(descent=Descent(lr=0.1, epochs=5, batch_size=16)),
    )
    return problem, problem.train(0)


def whole(data):
    return data.take(torch.arange(len(data)))


def stepped(original, data, penalty):
    """Return the parameters after one step down loss + penalty, both by autograd."""
    x, y, _ = whole(data)
    named = {k: p.detach().clone().requires_grad_() for k, p in original.named_parameters()}
    loss = F.cross_entropy(torch.func.functional_call(original, named, (x,)), y)
    gradients = torch.autograd.grad(loss + penalty(named), list(named.values()))
    return {k: p.detach() - LR * g for (k, p), g in zip(named.items(), gradients, strict=True)}


def assert_is(model, expected):
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), expected[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("vectors", [False, True])
def test_the_subgradient_is_autograds_of_the_penalised_loss(trained, vectors):
    problem, original = trained
    method = L1Sparse(descent=ONE, gamma=GAMMA, step="subgradient", vectors=vectors)

    def penalty(named):
        return GAMMA * sum(p.abs().sum() for p in named.values() if vectors or p.dim() > 1)

    out = method(original, problem.request, seed=0).model
    assert_is(out, stepped(original, problem.request.retain, penalty))


def test_ascent_goes_up_the_forget_loss_and_down_the_penalty(trained):
    problem, original = trained
    x, y, _ = whole(problem.request.forget)
    settings = {"variant": "ascent", "step": "subgradient", "decay": "none"}
    out = L1Sparse(descent=ONE, gamma=GAMMA, **settings)(original, problem.request, seed=0).model

    def penalty(named):
        logits = torch.func.functional_call(original, named, (x,))
        size = sum(p.abs().sum() for p in named.values() if p.dim() > 1)
        return GAMMA * size - 2 * F.cross_entropy(logits, y)  # once undoes the descent

    assert_is(out, stepped(original, problem.request.forget, penalty))


def test_a_soft_threshold_by_hand():
    weight = nn.Parameter(torch.tensor([[0.5, -0.2, 0.05, 0.0], [-0.05, 0.1, -3.0, 0.11]]))
    penalty = Penalty({"weight": weight})
    penalty.become(0.5)
    penalty.shrink(0.2)
    expected = torch.tensor([[0.4, -0.1, 0.0, 0.0], [0.0, 0.0, -2.9, 0.01]])
    torch.testing.assert_close(weight.detach(), expected)
    assert penalty.share_below(0.0) == 0.5
    assert penalty.share_below(0.1) == 0.75


def test_a_proximal_step_is_a_gradient_step_and_a_threshold(trained):
    problem, original = trained
    free = stepped(original, problem.request.retain, lambda named: 0.0)
    sizes = next(p for p in free.values() if p.dim() > 1).abs().flatten().sort().values
    gamma = (sizes[3] + sizes[4]).item() / 2 / LR  # between the fourth and the fifth
    done = L1Sparse(descent=ONE, gamma=gamma)(original, problem.request, seed=0)
    expected = {
        k: torch.where(p.abs() <= LR * gamma, 0.0, p - LR * gamma * p.sign()) if p.dim() > 1 else p
        for k, p in free.items()
    }
    assert_is(done.model, expected)
    assert done.notes["sparsity"] == 4 / len(sizes)


def test_only_the_proximal_step_reaches_exact_zeros(trained):
    problem, original = trained
    settings = {"descent": Descent(lr=0.05, epochs=8, batch_size=16), "gamma": 0.3}
    near = L1Sparse(**settings, step="subgradient")(original, problem.request, seed=0)
    zero = L1Sparse(**settings)(original, problem.request, seed=0)
    assert near.notes["sparsity"] == 0
    assert zero.notes["sparsity"] > 0


def test_the_strength_falls_in_a_line_towards_zero(trained, monkeypatch):
    problem, original = trained
    strengths, become = [], Penalty.become

    def noted(self, strength):
        strengths.append(strength)
        become(self, strength)

    monkeypatch.setattr(Penalty, "become", noted)
    descent = Descent(lr=0.01, epochs=4)
    L1Sparse(descent=descent, gamma=0.8)(original, problem.request, seed=0)
    assert strengths == pytest.approx([0.8, 0.6, 0.4, 0.2])
    L1Sparse(descent=descent, gamma=0.8, decay="none")(original, problem.request, seed=0)
    assert strengths[4:] == pytest.approx([0.8] * 4)


def test_it_converges_to_the_lasso_of_scikit_learn(trained):
    """The minimum of CE + gamma |weights|, with free biases: saga finds it its own way.

    Momentum carries the loss's pull on, and the threshold must not be left behind.
    """
    problem, original = trained
    x, y, _ = whole(problem.request.retain)
    descent = Descent(lr=0.2, epochs=300, batch_size=10_000, momentum=0.9)
    method = L1Sparse(descent=descent, gamma=GAMMA, decay="none")
    out = method(original, problem.request, seed=0).model
    reference = LogisticRegression(
        l1_ratio=1.0, solver="saga", C=1 / (len(y) * GAMMA), tol=1e-8, max_iter=20_000
    ).fit(x.numpy().astype(np.float64), y.numpy())
    weight = next(p for p in out.parameters() if p.dim() > 1)
    expected = torch.from_numpy(reference.coef_).float()
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-3, atol=1e-3)
    assert torch.equal(weight == 0, expected == 0)
    assert 0 < (expected == 0).sum() < expected.numel()


@pytest.mark.parametrize(("variant", "unread"), [("retain", "forget"), ("ascent", "retain")])
def test_the_other_set_is_never_read(trained, variant, unread):
    problem, original = trained
    poisoned = Withheld(getattr(problem.request, unread), unread, "l1_sparse")
    request = dataclasses.replace(problem.request, **{unread: poisoned})
    method = L1Sparse(variant=variant, descent=Descent(lr=0.01, epochs=1))
    done = method(original, request, seed=0)
    foreseen = method.work(Sizes.of(request))
    assert (foreseen.forward, foreseen.backward) == (done.cost.forward, done.cost.backward)


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match="gamma >= 0"):
        L1Sparse(gamma=-1e-4)
    with pytest.raises(ValueError, match="reads retained records"):
        L1Sparse(variant="ascent", norms="recalibrate")
