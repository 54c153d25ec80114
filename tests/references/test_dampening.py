"""Selective synaptic dampening against one gradient per record, and against its formula."""

import logging

import pytest
import torch
import torch.nn.functional as F

from expunge.api import problem as pose
from expunge.bench.problem import Training
from expunge.method import Sizes
from expunge.methods.ssd import SelectiveSynapticDampening as Ssd
from expunge.methods.ssd import factors, pooled
from expunge.types import Descent


@pytest.fixture(scope="module")
def four():
    """A network of two layers on four classes, of which most of one is forgotten."""
    problem = pose(
        {"name": "blobs", "classes": 4, "train": 48},
        {"name": "mlp", "hidden": [5], "batch_norm": False},
        {"name": "class", "classes": ["1"], "fraction": 0.7},
        training=Training(descent=Descent(lr=0.1, epochs=5, batch_size=16)),
    )
    return problem, problem.train(0)


def whole(data):
    return data.take(torch.arange(len(data)))


def squares(model, batches):
    """The mean over batches of the squared gradient of each one's mean loss, by autograd."""
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for x, y in batches:
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        for name, p in model.named_parameters():
            total[name] += p.grad**2 / len(batches)
    model.zero_grad()
    return total


def split(data, size):
    x, y, _ = whole(data)
    return list(zip(x.split(size), y.split(size), strict=True))


def expected(model, forget, train, alpha, dampening):
    """The published rule, number by number."""
    found = {}
    for name, p in model.named_parameters():
        flat = p.detach().clone().flatten()
        pairs = zip(forget[name].flatten().tolist(), train[name].flatten().tolist(), strict=True)
        for place, (f, d) in enumerate(pairs):
            if f > alpha * d:
                flat[place] *= min(dampening * d / f, 1.0)
        found[name] = flat.view_as(p)
    return found


def assert_weights(out, weights):
    for name, p in out.named_parameters():
        torch.testing.assert_close(p.detach(), weights[name], rtol=1e-4, atol=1e-7, msg=name)


def test_factors_by_hand():
    forget = {"w": torch.tensor([4.0, 4.0, 1.9, 0.0, 8.0])}
    train = {"w": torch.tensor([1.0, 2.0, 1.0, 0.0, 1.0])}
    found = factors(forget, train, alpha=2.0, dampening=1.0)["w"]
    assert found.tolist() == [0.25, 1.0, 1.0, 1.0, 0.125]  # a ratio of alpha itself is left alone
    found = factors(forget, train, alpha=2.0, dampening=6.0)["w"]
    assert found.tolist() == [1.0, 1.0, 1.0, 1.0, 0.75]


def test_importance_to_all_records_is_the_mean_by_numbers():
    found = pooled({"w": torch.tensor([3.0])}, {"w": torch.tensor([1.0])}, 0.25)["w"]
    assert found.tolist() == [1.5]


@pytest.mark.parametrize(("alpha", "dampening"), [(1.0, 1.0), (2.0, 0.5)])
def test_records_importance_is_a_gradient_per_record(four, alpha, dampening):
    problem, original = four
    forget, retain = (split(d, 1) for d in (problem.request.forget, problem.request.retain))
    by_set = squares(original, forget), squares(original, forget + retain)
    weights = expected(original, *by_set, alpha, dampening)
    method = Ssd(alpha=alpha, dampening=dampening)
    found = method(original, problem.request, seed=0)
    assert_weights(found.model, weights)
    moved = [float((weights[k] != p).sum()) for k, p in original.named_parameters()]
    count = sum(p.numel() for p in original.parameters())
    assert 0 < found.notes["dampened"] == pytest.approx(sum(moved) / count)
    for size in (1, 7):
        other = Ssd(alpha=alpha, dampening=dampening, batch_size=size)
        assert_weights(other(original, problem.request, seed=0).model, weights)


def test_batches_importance_squares_their_mean_gradient(four):
    problem, original = four
    size = 4
    forget, retain = (split(d, size) for d in (problem.request.forget, problem.request.retain))
    assert all(len(batches[-1][1]) > 1 for batches in (forget, retain))  # else it joins another
    by_set = squares(original, forget), squares(original, forget + retain)
    method = Ssd(alpha=1.5, importance="batch", batch_size=size)
    found = method(original, problem.request, seed=0)
    assert_weights(found.model, expected(original, *by_set, 1.5, 1.0))
    assert found.notes["dampened"] > 0
    other = Ssd(alpha=1.5)(original, problem.request, seed=0)
    assert found.notes["dampened"] != other.notes["dampened"]


def test_from_n_over_n_forget_on_nothing_is_selected_and_a_warning_says_so(four, caplog):
    problem, original = four
    request = problem.request
    bound = 1 + len(request.retain) / len(request.forget)
    with caplog.at_level(logging.WARNING):
        found = Ssd(alpha=bound)(original, request, seed=0)
    assert f"n / n_forget = {bound:g} times" in caplog.text
    assert found.notes["dampened"] == 0
    caplog.clear()
    left_out = Ssd()(original, request, seed=0)
    given = Ssd(alpha=bound**0.5)(original, request, seed=0)
    assert left_out.notes == given.notes
    rarer = Ssd(selectivity=0.9)(original, request, seed=0).notes
    assert rarer["alpha"] == pytest.approx(bound**0.9)
    assert rarer["dampened"] < given.notes["dampened"]
    assert left_out.notes["dampened"] > 0
    assert not caplog.text


def test_statistics_stay_or_are_the_retained_records_own(made):
    found = made["images"]
    request, original = found.request, found.original
    before = dict(original.named_buffers())
    still = dict(Ssd(alpha=1.5)(original, request, seed=0).model.named_buffers())
    assert all(torch.equal(still[k], v) for k, v in before.items())
    method = Ssd(alpha=1e9, norms="recalibrate", batch_size=10_000)
    out = method(original, request, seed=0)
    assert out.cost.forward == method.work(Sizes.of(request)).forward
    x = whole(request.retain).x
    normalize, convolution = (original.get_submodule(name) for name in ("0", "1"))
    mean = convolution(normalize(x)).mean((0, 2, 3))
    found_mean = out.model.get_buffer("2.running_mean")
    torch.testing.assert_close(found_mean, mean, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(before["2.running_mean"], mean, rtol=1e-4)


@pytest.mark.parametrize("settings", [{"importance": "batch"}, {"norms": "recalibrate"}])
def test_the_foreseen_work_is_the_work_that_is_counted(settings, posed):
    method = Ssd(alpha=1.5, batch_size=16, **settings)
    foreseen = method.work(Sizes.of(posed.request))
    counted = method(posed.original, posed.request, seed=0).cost
    assert (foreseen.forward, foreseen.backward) == (counted.forward, counted.backward)


@pytest.mark.parametrize("settings", [{"alpha": -1.0}, {"dampening": 0.0}, {"batch_size": 0}])
def test_bad_settings_are_refused(settings):
    with pytest.raises(ValueError, match="expected alpha >= 0, dampening > 0"):
        Ssd(**settings)
    with pytest.raises(ValueError, match=r"selectivity in \[0, 1\), got 1.0"):
        Ssd(selectivity=1.0)
