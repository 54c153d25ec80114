"""SMU and amnesiac unlearning: what was added in training, and is taken back, by hand."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from expunge.api import problem as pose
from expunge.bench.problem import Training
from expunge.core.descent import teach, train
from expunge.core.rng import derive, fenced, generator
from expunge.methods.amnesiac import Amnesiac
from expunge.methods.smu import SMU, Multipliers, weights_of_epochs
from expunge.types import Descent

WHOLE = Descent(lr=0.2, epochs=1, batch_size=1000, momentum=0.0)
NONE = Descent(epochs=0)


def posed(descent, model="linear", forget=6):
    return pose(
        {"name": "blobs", "classes": 3, "train": 40},
        model,
        range(forget),
        training=Training(descent=descent),
    )


def trained(method, problem, seed=0):
    original, trace = method.train(problem.recipe, problem.sets.train, seed)
    return original, dataclasses.replace(problem.request, trace=trace)


def untrained(problem, seed=0):
    with fenced(derive(seed, "weights")):
        return problem.recipe.fresh()


def summed(model, data):
    """The gradient of the sum of losses by autograd."""
    rows = torch.arange(len(data))
    batch = data.take(rows)
    loss = F.cross_entropy(model(batch.x), batch.y, reduction="sum")
    return torch.autograd.grad(loss, list(model.parameters()))


def assert_weights(model, expected):
    for p, wanted in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p, wanted, rtol=1e-5, atol=1e-6)


def test_methods_with_a_trace_train_as_the_recipe_has_it():
    problem = posed(Descent(lr=0.1, epochs=3, batch_size=8))
    plain = train(problem.recipe, problem.sets.train, 5)
    for method in (SMU(), Amnesiac()):
        original, _ = trained(method, problem, seed=5)
        assert_weights(original, [p.detach() for p in plain.parameters()])
    adam = posed(Descent(optimizer="adamw", lr=0.01, epochs=2, batch_size=8))
    plain = train(adam.recipe, adam.sets.train, 5)
    assert_weights(trained(SMU(), adam, 5)[0], [p.detach() for p in plain.parameters()])


def test_taking_back_one_whole_step_leaves_the_step_on_the_retained_records():
    problem = posed(WHOLE)
    method = SMU(mode="at_once", descent=NONE)
    original, request = trained(method, problem)
    before = untrained(problem)
    step = summed(before, request.retain)
    expected = [p - 0.2 * g / 40 for p, g in zip(before.parameters(), step, strict=True)]
    done = method(original, request, seed=0)
    assert_weights(done.model, expected)
    assert (done.cost.forward, done.cost.backward) == (24, 24)  # three retained beside each
    half = dataclasses.replace(method, scale=0.5)(original, request, seed=0).model
    midway = [(p + q) / 2 for p, q in zip(original.parameters(), expected, strict=True)]
    assert_weights(half, [p.detach() for p in midway])


def test_two_epochs_are_taken_back_from_where_each_began():
    problem = posed(dataclasses.replace(WHOLE, epochs=2))
    method = SMU(mode="at_once", descent=NONE)
    original, request = trained(method, problem)
    first = untrained(problem)
    second = train(posed(WHOLE).recipe, problem.sets.train, 0)
    parts = zip(
        original.parameters(),
        summed(first, request.forget),
        summed(second, request.forget),
        strict=True,
    )
    expected = [p.detach() + 0.2 * (g + h) / 40 for p, g, h in parts]
    assert_weights(method(original, request, seed=0).model, expected)


def test_spread_over_one_step_it_is_that_step_less_what_was_added():
    problem = posed(WHOLE)
    own = Descent(lr=0.3, epochs=1, batch_size=1000, momentum=0.0)
    original, request = trained(SMU(), problem)
    added = summed(untrained(problem), request.forget)
    step = summed(original, request.retain)
    parts = zip(original.parameters(), step, added, strict=True)
    expected = [p.detach() - 0.3 * g / 34 + 0.2 * a / 40 for p, g, a in parts]
    done = SMU(descent=own)(original, request, seed=0)
    assert_weights(done.model, expected)
    size = sum(float((0.2 * a / 40).square().sum()) for a in added) ** 0.5
    assert done.notes["norm of what is taken back"] == pytest.approx(size, rel=1e-5)
    # Shares of five steps add up to the same where the steps themselves do nothing.
    still = Descent(lr=0.0, epochs=1, batch_size=7, momentum=0.0)
    only = [p.detach() + 0.2 * a / 40 for p, a in zip(original.parameters(), added, strict=True)]
    assert_weights(SMU(descent=still)(original, request, seed=0).model, only)


def test_with_batch_norm_what_is_taken_back_is_near_what_training_added():
    problem = posed(
        Descent(lr=0.05, epochs=3, batch_size=20, momentum=0.0),
        {"name": "mlp", "hidden": [32, 32]},
        forget=10,
    )
    method = SMU()
    original, request = trained(method, problem)
    model = untrained(problem).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    added = [torch.zeros_like(p) for p in model.parameters()]
    gone = request.forget.index
    draws = generator(0, "order")
    for _ in range(3):
        for batch in problem.recipe.shuffled(problem.sets.train, 20, draws):
            losses = F.cross_entropy(model(batch.x), batch.y, reduction="none")
            own = losses[torch.isin(batch.index, gone)].sum() / len(batch.y)
            parts = torch.autograd.grad(own, list(model.parameters()), retain_graph=True)
            for total, part in zip(added, parts, strict=True):
                total.sub_(part, alpha=0.05)
            optimizer.zero_grad()
            losses.mean().backward()
            optimizer.step()
    assert_weights(original, [p.detach() for p in model.parameters()])
    found = method._added(original, request, 0)
    mine, truth = (
        torch.cat([part.flatten() for part in parts]) for parts in (found.values(), added)
    )
    assert F.cosine_similarity(mine, truth, dim=0) > 0.9
    assert mine.norm() / truth.norm() == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("stride", ["step", "epoch"])
@pytest.mark.parametrize("schedule", ["onecycle", "exponential", "constant"])
def test_a_record_counts_by_the_rates_that_were_taken(schedule, stride):
    descent = Descent(
        lr=0.1, epochs=3, batch_size=9, momentum=0.0, schedule=schedule, stride=stride
    )
    problem, rates = posed(descent), []
    teach(untrained(problem), problem.recipe, problem.sets.train, generator(0), after=rates.append)
    found = weights_of_epochs(descent, 5, 40)
    assert len(rates) == 15
    assert found == pytest.approx([sum(rates[5 * e : 5 * e + 5]) / 40 for e in range(3)])


def test_momentum_adds_a_gradient_as_often_as_is_reckoned():
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.8)
    for step in range(300):
        weight.grad = torch.tensor([1.0 if step == 0 else 0.0], dtype=torch.float64)
        optimizer.step()
    descent = Descent(lr=0.1, epochs=1, momentum=0.8)
    assert weights_of_epochs(descent, 1, 1) == pytest.approx([-weight.item()])


def test_taking_back_a_step_of_adamw_takes_the_forget_sets_part_of_its_numerator():
    adamw = dataclasses.replace(WHOLE, optimizer="adamw", lr=0.01)
    problem = posed(adamw)
    method = SMU(mode="at_once", descent=NONE)
    original, request = trained(method, problem)
    before = untrained(problem)
    whole, kept = summed(before, problem.sets.train), summed(before, request.retain)
    parts = zip(before.parameters(), whole, kept, strict=True)
    expected = [(p - 0.01 * k / (w.abs() + 1e-8 * 40)).detach() for p, w, k in parts]
    assert_weights(method(original, request, seed=0).model, expected)


def test_adamws_divisors_are_those_of_its_optimiser():
    problem = posed(Descent(optimizer="adamw", lr=0.01, epochs=2, batch_size=8))
    model, wanted = untrained(problem), [0.0, 0.0]
    optimizer = torch.optim.AdamW(model.parameters(), 0.01, (0.9, 0.999))
    follow = Multipliers(model, 5)
    for step in range(10):
        batch = problem.sets.train.take(torch.arange(8) + 8 * (step % 5))
        optimizer.zero_grad()
        F.cross_entropy(model(batch.x), batch.y).backward()
        optimizer.step()
        follow.after(0.01)
        squares = optimizer.state[next(model.parameters())]["exp_avg_sq"]
        wanted[step // 5] += 0.01 / ((squares / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
    torch.testing.assert_close([next(iter(sums.values())) for sums in follow.sums], wanted)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="to spread over"):
        SMU(descent=NONE)
    problem = posed(WHOLE)
    with pytest.raises(ValueError, match=r"weights before each of 1 epochs would take"):
        SMU(limit=1e-12).train(problem.recipe, problem.sets.train, 0)
    for method in (SMU(), Amnesiac()):
        with pytest.raises(ValueError, match="its own training kept"):
            method(problem.train(0), problem.request, seed=0)


@pytest.mark.parametrize("half", [False, True])
def test_taking_back_every_step_leaves_the_weights_that_training_began_with(half):
    problem = posed(Descent(lr=0.1, epochs=4, batch_size=1000, schedule="onecycle"))
    method = Amnesiac(descent=NONE, half=half)
    original, request = trained(method, problem)
    done = method(original, request, seed=0)
    bound = 2e-3 if half else 1e-6
    for p, q in zip(done.model.parameters(), untrained(problem).parameters(), strict=True):
        assert (p - q).abs().max() < bound
    assert done.notes == {"steps taken back": 4, "share of recorded steps": 1.0}
    assert (done.cost.forward, done.cost.backward) == (0, 0)


def test_only_the_steps_with_forgotten_records_are_taken_back():
    descent = Descent(lr=0.1, epochs=3, batch_size=8)
    problem = posed(descent, forget=2)
    method = Amnesiac(descent=NONE)
    original, request = trained(method, problem, seed=1)
    draws = generator(1, "order")
    orders = [torch.randperm(40, generator=draws) for _ in range(3)]
    hit = [bool((part < 2).any()) for order in orders for part in order.split(8)]
    model, snapshots = untrained(problem, 1), []

    def look(*_):
        snapshots.append([p.detach().clone() for p in model.parameters()])

    look()
    teach(model, problem.recipe, problem.sets.train, generator(1, "order"), after=look)
    expected = [p.detach().clone() for p in original.parameters()]
    for step, of_forgotten in enumerate(hit):
        if of_forgotten:
            for p, a, b in zip(expected, snapshots[step], snapshots[step + 1], strict=True):
                p -= b - a
    done = method(original, request, seed=0)
    assert 0 < sum(hit) < 15
    assert done.notes["steps taken back"] == sum(hit)
    assert done.notes["share of recorded steps"] == pytest.approx(sum(hit) / 15)
    assert_weights(done.model, expected)


def test_statistics_of_batches_are_not_taken_back():
    problem = posed(Descent(lr=0.1, epochs=2, batch_size=8), {"name": "mlp", "hidden": [6]})
    method = Amnesiac(descent=NONE)
    original, request = trained(method, problem)
    out = method(original, request, seed=0).model
    buffers = dict(out.named_buffers())
    assert any("running_mean" in name for name in buffers)
    for name, buffer in original.named_buffers():
        assert torch.equal(buffer, buffers[name])


def test_only_sensitive_records_steps_are_kept_and_only_they_can_go():
    problem = posed(Descent(lr=0.1, epochs=2, batch_size=4), forget=3)
    first = Amnesiac(first=3)
    original, request = trained(first, problem)
    assert len(request.trace["changes"]) <= 6
    assert (request.trace["met"][:, 3:] == -1).all()
    everything = Amnesiac()
    whole, traced = trained(everything, problem)
    out = first(original, request, seed=0).model
    assert_weights(everything(whole, traced, seed=0).model, [p.detach() for p in out.parameters()])
    beyond = dataclasses.replace(
        problem.request, trace=trained(Amnesiac(first=2), problem)[1].trace
    )
    with pytest.raises(ValueError, match="1 of 3 records to forget were not among the sensitive"):
        first(original, beyond, seed=0)
    of_class = Amnesiac(classes=(1,))
    _, kept = trained(of_class, problem)
    known = (kept.trace["met"] >= 0).all(0)
    assert torch.equal(known, problem.sets.train.y == 1)
    with pytest.raises(ValueError, match=r"changes of up to 20 steps, of 12 weights each"):
        Amnesiac(limit=1e-9).train(problem.recipe, problem.sets.train, 0)
