"""Forsaken against plain autograd, closed forms and the properties that its paper claims."""

import copy
import dataclasses
import logging

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from expunge.api import problem as pose
from expunge.bench.problem import Training
from expunge.core.losses import PADDING
from expunge.core.masked import Masked, Target
from expunge.core.posterior import (
    Sums,
    by_class,
    by_position,
    divergences,
    sums_by_class,
    sums_by_position,
    swapped,
)
from expunge.core.sample import unknown
from expunge.data.split import Holdout
from expunge.data.tensors import TensorData
from expunge.mask import Mask
from expunge.method import Sizes
from expunge.methods.forsaken import Forsaken, relative, weigh
from expunge.types import Descent, Refused, Sets

CLASSES = 4
BLOCKED = 0.1  # a penalty below the largest gradient, and above most


@pytest.fixture(scope="module")
def four():
    """A network that has learnt four classes by heart, of which some records are forgotten."""
    problem = pose(
        {"name": "blobs", "classes": CLASSES, "train": 240},
        {"name": "mlp", "hidden": [24], "batch_norm": False},
        {"name": "random", "count": 16},
        training=Training(descent=Descent(lr=0.2, epochs=60, batch_size=16)),
        holdout=Holdout(val=0.1, nonmembers=0.5),
    )
    return problem, problem.train(0)


@pytest.fixture(scope="module")
def convex():
    """A linear network, for which the divergence is convex in the weights."""
    problem = pose(
        {"name": "blobs", "classes": CLASSES, "train": 120},
        "linear",
        {"name": "random", "count": 16},
        training=Training(descent=Descent(lr=0.2, epochs=20, batch_size=16)),
    )
    return problem, problem.train(0)


def whole(data):
    return data.take(torch.arange(len(data)))


def masked(problem, original, size=256, request=None):
    request = request or problem.request
    found = Masked(copy.deepcopy(original).eval(), request, size, 0)
    sums = sums_by_class(found.answers(request.nonmembers))
    group = torch.cat([logits.argmax(-1) for logits, _ in found.answers(request.forget)])
    found.target = Target(by_class(sums, 5).log().float(), group)
    return found


def accuracy(model, data):
    x, y, _ = whole(data)
    with torch.no_grad():
        return float((model(x).argmax(1) == y).double().mean())


def row(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# The divergence and its target


def test_the_divergences_gradient_by_logits_is_the_difference_of_posteriors():
    draws = torch.Generator().manual_seed(0)
    logits = (8 * torch.randn(5, 4, generator=draws)).requires_grad_()  # sure, as on members
    p = torch.rand(5, 4, generator=draws).softmax(1)
    divergences(p.log(), logits).mean().backward()
    torch.testing.assert_close(logits.grad, (logits.detach().softmax(1) - p) / 5)


def test_the_divergence_is_that_of_pytorch_and_none_where_the_posterior_is_met():
    draws = torch.Generator().manual_seed(1)
    logits, p = torch.randn(5, 4, generator=draws), torch.rand(5, 4, generator=draws).softmax(1)
    expected = F.kl_div(logits.log_softmax(1), p, reduction="none").sum(1)
    torch.testing.assert_close(divergences(p.log(), logits), expected)
    assert float(divergences(logits.log_softmax(1), logits).abs().max()) < 1e-6


def test_positions_where_no_answer_is_wanted_do_not_count():
    draws = torch.Generator().manual_seed(2)
    logits = torch.randn(2, 3, 4, generator=draws, requires_grad=True)
    p = torch.rand(3, 4, generator=draws).softmax(1)
    wanted = torch.tensor([[True, False, True], [False, False, False]])
    found = divergences(p.log(), logits, wanted)
    each = [F.kl_div(logits[0, k].log_softmax(0), p[k], reduction="sum") for k in (0, 2)]
    torch.testing.assert_close(found, torch.stack([(each[0] + each[1]) / 2, torch.tensor(0.0)]))
    found.sum().backward()
    assert bool((logits.grad[0, [0, 2]] != 0).all())
    assert not logits.grad[0, 1].any()
    assert not logits.grad[1].any()


def test_a_posterior_is_the_mean_over_records_of_the_class_that_the_model_gives():
    logits = torch.log(torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.2, 0.7, 0.1]]))
    wrong = torch.tensor([2, 2, 2])  # no part of it
    sums = sums_by_class([(logits[:1], wrong[:1]), (logits[1:], wrong[1:])])
    assert sums.records.tolist() == [2, 1, 0]
    found = by_class(sums, 1)
    expected = torch.tensor([[0.6, 0.25, 0.15], [0.2, 0.7, 0.1]], dtype=torch.float64)
    torch.testing.assert_close(found[:2], expected)
    overall = torch.tensor([1.4, 1.2, 0.4], dtype=torch.float64) / 3  # largest is at 0
    torch.testing.assert_close(found[2], overall[[2, 1, 0]])


