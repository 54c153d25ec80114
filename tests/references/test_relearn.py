"""Relearning trials against a loop written out, and their scores by hand."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

from expunge.core.relearn import (
    Lesson,
    Trial,
    at_once,
    deal,
    first_at,
    relearn,
    speed,
    threshold,
    together,
)
from expunge.core.rng import generator
from expunge.core.view import View
from expunge.data.relabelled import Relabelled
from expunge.data.tensors import TensorData

STEPS, BESIDE, HELD, SLOT = 8, 3, 10, 4
LESSON = Lesson(lr=0.05, steps=STEPS, retained=BESIDE, precision="fp32")


def trial(data, number, slot=SLOT):
    """Return a trial on random records, whatever their class: they are taught as `slot`."""
    mine = torch.randperm(len(data), generator=generator(number, "mine"))[:HELD]
    theirs = torch.randperm(len(data), generator=generator(number, "theirs"))[: STEPS * BESIDE]
    candidates = Relabelled(View(data, mine), torch.full((HELD,), slot))
    return Trial(candidates, View(data, theirs), number)


def by_hand(network, trials, leak=()):
    """Return the trajectories of trials in plain PyTorch, one after another.

    Args:
        network: Left as found.
        trials: What is shown.
        leak: What of a trial the next one goes on with: `momentum`, `statistics`.
    """
    start, learner = copy.deepcopy(network.state_dict()), copy.deepcopy(network)
    optimizer = torch.optim.SGD(learner.parameters(), LESSON.lr, momentum=0.9)
    rows = []
    for trial in trials:
        parameters = dict(learner.named_parameters())
        kept = {k: v for k, v in start.items() if k in parameters or "statistics" not in leak}
        learner.load_state_dict(kept, strict=False)
        if "momentum" not in leak:
            optimizer = torch.optim.SGD(learner.parameters(), LESSON.lr, momentum=0.9)
        rows.append(torch.stack([*learn(learner, optimizer, trial)]))
    return torch.stack(rows)


def learn(network, optimizer, trial):
    x, y, _ = trial.candidates.take(torch.arange(len(trial.candidates)))
    others, theirs, _ = trial.retained.take(torch.arange(len(trial.retained)))
    for step in range(STEPS):
        rows = slice(step * BESIDE, (step + 1) * BESIDE)
        inputs = torch.cat([x[step : step + 1], others[rows]])
        answers = torch.cat([y[step : step + 1], theirs[rows]])
        network.train()
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(inputs), answers).backward()
        optimizer.step()
        network.eval()
        with torch.no_grad():
            yield (network(x).argmax(1) == y).double().mean()


@pytest.fixture(params=["classification", "images"])
def posed(request, made):
    problem = made[request.param]
    return copy.deepcopy(problem.original), problem.request.retain, problem.problem.recipe


def test_trajectories_are_those_of_a_loop_written_out(posed):
    network, data, recipe = posed
    trials = [trial(data, number) for number in range(5)]
    found = relearn(network, trials, recipe, LESSON)
    assert torch.equal(found, by_hand(network, trials))
    assert len(found.unique()) > 3  # there is something to get wrong
    assert len({tuple(row) for row in found.tolist()}) == len(trials)


def test_trials_at_the_same_time_are_those_run_one_by_one(posed):
    network, data, recipe = posed
    trials = [trial(data, number) for number in range(5)]
    assert at_once(network) > 1
    alone = torch.cat([together(network, [one], recipe, LESSON) for one in trials])
    assert torch.equal(relearn(network, trials, recipe, LESSON), alone)


def test_arms_give_the_same_in_either_order(posed):
    """What leaks from one arm into the next, momentum or statistics, would show."""
    network, data, recipe = posed
    before = copy.deepcopy(network.state_dict())
    first, second = ([trial(data, n, slot) for n in range(2)] for slot in (SLOT, 1))
    forth = relearn(network, [*first, *second], recipe, LESSON)
    back = relearn(network, [*second, *first], recipe, LESSON)
    assert torch.equal(forth, back.roll(2, 0))
    again = torch.cat([relearn(network, arm, recipe, LESSON) for arm in (first, second)])
    assert torch.equal(forth, again)
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    assert not torch.equal(forth[:2], forth[2:])


@pytest.mark.parametrize("leak", ["momentum", "statistics"])
def test_a_loop_whose_arms_leak_is_another(posed, leak):
    """The checks above can fail: either leak moves some trajectory, and depends on the order."""
    network, data, recipe = posed
    trials = [trial(data, number) for number in range(5)]
    leaky = by_hand(network, trials, leak=(leak,))
    found = relearn(network, trials, recipe, LESSON)
    assert torch.equal(found[0], leaky[0])
    assert not torch.equal(found, leaky)
    assert not torch.equal(leaky, by_hand(network, trials[::-1], leak=(leak,)).flip(0))


def test_what_a_network_draws_is_the_same_in_either_order(blobs):
    network = nn.Sequential(nn.Dropout(0.5), blobs.original)
    data, recipe = blobs.request.retain, blobs.problem.recipe
    assert at_once(network) == 1
    trials = [trial(data, number) for number in range(3)]
    lesson = dataclasses.replace(LESSON, lr=0.02)
    forth = relearn(network, trials, recipe, lesson)
    assert torch.equal(relearn(network, trials[::-1], recipe, lesson), forth.flip(0))


def test_a_trial_that_diverges_tells_none_and_leaves_the_others_alone(blobs):
    data, recipe = blobs.request.retain, blobs.problem.recipe
    good = [trial(data, number) for number in range(2)]
    x, _, _ = data.take(torch.arange(HELD))
    broken = Relabelled(TensorData(x * torch.inf, torch.zeros(HELD)), torch.full((HELD,), 0))
    bad = Trial(broken, good[0].retained, 7)
    found = relearn(blobs.original, [good[0], bad, good[1]], recipe, LESSON)
    assert torch.equal(found[[0, 2]], relearn(blobs.original, good, recipe, LESSON))
    assert found[1].sum() == 0


def test_candidates_asked_about_are_evenly_among_all(blobs):
    data, recipe = blobs.request.retain, blobs.problem.recipe
    whole = trial(data, 3)
    few = dataclasses.replace(LESSON, asked=3, steps=1)
    found = relearn(blobs.original, [whole], recipe, few)
    n = len(whole.candidates)
    even = whole.candidates.select(torch.tensor([0, n // 3, 2 * n // 3]))
    every = dataclasses.replace(few, asked=None)
    only = whole._replace(candidates=even)  # the first is the one that is shown
    assert torch.equal(found, relearn(blobs.original, [only], recipe, every))
    assert not torch.equal(found, relearn(blobs.original, [whole], recipe, every))


def test_trials_of_other_sizes_are_refused(blobs):
    data, recipe = blobs.request.retain, blobs.problem.recipe
    one = trial(data, 0)
    short = one._replace(retained=one.retained.select(torch.arange(5)))
    with pytest.raises(ValueError, match=r"24 retained records each; got .* and 5"):
        relearn(blobs.original, [one, short], recipe, LESSON)
    fewer = one._replace(candidates=one.candidates.select(torch.arange(9)))
    with pytest.raises(ValueError, match="equally many candidates"):
        relearn(blobs.original, [one, fewer], recipe, LESSON)
    with pytest.raises(ValueError, match="at least 11"):
        relearn(blobs.original, [one], recipe, dataclasses.replace(LESSON, steps=11, retained=1))


# scores


def test_times_and_scores_by_hand():
    told = torch.tensor(
        [
            [0.9, 1.0, 1.0, 1.0],  # at once
            [0.5, 0.9, 0.3, 0.1],  # a step later, and lost again
            [0.0, 0.9, 0.8, 0.8],  # as late, with another mean
            [0.1, 0.2, 0.3, 0.89],  # never
            [0.0, 0.0, 0.0, 0.9],  # at the last step
        ],
        dtype=torch.double,
    )
    assert first_at(told, 0.9).tolist() == [0, 1, 1, 4, 3]
    assert first_at(told, 0.9, cap=3).tolist() == [0, 1, 1, 3, 3]
    expected = [0.975, -1 + 0.45, -1 + 0.625, -4 + 0.3725, -3 + 0.225]
    assert speed(told, 0.9).tolist() == pytest.approx(expected)
    assert speed(told, 0.9).argsort(descending=True).tolist() == [0, 2, 1, 4, 3]
    # Censored alike, both are ranked by their means.
    assert speed(told, 0.9, cap=3)[3:].tolist() == pytest.approx([-3 + 0.3725, -3 + 0.225])


def test_a_mean_never_outweighs_a_step():
    told = torch.rand(2000, 6, generator=generator(0)).double()
    score, time = speed(told, 0.9), first_at(told, 0.9)
    order = score.argsort(descending=True)
    assert (time[order].diff() >= 0).all()


@pytest.mark.parametrize("n", [19, 20, 39, 80])
@pytest.mark.parametrize("levels", [3, 10**6])
def test_the_threshold_holds_the_false_positive_rate(n, levels):
    """One more score of the same kind lies above it in at most a twentieth of the draws."""
    draws = torch.randint(levels, (20000, n + 1), generator=generator(n, "scores")).double()
    above = draws[:, -1] > threshold(draws[:, :-1], 0.05)
    assert float(above.double().mean()) < 0.05 + 3 * (0.05 * 0.95 / 20000) ** 0.5
    if levels > n:  # without ties the rate is known
        exact = (n + 1 - -(-(19 * (n + 1)) // 20)) / (n + 1)
        assert float(above.double().mean()) == pytest.approx(exact, abs=0.006)


def test_thresholds_by_hand():
    scores = torch.arange(1.0, 21.0)
    assert threshold(scores, 0.05) == 20  # the 20th of 20: ⌈0.95 * 21⌉
    assert threshold(scores[:19], 0.05) == 19
    assert threshold(scores, 0.5) == 11
    assert threshold(scores[:3], 0.05) == 3  # too few: their largest


def test_all_records_come_once_before_any_comes_again():
    rows = deal(5, 13, generator(0))
    assert sorted(rows[:5].tolist()) == sorted(rows[5:10].tolist()) == list(range(5))
    assert len(set(rows[10:].tolist())) == 3
    assert rows[:5].tolist() != rows[5:10].tolist()
    assert torch.equal(deal(5, 3, generator(0)), rows[:3])
