"""The training loop, model state, cost and randomness against slow or plain counterparts."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

from expunge.core import cost, rng, state
from expunge.core.descent import Diverged, Pass, descend
from expunge.core.state import mode
from expunge.types import Batch, Descent, Refused, Request


def run(made, descent, **extra):
    model, request = copy.deepcopy(made.original), made.request
    teach = Pass(
        request.retain, lambda b: request.task.loss(model, b), extra.pop("norms", "freeze")
    )
    descend(model, [[teach]] * 2, descent, request.recipe, rng.generator(0), **extra)
    return model


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_mask_truly_freezes(blobs, optimizer):
    draws = rng.generator(1)
    mask = {
        k: torch.rand(p.shape, generator=draws) < 0.5 for k, p in blobs.original.named_parameters()
    }
    descent = Descent(optimizer=optimizer, lr=0.05, batch_size=16, weight_decay=0.1)
    out = dict(run(blobs, descent, mask=mask).named_parameters())
    for name, old in blobs.original.named_parameters():
        assert torch.equal(out[name][~mask[name]], old[~mask[name]])
    assert any((out[k] != p).any() for k, p in blobs.original.named_parameters())


def test_a_full_mask_is_no_mask(blobs):
    descent = Descent(lr=0.05, batch_size=16, weight_decay=0.1)
    mask = {k: torch.ones_like(p, dtype=torch.bool) for k, p in blobs.original.named_parameters()}
    masked, plain = run(blobs, descent, mask=mask), run(blobs, descent)
    for a, b in zip(masked.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_the_loop_is_torchs_sgd_with_its_schedule(blobs):
    settings = {"momentum": 0.9, "weight_decay": 0.01, "nesterov": True}
    descent = Descent(lr=0.1, batch_size=10_000, schedule="cosine", **settings)
    ours = run(blobs, descent)
    theirs = copy.deepcopy(blobs.original).train()
    for m in theirs.modules():
        if isinstance(m, nn.BatchNorm1d):
            m.eval()
    optimizer = torch.optim.SGD(theirs.parameters(), 0.1, **settings)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2)
    x, y, _ = blobs.request.retain.take(torch.arange(len(blobs.request.retain)))
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(theirs(x), y).backward()
        optimizer.step()
        schedule.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_gradients_can_be_adjusted(blobs):
    frozen = run(
        blobs, Descent(lr=1.0), adjust=lambda gs: [g.zero_() for g in gs.values()] and None
    )
    for a, b in zip(frozen.parameters(), blobs.original.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("schedule", "start", "end"),
    [("constant", 1, 1), ("cosine", 1, 0), ("linear", 1, 0), ("onecycle", 0, 0)],
)
def test_schedules_start_and_end_where_they_should(schedule, start, end):
    descent = Descent(lr=1.0, schedule=schedule)
    assert descent.rate(0.0) == pytest.approx(start)
    assert descent.rate(1.0) == pytest.approx(end, abs=1e-9)
    assert max(descent.rate(i / 100) for i in range(101)) == pytest.approx(1.0, abs=0.02)


def test_a_rate_that_blows_up_is_told(blobs):
    with pytest.raises(Diverged, match="lower the learning rate"):
        run(blobs, Descent(lr=1e30, batch_size=16))


def test_class_weights_weigh_the_loss_and_not_the_losses(blobs):
    task = dataclasses.replace(blobs.request.task, weights=(1.0, 2.0, 0.0, 1.0, 1.0, 1.0))
    batch = blobs.request.retain.take(torch.arange(30))
    outputs = blobs.original(batch.x)
    expected = nn.functional.cross_entropy(outputs, batch.y, torch.tensor(task.weights))
    torch.testing.assert_close(task.loss(blobs.original, batch), expected)
    plain = blobs.request.task.losses(outputs, batch.y)
    assert torch.equal(task.losses(outputs, batch.y), plain)


def test_bf16_runs_and_differs_but_little(blobs):
    half = run(blobs, Descent(lr=0.01, precision="bf16"))
    full = run(blobs, Descent(lr=0.01, precision="fp32"))
    pairs = list(zip(half.parameters(), full.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in pairs)
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=0.1, atol=0.02)


def test_frozen_norms_keep_their_statistics_and_updated_ones_do_not(blobs):
    before = [n.running_mean.clone() for n in state.norms_of(blobs.original)]
    frozen, updated = (run(blobs, Descent(lr=0.0), norms=n) for n in ("freeze", "update"))
    for norm, mean in zip(state.norms_of(frozen), before, strict=True):
        assert torch.equal(norm.running_mean, mean)
    assert any(
        not torch.equal(n.running_mean, m)
        for n, m in zip(state.norms_of(updated), before, strict=True)
    )


def test_recalibration_gives_the_statistics_of_the_records():
    norm = nn.BatchNorm1d(3)
    norm.running_mean.fill_(99)
    x = torch.randn(40, 3, generator=rng.generator(0)) * 2 + 5
    batches = [Batch(part, torch.zeros(20), torch.arange(20)) for part in x.split(20)]
    state.recalibrate(norm, batches)
    torch.testing.assert_close(norm.running_mean, x.mean(0))
    expected = torch.stack([p.var(0) for p in x.split(20)]).mean(0)
    torch.testing.assert_close(norm.running_var, expected)
    assert norm.momentum == 0.1


def test_mode_restores_every_modules_own():
    net = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2))
    net.train()
    net[1].eval()
    with state.mode(net, training=True, norms="update"):
        assert net[1].training
    inside = []

    def fail():
        with state.mode(net, training=False):
            inside.append(net[0].training)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert inside == [False]
    assert net[0].training
    assert not net[1].training


def test_a_batch_of_one_record_cannot_train_a_norm_and_other_errors_pass():
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    with (
        pytest.raises(Refused, match=r"at least 2 values of each channel.* larger batch_size"),
        mode(network, training=True, norms="update"),
    ):
        network(torch.rand(1, 3))
    assert network.training
    with mode(network, training=True, norms="freeze"):
        network(torch.rand(1, 3))
    with pytest.raises(ValueError, match="other") as told, mode(network, training=True):
        raise ValueError("other")
    assert type(told.value) is ValueError


def test_cost_counts_whole_networks_teachers_included():
    student, teacher = nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Linear(2, 2)
    x = torch.randn(5, 2)
    with cost.metered() as bill:
        with torch.no_grad():
            teacher(x)
        student(x).sum().backward()
        student(x[:3])
    assert (bill.cost.forward, bill.cost.backward) == (13, 5)
    assert bill.cost.passes == 23
    student(x)
    assert bill.cost.forward == 13


def test_cost_survives_a_network_that_raises():
    with cost.metered() as bill:
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            nn.Sequential(nn.Linear(3, 3))(torch.randn(4, 2))
        nn.Linear(2, 2)(torch.randn(4, 2))
    assert bill.cost.forward == 4


def test_peak_memory_sees_what_was_held():
    with cost.metered() as bill:
        torch.ones(64 * 2**20 // 4).sum()
    if bill.cost.peak_bytes is None:
        pytest.skip("this system does not tell")
    assert bill.cost.peak_bytes > 48 * 2**20


def test_seeds_of_named_stages_do_not_depend_on_each_other():
    assert rng.derive(0, "a") == rng.derive(0, "a")
    assert len({rng.derive(s, n) for s in range(50) for n in ("a", "b", "ab")}) == 150
    assert rng.derive(0, "a", "b") != rng.derive(0, "ab")


def test_a_request_tells_its_task(blobs):
    request: Request = blobs.request
    assert request.task is request.recipe.task


def test_a_lone_last_record_joins_the_batch_before(blobs):
    data = blobs.request.retain.select(torch.arange(33))
    sizes = [len(b.y) for b in data.batches(16)]
    assert sizes == [16, 17]
    assert data.steps(16) == 2
    assert [len(b.y) for b in data.select(torch.arange(1)).batches(16)] == [1]
    assert [len(b.y) for b in data.batches(40)] == [33]