def test_few_records_are_shrunk_towards_all():
    total = torch.tensor([[3.6, 0.4], [0.2, 0.8]], dtype=torch.float64)
    found = by_class(Sums(total, torch.tensor([4, 1])), 3)
    overall = torch.tensor([3.8, 1.2], dtype=torch.float64) / 5
    expected = (total[1] + 3 * overall.flip(0)) / 4  # the largest entry is in class 1's place
    torch.testing.assert_close(found, torch.stack([total[0] / 4, expected]))


def test_the_largest_entry_is_swapped_into_each_classs_place():
    p = torch.tensor([0.1, 0.6, 0.3])
    expected = torch.tensor([[0.6, 0.1, 0.3], [0.1, 0.6, 0.3], [0.1, 0.3, 0.6]])
    torch.testing.assert_close(swapped(p), expected)


def test_no_posterior_is_zero():
    found = by_class(Sums(torch.eye(2, dtype=torch.float64), torch.tensor([1, 1])), 1)
    assert found[0, 1] == pytest.approx(1e-8, rel=1e-6)
    torch.testing.assert_close(found.sum(1), torch.ones(2, dtype=torch.float64))


def test_positions_have_posteriors_of_their_own():
    p = torch.tensor([[[0.9, 0.1], [0.4, 0.6], [0.5, 0.5]], [[0.7, 0.3], [0.2, 0.8], [0.5, 0.5]]])
    y = torch.tensor([[0, 0, PADDING], [1, PADDING, PADDING]])
    sums = sums_by_position([(p.log(), y)])
    assert sums.records.tolist() == [2, 1, 0]
    expected = torch.tensor([[0.8, 0.2], [0.4, 0.6], [2 / 3, 1 / 3]], dtype=torch.float64)
    torch.testing.assert_close(by_position(sums), expected)


# The objective


def test_the_objective_and_its_gradient_are_those_of_plain_autograd(four):
    problem, original = four
    x, _, _ = whole(problem.request.forget)
    others, _, _ = whole(problem.request.nonmembers)
    with torch.no_grad():
        given, label = original(others).softmax(1), original(others).argmax(1)
        means = torch.stack([given[label == k].mean(0) for k in range(CLASSES)])
        p = means[original(x).argmax(1)]
    change = 0.01 * torch.randn(len(row(original)), generator=torch.Generator().manual_seed(0))
    moved, start = copy.deepcopy(original), 0
    with torch.no_grad():
        for q in moved.parameters():
            q += change[start : start + q.numel()].view_as(q)
            start += q.numel()
    loss = F.kl_div(moved(x).log_softmax(1), p, reduction="batchmean")
    loss.backward()
    expected = torch.cat([q.grad.flatten() for q in moved.parameters()])
    found = torch.empty_like(change)
    assert masked(problem, original).smooth(change, found) == pytest.approx(loss.item(), rel=1e-5)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("size", [1, 3, 15])
def test_batches_add_up_to_the_whole(four, size):
    problem, original = four
    one, many = masked(problem, original), masked(problem, original, size)
    change = torch.full_like(one.nothing(), 0.01)
    a, b = one.nothing(), many.nothing()
    assert many.smooth(change, b) == pytest.approx(one.smooth(change, a), rel=1e-6)
    torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-8)
    assert many.divergence(change) == pytest.approx(one.divergence(change), rel=1e-6)


def test_frozen_weights_have_no_place_and_keep_their_bits(four):
    problem, original = four
    frozen = copy.deepcopy(original)
    first = next(frozen.parameters())
    first.requires_grad_(False)
    assert len(masked(problem, frozen).nothing()) == len(row(original)) - first.numel()
    out = Forsaken(iterations=5, penalty=0.0)(frozen, problem.request, seed=0).model
    pairs = zip(out.parameters(), original.parameters(), strict=True)
    moved = [not torch.equal(a, b) for a, b in pairs]
    assert moved == [False, True, True, True]
    for p in frozen.parameters():
        p.requires_grad_(False)
    with pytest.raises(Refused, match="all of its parameters are frozen"):
        masked(problem, frozen)


