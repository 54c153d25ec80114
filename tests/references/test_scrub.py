"""SCRUB against epochs worked out with plain PyTorch, and its rewinding against shorter runs."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F

from expunge.api import problem as pose
from expunge.bench.problem import Training
from expunge.method import Sizes
from expunge.methods.finetune import Finetune
from expunge.methods.scrub import Scrub, distance, nearest, same_mix
from expunge.tasks.categorical import Classification
from expunge.types import Descent, Refused

LR = 0.3


@pytest.fixture(scope="module")
def four():
    """A linear problem of four classes, and its original."""
    problem = pose(
        {"name": "blobs", "classes": 4, "train": 60},
        "linear",
        {"name": "random", "count": 12},
        training=Training(descent=Descent(lr=0.1, epochs=3, batch_size=16)),
    )
    return problem, problem.train(0)


def plain(epochs, **settings):
    """Steps over all records at once, without momentum."""
    settings = {"lr": LR, "momentum": 0.0, "batch_size": 10_000, **settings}
    return Descent(epochs=epochs, **settings)


def whole(data):
    return data.take(torch.arange(len(data)))


def by_hand(original, request, epochs, scrub: Scrub, lr):
    """Follow the published loop with gradients by autograd, and nothing of ours."""
    student = copy.deepcopy(original)
    forget, retain = whole(request.forget), whole(request.retain)
    hot = scrub.temperature

    def apart(x):
        log_q = F.log_softmax(student(x) / hot, 1)
        p = F.softmax(original(x).detach() / hot, 1)
        return F.kl_div(log_q, p, reduction="sum") * hot**2 / len(x)

    def down(loss, rate):
        for p, q in zip(student.parameters(), original.parameters(), strict=True):
            loss = loss + scrub.smoothing * torch.linalg.vector_norm(p - q.detach())
        steps = torch.autograd.grad(loss, list(student.parameters()))
        with torch.no_grad():
            for p, g in zip(student.parameters(), steps, strict=True):
                p -= rate * g

    for epoch in range(epochs):
        if epoch < scrub.max_epochs:
            down(-apart(forget.x), lr[epoch])
        taught = F.cross_entropy(student(retain.x), retain.y)
        down(scrub.gamma * taught + scrub.alpha * apart(retain.x), lr[epoch])
    return student


def assert_same(a, b, **near):
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p, q, **near)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_epochs_are_those_worked_out_by_hand(four, smoothing):
    problem, original = four
    method = Scrub(
        descent=plain(4),
        max_epochs=3,
        forget_batch_size=10_000,
        alpha=0.7,
        gamma=0.8,
        temperature=3.0,
        smoothing=smoothing,
        decays=(2, 3),
    )
    out = method(original, problem.request, seed=0).model
    rates = [LR, LR, LR / 10, LR / 100]
    expected = by_hand(original, problem.request, 4, method, rates)
    assert_same(out, expected, rtol=1e-4, atol=1e-6)


def test_max_passes_raise_the_divergence_and_min_passes_hold_the_rest(four):
    problem, original = four
    still, pushed = (
        Scrub(descent=plain(6), max_epochs=count, forget_batch_size=12)(
            original, problem.request, seed=0
        ).model
        for count in (0, 6)
    )
    x = whole(problem.request.forget).x

    def apart(model):
        q, p = F.log_softmax(model(x), 1), F.softmax(original(x), 1)
        return F.kl_div(q, p, reduction="batchmean").item()

    assert apart(pushed) > 1.3 * apart(still) > 0


def test_without_max_passes_and_divergence_it_is_fine_tuning(blobs):
    descent = Descent(lr=0.05, epochs=2, batch_size=32)
    scrubbed = Scrub(descent=descent, max_epochs=0, alpha=0.0)(
        blobs.original, blobs.request, seed=3
    )
    tuned = Finetune(descent=descent)(blobs.original, blobs.request, seed=3)
    assert_same(scrubbed.model, tuned.model, rtol=1e-5, atol=1e-6)


def test_passes_have_batches_of_their_own_size(four):
    problem, original = four
    sizes = []

    class Spy(Classification):
        def divergence(self, teacher, student, temperature):
            sizes.append(len(student))
            return super().divergence(teacher, student, temperature)

    recipe = dataclasses.replace(problem.recipe, task=Spy(classes=4))
    request = dataclasses.replace(problem.request, recipe=recipe)
    descent = Descent(lr=0.01, epochs=2, batch_size=24)
    method = Scrub(descent=descent, max_epochs=1, forget_batch_size=6)
    method(original, request, seed=0)
    assert sizes == [6, 6, 24, 24, 24, 24]


def test_distance_sums_over_tensors():
    start = [torch.zeros(2), torch.zeros(1, 1)]
    assert distance([torch.tensor([3.0, 4.0]), torch.tensor([[2.0]])], start).item() == 7


def test_statistics_are_moved_by_the_sets_that_may(made):
    found = made["images"]
    request, original = found.request, found.original
    descent = Descent(lr=1e-3, epochs=1)
    for method, moves in (
        (Scrub(descent=descent, norms="freeze"), False),
        (Scrub(descent=descent, norms="freeze", forget_norms="update"), True),
        (Scrub(descent=descent), True),
    ):
        out = method(original, request, seed=0).model
        after = dict(out.named_buffers())
        kept = [torch.equal(after[k], v) for k, v in original.named_buffers() if "running" in k]
        assert kept
        assert not any(kept) if moves else all(kept)


# Rewinding


def test_the_error_of_a_mix_weighs_classes_as_the_forget_set_does():
    y = torch.tensor([0, 0, 1, 1, 1, 1, 2])
    wrong = torch.tensor([True, False, True, False, False, False, True])
    forget = torch.tensor([0, 1, 1, 1])
    assert same_mix(wrong, y, forget).item() == pytest.approx(0.25 * 0.5 + 0.75 * 0.25)
    with pytest.raises(Refused, match="none of class 3"):
        same_mix(wrong, y, torch.tensor([0, 3]))


def test_the_nearest_error_is_gone_back_to_only_from_above():
    assert nearest([0.1, 0.3, 0.5, 0.9], 0.35) == 1
    assert nearest([0.3, 0.1, 0.3, 0.9], 0.3) == 2
    assert nearest([0.1, 0.3, 0.35, 0.2], 0.35) == 3


@pytest.mark.parametrize("max_epochs", [1, 6])
def test_rewinding_gives_the_model_of_the_epoch_that_it_names(blobs, max_epochs):
    original, request = blobs.original, blobs.request
    forget, val = whole(request.forget), whole(request.val)

    def run(epochs, *, rewind):
        descent = Descent(lr=0.1, epochs=epochs, batch_size=32)
        method = Scrub(descent=descent, max_epochs=max_epochs, forget_batch_size=32, rewind=rewind)
        return method(original, request, seed=0)

    runs = [run(epochs, rewind=False).model for epochs in range(1, 7)]
    errors = [(m(forget.x).argmax(1) != forget.y).double().mean().item() for m in runs]
    wrong = runs[-1](val.x).argmax(1) != val.y
    rates = [wrong[val.y == c].double().mean().item() for c in forget.y.tolist()]
    reference = sum(rates) / len(rates)
    found = run(6, rewind=True)
    assert found.notes["forget_errors"] == pytest.approx(errors)
    assert found.notes["reference"] == pytest.approx(reference)
    epoch = found.notes["epoch"]
    assert (errors[-1] > reference) == (epoch < 6) == (max_epochs == 6)  # both cases are met
    gaps = [abs(error - reference) for error in errors]
    assert epoch == 6 or gaps[epoch - 1] == min(gaps)
    for k, v in found.model.state_dict().items():
        assert torch.equal(v, runs[epoch - 1].state_dict()[k])


def test_rewinding_needs_classes_that_can_be_compared(made, four):
    tokens = made["next_token"]
    with pytest.raises(Refused, match="next_token has no class"):
        Scrub(rewind=True)(tokens.original, tokens.request, seed=0)
    with pytest.raises(ValueError, match="changes after the last"):
        Scrub(rewind=True, norms="recalibrate")
    problem, original = four
    few = problem.request.val.select(torch.nonzero(problem.request.val.y == 1)[:, 0])
    request = dataclasses.replace(problem.request, val=few)
    with pytest.raises(Refused, match="validation records of every class"):
        Scrub(rewind=True)(original, request, seed=0)


@pytest.mark.parametrize(
    "settings", [{"rewind": True}, {"norms": "recalibrate"}, {"max_epochs": 9}]
)
def test_the_foreseen_work_is_the_work_that_is_counted(settings, blobs):
    method = Scrub(descent=Descent(lr=1e-2, epochs=2, batch_size=32), **settings)
    foreseen = method.work(Sizes.of(blobs.request))
    counted = method(blobs.original, blobs.request, seed=0).cost
    assert (foreseen.forward, foreseen.backward) == (counted.forward, counted.backward)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": -1.0}, "alpha, gamma and smoothing >= 0"),
        ({"temperature": 0.0}, "temperature > 0"),
        ({"max_epochs": -1}, "max_epochs >= 0"),
        ({"forget_batch_size": 0}, "forget_batch_size >= 1"),
        ({"decays": (3, 2)}, "ascending order"),
        ({"decays": (0,)}, "from 1 on"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Scrub(**settings)