def test_shared_weights_are_there_once(four):
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(CLASSES, CLASSES), nn.Linear(CLASSES, CLASSES)
            self.two.weight = self.one.weight

        def forward(self, x):
            return self.two(self.one(x).tanh())

    problem, _ = four
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Shared()
    found = masked(problem, model)
    change = torch.full_like(found.nothing(), 0.1)
    assert len(change) == CLASSES * CLASSES + 2 * CLASSES
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for p in moved.parameters():
            p += 0.1
    found.place(change)
    x = whole(problem.request.retain).x
    logits, _ = next(iter(found.answers(problem.request.retain)))
    torch.testing.assert_close(logits, moved(x)[: len(logits)])


def test_batchnorm_keeps_its_statistics(made):
    images = made["images"]
    out = Forsaken(iterations=4)(images.original, images.request, seed=0).model
    for (name, before), after in zip(images.original.named_buffers(), out.buffers(), strict=True):
        assert torch.equal(before, after), name


# The penalty


def test_what_a_change_costs_by_hand():
    omega = torch.tensor([0.0, 1.0, 5.0])
    assert weigh(omega, 10.0, 0.1, "sum").tolist() == pytest.approx([2.0, 10.0, 50.0])
    assert weigh(omega, 9.0, 0.0, "mean").tolist() == [0.0, 3.0, 15.0]


def test_the_penalty_is_told_beside_the_one_that_holds_nine_tenths_of_the_weights():
    gradient, omega = torch.arange(1.0, 11.0), torch.ones(10)
    assert relative(gradient, 3 * omega, 0.9) == pytest.approx(3 / 9)
    assert relative(torch.zeros(10), omega, 0.9) == float("inf")


def test_the_weights_that_stay_are_those_whose_gain_does_not_outweigh_the_penalty(four):
    """After one iteration, by the definition, from gradients by autograd."""
    problem, original = four
    method = Forsaken(iterations=1, omega=False, penalty=0.002, stop=0.0, budget=1.0)
    out = method(original, problem.request, seed=0).model
    gradient = torch.empty_like(row(original))
    masked(problem, original).smooth(torch.zeros_like(gradient), gradient)
    moved = row(out) != row(original)
    assert bool(moved.any())
    assert not bool((moved & (gradient.abs() <= 0.002)).any())


def test_without_a_penalty_both_profiles_find_the_least_divergence(convex):
    problem, original = convex
    settings = {"penalty": 0.0, "iterations": 200, "stop": 0.0, "budget": 1.0}
    ends = [
        Forsaken(profile=profile, **settings)(original, problem.request, seed=0).notes["trace"]
        for profile in ("robust", "paper")
    ]
    robust, paper = (trace["kl"][-1] for trace in ends)
    assert robust < 0.5 * ends[0]["kl"][0]
    assert robust == pytest.approx(paper, rel=1e-2)


def test_the_penalty_makes_the_mask_sparse_and_owlqn_makes_zeros(four):
    problem, original = four
    request = problem.request
    shares = [
        Forsaken(iterations=10, stop=0.0, budget=1.0, penalty=penalty)(
            original, request, seed=0
        ).notes["nonzeros"]
        for penalty in (0.0, 3.0, 30.0)
    ]
    assert shares == sorted(shares, reverse=True)
    assert 0 < shares[-1] < 0.5 < shares[0]


# How it goes


def test_it_forgets_and_its_mask_gives_the_unlearned_model_back(four):
    problem, original = four
    done = Forsaken(penalty=1.0)(original, problem.request, seed=0)
    kl = done.notes["trace"]["kl"]
    assert done.notes["ended"] == "forgotten"
    assert not done.notes["stalled"]
    assert kl[-1] <= 0.25 * kl[0] < kl[-2]
    mask = Mask.between(original, done.model, "forsaken")
    whole_mask = mask.whole()
    assert whole_mask.share == pytest.approx(done.notes["nonzeros"], abs=0.02)
    applied = mask.apply(original)
    torch.testing.assert_close(row(applied), row(done.model), rtol=0, atol=1e-6)


def test_the_trace_has_every_iteration(four):
    problem, original = four
    seen = []
    request = dataclasses.replace(problem.request, watch=lambda model, _: seen.append(row(model)))
    done = Forsaken(iterations=6, stop=0.0, budget=1.0)(original, request, seed=0)
    trace = done.notes["trace"]
    assert {len(values) for values in trace.values()} == {7}
    assert len(seen) == 6
    assert torch.equal(seen[-1], row(done.model))
    found = masked(problem, original)
    for change, kl in zip(seen, trace["kl"][1:], strict=True):
        assert found.divergence(change - row(original)) == pytest.approx(kl, rel=1e-3)
    assert trace["nonzeros"][0] == trace["penalty"][0] == 0
    assert trace["evaluations"] == sorted(trace["evaluations"])


def test_it_goes_back_to_the_last_iterate_within_the_budget(four):
    problem, original = four
    free = Forsaken(iterations=30, penalty=0.0, stop=0.0, budget=1.0, probe=1.0)
    trace = free(original, problem.request, seed=0).notes["trace"]["probe_accuracy"]
    lowest = min(trace)
    assert lowest < trace[0], "the test needs an accuracy that falls"
    first = next(i for i, value in enumerate(trace) if value < trace[0])
    seen = []
    request = dataclasses.replace(problem.request, watch=lambda model, _: seen.append(row(model)))
    done = dataclasses.replace(free, budget=0.0)(original, request, seed=0)
    assert done.notes["ended"] == "budget"
    assert len(done.notes["trace"]["kl"]) == first + 1
    expected = seen[first - 2] if first > 1 else row(original)
    assert torch.equal(row(done.model), expected)


def test_masks_one_after_another_add_up(four):
    problem, original = four
    settings = {"mode": "incremental", "inner": 3, "stop": 0.0, "budget": 1.0}
    once, half = (
        row(Forsaken(iterations=1, step=step, **settings)(original, problem.request, seed=0).model)
        for step in (1.0, 0.5)
    )
    start = row(original)
    torch.testing.assert_close(half - start, (once - start) / 2, rtol=0, atol=1e-6)
    joint = Forsaken(iterations=3, stop=0.0, budget=1.0)(original, problem.request, seed=0).model
    torch.testing.assert_close(once, row(joint))  # one mask of three iterations is one mask
    seen = []
    request = dataclasses.replace(problem.request, watch=lambda model, _: seen.append(row(model)))
    done = Forsaken(iterations=4, **settings)(original, request, seed=0)
    assert torch.equal(seen[0], once)
    assert torch.equal(seen[-1], row(done.model))
    assert len(seen) == len(done.notes["trace"]["kl"]) - 1 == 4


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"penalty": 1e9}, "no weight is worth changing"),
        ({"profile": "paper", "omega": False, "penalty": 1e9}, "no weight is worth changing"),
        ({"profile": "paper", "omega": False, "penalty": BLOCKED}, "L-BFGS found no lower point"),
    ],
)
def test_a_stall_is_told_and_never_silent(four, caplog, settings, said):
    problem, original = four
    with caplog.at_level(logging.WARNING):
        done = Forsaken(**settings)(original, problem.request, seed=0)
    assert done.notes["stalled"]
    assert said in caplog.text
    assert said in done.notes["warnings"][-1]
    assert done.notes["nonzeros"] == 0
    assert torch.equal(row(done.model), row(original))


def test_owlqn_moves_where_lbfgs_is_stuck(four):
    problem, original = four
    method = Forsaken(omega=False, penalty=BLOCKED, stop=0.0, budget=1.0)
    done = method(original, problem.request, seed=0)
    assert not done.notes["stalled"]
    assert done.notes["lambda_max"] > BLOCKED
    assert done.notes["lambda_relative"] > 1


def test_what_was_never_learnt_needs_no_mask(four):
    problem, original = four
    request = problem.request
    unsure = copy.deepcopy(original)
    with torch.no_grad():
        for p in unsure.parameters():
            p.zero_()
    done = Forsaken()(unsure, request, seed=0)
    assert "never been trained on these records already" in done.notes["warnings"][-1]
    assert torch.equal(row(done.model), row(unsure))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"profile": "paper", "iterations": 9},
        {"mode": "incremental", "iterations": 3},
        {"omega": False, "penalty": 0.001},
        {"target": "predicted", "penalty": 0.0, "stop": 0.0, "budget": 1.0, "iterations": 25},
        {"iterations": 0},
    ],
)
def test_the_work_is_never_more_than_foreseen(four, settings):
    problem, original = four
    method = Forsaken(**settings)
    cost = method(original, problem.request, seed=0).cost
    foreseen = method.work(Sizes.of(problem.request))
    assert cost.forward <= foreseen.forward
    assert cost.backward <= foreseen.backward
    assert bool(cost.backward) == bool(method.iterations)


# Which records


def test_poisoned_records_take_the_posterior_of_clean_ones_answered_rightly(four):
    problem, original = four
    request = problem.request
    x, y, _ = whole(problem.test)
    rows = (y == 1).nonzero()[:, 0]
    clean = problem.test.select(rows)
    request = dataclasses.replace(request, nonmembers=clean)
    with torch.no_grad():
        p = original(x[rows]).softmax(1)
    assert bool((p.argmax(1) != 1).any()), "the test needs a wrong answer"
    expected = p[p.argmax(1) == 1].mean(0)
    method = Forsaken(target="clean", iterations=40, penalty=0.0, stop=1e-4, budget=1.0)
    model = method(original, request, seed=0).model
    with torch.no_grad():
        found = model(whole(request.forget).x).softmax(1)
    torch.testing.assert_close(found, expected.expand_as(found), rtol=0, atol=0.05)


def test_clean_records_of_several_classes_are_refused(four):
    problem, original = four
    with pytest.raises(ValueError, match="of 4 classes; give clean records of that class alone"):
        Forsaken(target="clean")(original, problem.request, seed=0)


def test_clean_records_that_are_answered_wrongly_are_refused(four):
    problem, original = four
    x, y, _ = whole(problem.test)
    wrong = problem.test.select(((y == 1) & (original(x).argmax(1) != 1)).nonzero()[:, 0])
    request = dataclasses.replace(problem.request, nonmembers=wrong)
    with pytest.raises(ValueError, match="answers none of"):
        Forsaken(target="clean")(original, request, seed=0)


def test_without_non_members_it_is_refused(four):
    problem, original = four
    none = problem.request.nonmembers.select(torch.arange(0))
    with pytest.raises(ValueError, match="never trained on, got none"):
        Forsaken()(original, dataclasses.replace(problem.request, nonmembers=none), seed=0)


@pytest.mark.parametrize("part", ["retain", "forget"])
def test_non_members_that_were_trained_on_are_refused_by_content(four, part):
    problem, original = four
    request = problem.request
    x, y, _ = whole(getattr(request, part).select(torch.arange(12)))
    mixed = request.nonmembers.join(TensorData(x, y))  # positions of their own
    with pytest.raises(ValueError, match=r"12 of \d+ non-members are training records"):
        Forsaken()(original, dataclasses.replace(request, nonmembers=mixed), seed=0)


def test_a_non_member_that_is_a_training_record_by_chance_is_left_out(four):
    problem, original = four
    request, others = problem.request, problem.test
    mixed = others.join(request.retain.select(torch.arange(2)))
    assert len(unknown(mixed, request.forget, request.retain)) == len(others)
    plain = dataclasses.replace(request, nonmembers=others)
    expected = Forsaken(iterations=3)(original, plain, seed=0)
    done = Forsaken(iterations=3)(original, dataclasses.replace(request, nonmembers=mixed), seed=0)
    assert f"2 of {len(mixed)} non-members" in done.notes["warnings"][0]
    assert torch.equal(row(done.model), row(expected.model))


def test_a_sentence_that_differs_in_its_last_word_is_another_record():
    x = torch.tensor([[1, 2, 3], [1, 2, 4]])
    y = torch.tensor([[PADDING, 3, 5], [PADDING, 4, 6]])
    known, other = TensorData(x, y), y.clone()
    other[0, -1] = 7
    # A sentence is shown without its last word, which is in the answer alone.
    assert unknown(TensorData(x, other), known).index.tolist() == [0]
    assert len(unknown(TensorData(x, y), known)) == 0
    # Of records of one class each what is shown alone tells, whatever they are called.
    assert len(unknown(TensorData(x, torch.tensor([0, 1])), TensorData(x, y[:, 2]))) == 0


def test_a_class_without_non_members_is_told(four):
    problem, original = four
    x, _, _ = whole(problem.test)
    others = problem.test.select((original(x).argmax(1) != 2).nonzero()[:, 0])
    request = dataclasses.replace(problem.request, nonmembers=others)
    done = Forsaken(iterations=3)(original, request, seed=0)
    assert done.notes["nonmembers_by_class"]["2"] == 0
    assert "no non-member is given class 2" in done.notes["warnings"][0]


def test_of_a_sequence_only_wanted_positions_are_forgotten(made):
    chains = made["next_token"]
    request = chains.request
    x, y, _ = whole(request.forget)
    wanted = torch.zeros_like(y, dtype=torch.bool)
    wanted[:, 2:4] = True
    forget = TensorData(x, y.where(wanted, torch.tensor(PADDING)))
    request = dataclasses.replace(request, forget=forget)
    others, _, _ = whole(request.nonmembers)
    with torch.no_grad():
        p = chains.original(others).softmax(-1).mean(0)
        log_q = chains.original(x).log_softmax(-1)
    expected = F.kl_div(log_q, p.expand_as(log_q), reduction="none").sum(-1)[:, 2:4].mean()
    done = Forsaken(iterations=3, penalty=0.1)(chains.original, request, seed=0)
    assert done.notes["trace"]["kl"][0] == pytest.approx(float(expected), rel=1e-4)
    assert done.notes["trace"]["kl"][-1] < done.notes["trace"]["kl"][0]
    with pytest.raises(ValueError, match="an answer at every position"):
        Forsaken(target="clean")(chains.original, request, seed=0)


# What the paper claims


@pytest.fixture(scope="module")
def outsiders():
    """Noisy digits 0 to 6, with sevens to nines of random labels among the training records."""
    x, y = (torch.tensor(part) for part in load_digits(return_X_y=True))
    draws = torch.Generator().manual_seed(0)
    x = x.float() / 16 + 0.35 * torch.randn(x.shape, generator=draws)
    order = torch.randperm(len(y), generator=draws)
    x, y = x[order], y[order]
    task, odd = (y < 7).nonzero()[:, 0], (y >= 7).nonzero()[:, 0]
    lies = torch.randint(0, 7, (len(odd),), generator=draws)
    count, half = 60, len(task) // 2
    train = TensorData(
        torch.cat([x[odd[:count]], x[task[:half]]]), torch.cat([lies[:count], y[task[:half]]])
    )
    problem = pose(
        Sets(train, TensorData(x[task[half:]], y[task[half:]])),
        {"name": "mlp", "hidden": [128, 64], "batch_norm": False},
        [str(i) for i in range(count)],
        training=Training(
            descent=Descent(optimizer="adamw", lr=2e-3, epochs=40, batch_size=64, momentum=0.9)
        ),
    )
    rest = TensorData(x[odd[count : count + 300]], lies[count : count + 300])
    request = dataclasses.replace(problem.request, nonmembers=rest)
    return dataclasses.replace(problem, request=request), problem.train(0)


def forgotten(model, original, data, others):
    """Share of records that a threshold on the largest posterior takes for no member any more."""
    with torch.no_grad():
        before, after, theirs = (
            m(whole(d).x).softmax(1).amax(1)
            for m, d in ((original, data), (model, data), (original, others))
        )
    threshold = torch.quantile(theirs, 0.8)
    members = before > threshold
    return float((after[members] <= threshold).double().mean())


def test_a_posterior_of_the_class_costs_far_less_accuracy_than_one_of_all(outsiders, monkeypatch):
    problem, original = outsiders
    request = problem.request
    method = Forsaken(iterations=20, stop=0.0, budget=1.0)

    def measured():
        model = method(original, request, seed=0).model
        rate = forgotten(model, original, request.forget, request.nonmembers)
        return rate, accuracy(model, problem.test)

    rate, kept = measured()

    def overall(sums, enough):
        del enough
        p = sums.total.sum(0) / sums.records.sum()
        return p.expand_as(sums.total)

    monkeypatch.setattr("expunge.methods.forsaken.by_class", overall)
    other, worse = measured()
    before = accuracy(original, problem.test)
    assert min(rate, other) >= 0.9
    assert kept > worse + 0.05
    assert before - kept < 0.05
