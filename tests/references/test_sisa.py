"""SISA and SISA-DP: what is trained again, who votes, how much noise, each worked out elsewhere."""

import dataclasses
import itertools
import math
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from scipy import integrate
from scipy.stats import norm

from benchmarks.sisa import batch, sequence, slicing
from expunge.api import problem as pose
from expunge.audits.weight_distance import differences
from expunge.bench.problem import Training
from expunge.core import descent_to_delete as d2d
from expunge.core.cost import Cost, metered
from expunge.core.descent import train
from expunge.core.rng import generator
from expunge.core.shards import (
    Dealing,
    Layout,
    addresses,
    by_risk,
    dealt,
    epochs_by_slice,
    exponential,
    grow,
    most_samples,
    pareto,
    seed_of,
    slice_of,
)
from expunge.core.voting import Voting, majority, mean
from expunge.data.tensors import TensorData
from expunge.method import Sizes
from expunge.methods.sisa import SISA
from expunge.methods.sisa_dp import SISADP, bootstrap, replaced
from expunge.types import Descent

SHORT = Descent(lr=0.1, epochs=5, batch_size=8)


def posed(descent=SHORT, model="linear", train=80, **more):
    return pose(
        {"name": "blobs", "classes": 3, "train": train, **more},
        model,
        range(6),
        training=Training(descent=descent),
    )


def without(problem, rows):
    """The request to remove these positions of the training set."""
    data = problem.sets.train
    gone = torch.zeros(len(data), dtype=torch.bool)
    gone[rows] = True
    forget = data.select(gone.nonzero()[:, 0])
    retain = data.select((~gone).nonzero()[:, 0])
    return dataclasses.replace(problem.request, retain=retain, forget=forget)


def same(a, b):
    first, second = a.state_dict(), b.state_dict()
    return all(torch.equal(first[k], second[k]) for k in first)


def test_the_epochs_of_a_hundred_slices_add_up_to_39():
    found = epochs_by_slice(20, 100)
    share = Fraction(2 * 20, 101)
    assert found == [int((i + 1) * share) - int(i * share) for i in range(100)]
    assert (sum(found), set(found)) == (39, {0, 1})
    assert most_samples(found, 1000) / 1000 == pytest.approx(19.9, abs=0.05)
    assert epochs_by_slice(7, 1) == [7]
    assert epochs_by_slice(5, 4) == [2, 2, 2, 2]


@pytest.mark.parametrize(("records", "slices"), [(12, 3), (13, 5), (4, 9), (1, 1)])
def test_slices_end_at_the_floor_of_their_share(records, slices):
    found = slice_of(records, slices)
    assert [int((found <= i).sum()) for i in range(slices)] == [
        (i + 1) * records // slices for i in range(slices)
    ]


@pytest.mark.parametrize("model", ["linear", {"name": "mlp", "hidden": [8], "dropout": 0.2}])
def test_one_shard_of_one_slice_is_plain_training_bit_for_bit(model):
    problem = posed(model=model)
    sisa, _ = SISA(shards=1, slices=1).train(problem.recipe, problem.sets.train, 3)
    assert same(sisa.members[0], train(problem.recipe, problem.sets.train, 3))


def test_removing_nothing_reuses_every_state():
    problem, method = posed(), SISA(shards=2, slices=4)
    original, trace = method.train(problem.recipe, problem.sets.train, 0)
    request = dataclasses.replace(without(problem, []), trace=trace)
    done = method(original, request, seed=9)
    assert (done.cost.forward, done.cost.backward) == (0, 0)
    assert done.notes["runs done again"] == 0
    assert same(done.model, original)


@pytest.fixture(scope="module")
def sliced():
    problem, method = posed(), SISA(shards=2, slices=4)
    original, trace = method.train(problem.recipe, problem.sets.train, 0)
    return problem, method, original, trace


def test_a_record_of_a_slice_has_that_slice_and_those_after_it_trained_again(sliced):
    problem, method, original, trace = sliced
    counts = []
    for number in range(4):
        row = ((trace["shard"] == 1) & (trace["slice"] == number)).nonzero()[0]
        request = dataclasses.replace(without(problem, row), trace=trace)
        done = method(original, request, seed=0)
        ends = [10 * (i + 1) - 1 for i in range(number, 4)]  # 40 records, and one is gone
        assert done.cost.backward == done.cost.forward == 2 * sum(ends)
        assert done.notes["runs done again"] == 4 - number
        assert same(done.model.members[0], original.members[0])
        assert not same(done.model.members[1], original.members[1])
        counts.append(done.cost.backward + 2 * (4 - number))  # were the one still there
    assert (
        sum(counts) / 4 == slicing(epochs=5, records=40, slices=4) == pytest.approx(5 * 40 * 3 / 4)
    )


def test_going_on_from_a_state_is_training_from_the_start(sliced):
    problem, method, original, trace = sliced
    request = dataclasses.replace(without(problem, [3, 40, 41]), trace=trace)
    done = method(original, request, seed=0).model
    layout = Layout.read(trace)
    row = layout.among(request.retain)
    for number in range(2):
        parts = layout.parts(number, 4, row)
        seed = seed_of(0, number)
        *_, network = grow(problem.recipe, request.retain, parts, [2, 2, 2, 2], seed)
        assert same(done.members[number], network)


def test_what_a_removed_record_was_leaves_no_bit(sliced):
    problem, method, original, trace = sliced
    rows = torch.tensor([0, 7, 20])
    request = dataclasses.replace(without(problem, rows), trace=trace)
    data = problem.sets.train
    x, y = data.x.clone(), data.y.clone()
    x[rows] = 100.0
    y[rows] = (y[rows] + 1) % 3
    other, traced = method.train(problem.recipe, TensorData(x, y), 0)
    assert not same(other, original)
    after = method(other, dataclasses.replace(request, trace=traced), seed=0).model
    assert same(after, method(original, request, seed=0).model)


def test_a_state_is_kept_once_and_found_by_content():
    plain = addresses("a", [["x"], ["y"], ["z"]], [1, 0, 1])
    assert plain[0] == plain[1] != plain[2]
    assert addresses("b", [["x"], ["y"], ["z"]], [1, 0, 1])[0] != plain[0]
    gone = addresses("a", [["x"], [], ["z"]], [1, 0, 1])
    assert (gone[0], gone[1]) == (plain[0], plain[1])
    assert gone[2] != plain[2]
    problem = posed(Descent(lr=0.1, epochs=2, batch_size=8))
    _, trace = SISA(shards=2, slices=20).train(problem.recipe, problem.sets.train, 0)
    kept = {name.split("/")[1] for name in trace if name.startswith("state/")}
    assert len(kept) == 2 * sum(epochs_by_slice(2, 20)) == 2 * 3


def test_a_shard_without_records_has_no_vote(sliced):
    problem, method, original, trace = sliced
    gone = (trace["shard"] == 0).nonzero()[:, 0]
    request = dataclasses.replace(without(problem, gone), trace=trace)
    done = method(original, request, seed=0)
    assert done.notes["shards without a vote"] == 1
    assert done.cost.backward == 0
    assert not same(done.model.members[0], original.members[0])
    x = problem.sets.test.x
    torch.testing.assert_close(done.model(x).softmax(-1), original.members[1](x).softmax(-1))
    second = (trace["shard"] == 1).nonzero()[1:, 0]
    rest = dataclasses.replace(without(problem, torch.cat([gone, second])), trace=trace)
    with pytest.raises(ValueError, match="nobody votes"):
        method(original, rest, seed=0)


def test_a_shard_whose_runs_are_all_gone_has_no_vote_though_records_are_left():
    problem, method = posed(dataclasses.replace(SHORT, epochs=1)), SISA(shards=2, slices=10)
    original, trace = method.train(problem.recipe, problem.sets.train, 0)
    assert epochs_by_slice(1, 10) == [0] * 5 + [1] + [0] * 4
    gone = ((trace["shard"] == 0) & (trace["slice"] <= 5)).nonzero()[:, 0]
    assert len(gone) < int((trace["shard"] == 0).sum()) - 2
    done = method(original, dataclasses.replace(without(problem, gone), trace=trace), seed=0)
    assert done.model.counted.tolist() == [False, True]
    assert not same(done.model.members[0], original.members[0])
    assert same(done.model.members[1], original.members[1])
    assert done.notes["shards without a vote"] == 1
    assert done.cost.backward == 0
    one = dataclasses.replace(without(problem, gone[1:]), trace=trace)  # a run takes two records
    assert method(original, one, seed=0).model.counted.tolist() == [False, True]
    two = dataclasses.replace(without(problem, gone[2:]), trace=trace)
    assert method(original, two, seed=0).notes["runs done again"] == 1


def test_without_epochs_no_shard_loses_its_vote():
    problem, method = posed(dataclasses.replace(SHORT, epochs=0)), SISA(shards=2, slices=4)
    original, trace = method.train(problem.recipe, problem.sets.train, 0)
    request = dataclasses.replace(without(problem, [3, 40]), trace=trace)
    assert same(method(original, request, seed=0).model, original)


def test_a_network_that_no_run_ever_trained_does_not_vote():
    problem, method = posed(dataclasses.replace(SHORT, epochs=1), train=8), SISA(shards=3, slices=3)
    original, trace = method.train(problem.recipe, problem.sets.train, 0)
    # The one run is on two of three slices: one of two records, two of three.
    counts = [trace["shard"].tolist().count(number) for number in range(3)]
    assert original.counted.tolist() == [count > 2 for count in counts] != [True] * 3
    done = method(original, dataclasses.replace(without(problem, []), trace=trace), seed=9)
    assert same(done.model, original)


def test_an_original_of_other_settings_or_of_none_is_refused(sliced):
    problem, method, original, trace = sliced
    request = dataclasses.replace(problem.request, trace=trace)
    with pytest.raises(ValueError, match="one of 2 of 4"):
        SISA(shards=2, slices=3)(original, request, seed=0)
    with pytest.raises(ValueError, match="its own training kept"):
        method(original, problem.request, seed=0)
    foreign = dataclasses.replace(request, retain=TensorData(*request.retain.read(torch.arange(9))))
    foreign.retain.index += 1000
    with pytest.raises(ValueError, match="9 of 9 records are not among the 80"):
        method(original, foreign, seed=0)
    with pytest.raises(ValueError, match=r"would take .* GiB, and limit=1e-09"):
        SISA(limit=1e-9).train(problem.recipe, problem.sets.train, 0)
    with pytest.raises(ValueError, match="at least 2 records in every shard, got 1"):
        SISA(shards=60).train(problem.recipe, problem.sets.train, 0)


def test_the_majority_by_hand():
    p = torch.tensor([[0.6, 0.3, 0.1], [0.5, 0.1, 0.4], [0.05, 0.9, 0.05], [0.1, 0.2, 0.7]])
    said = majority(p.log()[:, None]).exp()[0]
    torch.testing.assert_close(said, torch.tensor([0.55, 0.2, 0.25]))  # of the first two
    tied = majority(p.log()[[0, 2], None]).exp()[0]  # 0.65 of the first class, 1.2 of the second
    torch.testing.assert_close(tied, p[2])
    torch.testing.assert_close(mean(p.log()[:, None]).exp()[0], p.mean(0))


def test_weights_of_an_ensemble_are_at_no_distance_from_a_networks(sliced):
    problem, _, original, _ = sliced
    gaps = differences(original, problem.train(0))
    assert gaps
    assert all(gap.isnan().all() for gap in gaps.values())
    assert all((gap == 0).all() for gap in differences(original, original).values())


def test_votes_are_taken_record_by_record_and_place_by_place():
    outputs = torch.randn(5, 4, 3, 6, generator=generator(0, "outputs"))
    said = majority(outputs)
    for i, j in itertools.product(range(4), range(3)):
        p = outputs[:, i, j].softmax(-1)
        votes = p.argmax(-1).bincount(minlength=6)
        most = max(range(6), key=lambda c: (int(votes[c]), float(p[:, c].sum())))
        expected = torch.stack([row for row in p if int(row.argmax()) == most]).mean(0)
        torch.testing.assert_close(said[i, j].softmax(-1), expected)


def test_answers_that_are_no_classes_are_averaged():
    members = [torch.nn.Linear(2, 2) for _ in range(3)]
    voting = Voting(members, vote="majority", classes=False)
    x = torch.randn(4, 2)
    torch.testing.assert_close(voting(x), sum(m(x) for m in members) / 3)


def slow_by_risk(risk, shards):
    """Merge the two first of a sorted list, over and over."""
    small = max(2, math.ceil(len(risk) / 100))
    line = [(cost, {row}) for row, cost in enumerate(risk)]

    def place(cluster):
        cost, rows = cluster
        return (0, len(rows), cost) if len(rows) < small else (1, cost)

    while len(line) > shards:
        line.sort(key=place)
        (one, rows), (two, others), *line = line
        line.append((one + two, rows | others))
    return {frozenset(rows) for _, rows in line}


@pytest.mark.parametrize(("records", "shards"), [(30, 4), (400, 7)])
def test_clusters_are_merged_as_in_a_sorted_list(records, shards):
    risk = torch.rand(records, dtype=torch.float64, generator=generator(0, "risk")) ** 4
    shard = by_risk(risk, shards)
    found = {frozenset((shard == i).nonzero()[:, 0].tolist()) for i in range(shards)}
    assert found == slow_by_risk(risk.tolist(), shards)


def test_records_likely_to_go_are_in_small_shards():
    law = pareto(400)
    shard, chance = by_risk(law, 7), dealt(400, 7, generator(0, "shards"))

    def cost(shard):
        return sum(float(law[shard == i].sum()) * int((shard == i).sum()) for i in range(7))

    sizes = shard.bincount(minlength=7)
    assert sizes[shard[0]] < 10 < 100 < sizes[shard[-1]]
    assert cost(shard) < cost(chance) / 5


def test_risks_are_laws_over_places_or_classes():
    every = exponential(100)
    assert float(every.sum()) == pytest.approx(0.95)
    assert every[3] / every[2] == pytest.approx(math.exp(math.log(0.05) / 100))
    assert float(pareto(3)[1]) == pytest.approx(1.16 / 2**2.16)
    data = posed().sets.train
    layout = Dealing(2, 2, "class", None, (0.1, 0.2, 3.0)).lay_out(data, 0)
    risk = torch.tensor([0.1, 0.2, 3.0], dtype=torch.float64)[data.y]
    assert torch.equal(layout.shard, by_risk(risk, 2))
    with pytest.raises(ValueError, match="one for each class"):
        Dealing(2, 2, "class", None, (0.0, 1.0)).lay_out(data, 0)
    with pytest.raises(ValueError, match="sharding='class'"):
        SISA(risks=(1.0,))
    with pytest.raises(ValueError, match="expected shape > 0"):
        SISA(shape=2.0)


def test_what_removals_cost_on_average_is_what_is_counted():
    records, shards, requests, draws = 1000, 10, 15, generator(0, "simulation")
    shard = dealt(records, shards, draws)
    at_once, one_by_one = [], []
    for _ in range(200):
        gone = torch.randperm(records, generator=draws)[:requests]
        hit = torch.isin(shard, shard[gone].unique())
        at_once.append(int(hit.sum()) - requests)
        left = torch.ones(records, dtype=torch.bool)
        points = 0
        for row in gone:
            left[row] = False
            points += int((left & (shard == shard[row])).sum())
        one_by_one.append(points)
    assert sum(at_once) / 200 == pytest.approx(batch(records, shards, requests), rel=0.02)
    assert sum(one_by_one) / 200 == pytest.approx(sequence(records, shards, requests), rel=0.001)


def test_replacing_leaves_a_sample_of_what_is_left():
    draws = generator(0, "bootstrap")
    rows = torch.arange(10, 30)
    counts = torch.zeros(40)
    for _ in range(500):
        sample = bootstrap(rows, draws)
        gone = sample < 15
        after = replaced(sample, gone, rows[rows >= 15], draws)
        assert torch.equal(after[~gone], sample[~gone])
        counts += after.bincount(minlength=40)
    assert counts[:15].sum() == counts[30:].sum() == 0
    expected = 500 * 20 / 15
    assert float(((counts[15:30] - expected) ** 2 / expected).sum()) < 36.1  # 0.1 % of chi², 14


CONVEX = Descent(lr=0.05, epochs=60, batch_size=80, momentum=0.0, weight_decay=0.5)


def by_hand(state, x, y, steps):
    """Descend the mean cross-entropy with decay, in double precision."""
    w, b = (state[k].double() for k in ("2.weight", "2.bias"))
    for _ in range(steps):
        error = (x @ w.T + b).softmax(-1) - F.one_hot(y, 3)
        w, b = (
            w - 0.05 * (error.T @ x / len(x) + 0.5 * w),
            b - 0.05 * (error.mean(0) + 0.5 * b),
        )
    return w, b


def test_the_convex_noise_is_the_papers_and_the_rest_is_descent():
    problem, method = posed(CONVEX), SISADP(shards=2, slices=1, epochs=3, noise="convex")
    data = problem.sets.train
    original, trace = method.train(problem.recipe, data, 0)
    row = torch.tensor([int(trace["sample/1"].mode().values)])
    assert int(trace["shard"][row]) == 1
    request = dataclasses.replace(without(problem, row), trace=trace)
    done = method(original, request, seed=4)
    assert same(done.model.members[0], original.members[0])

    bound = float((1 + data.x.double().square().sum(1)).sqrt().max())
    lipschitz, smooth, convex = 2 * math.sqrt(2) * bound, 0.5 + bound**2 / 2, 0.5
    assert CONVEX.lr <= 2 / (smooth + convex)
    gamma, places = 1 - 0.05 * convex, int((trace["sample/1"] == row).sum())
    spent = math.sqrt(math.log(40**2) + 16) - math.sqrt(math.log(40**2))
    sigma = 4 * math.sqrt(2) * lipschitz * gamma**3 / (convex * 40 * (1 - gamma**3) * spent)
    assert done.notes["noise"] == "convex"
    assert places > 1
    assert done.notes["deviations"] == pytest.approx([places * sigma])

    left = ((trace["shard"] == 1) & (torch.arange(80) != row)).nonzero()[:, 0]
    gone = trace["sample/1"] == row
    sample = replaced(trace["sample/1"], gone, left, generator(4, "sample", 1))
    secret = {k.removeprefix("secret/1/"): v for k, v in trace.items() if "secret/1" in k}
    w, b = by_hand(secret, data.x[sample].double(), data.y[sample], 3)
    draws = generator(4, "noise of a removal", 1)
    for found, expected in zip(done.model.members[1].parameters(), (w, b), strict=True):
        noise = places * sigma * torch.randn(expected.shape, generator=draws)
        torch.testing.assert_close(found.double(), expected + noise, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "settings", "why"),
    [
        ({"weight_decay": 0.0}, {}, "weight decay"),
        ({"momentum": 0.9}, {}, "plain gradient descent"),
        ({"schedule": "cosine"}, {}, "rate changes"),
        ({"batch_size": 8}, {}, "a step is not on all 40"),
        ({"lr": 5.0}, {}, "rate of at most"),
        ({}, {"slices": 2}, "slices=1"),
        ({}, {"epochs": 60}, "train for longer"),
        ({}, {"noise": "heuristic"}, "asked for"),
    ],
)
def test_where_the_formula_does_not_hold_the_heuristic_says_so(changes, settings, why):
    problem = posed(dataclasses.replace(CONVEX, **changes))
    method = SISADP(**{"shards": 2, "slices": 1, "epochs": 3, "clip": 0.02, **settings})
    original, trace = method.train(problem.recipe, problem.sets.train, 0)
    done = method(original, dataclasses.replace(problem.request, trace=trace), seed=0)
    assert done.notes["noise"] == "heuristic"
    assert why in done.notes["why not convex"]
    assert done.notes["deviations"] == pytest.approx(
        [
            d2d.analytic_gaussian(16.0, 1 / 40**2, min(moved, 0.02))
            for moved in done.notes["update norms"]
        ]
    )
    if why != "asked for":
        with pytest.raises(ValueError, match=why):
            dataclasses.replace(method, noise="convex").train(problem.recipe, problem.sets.train, 0)


def test_a_network_whose_sample_never_held_the_record_is_published_as_it_was():
    problem, method = posed(CONVEX), SISADP(shards=2, slices=1, epochs=3)
    original, trace = method.train(problem.recipe, problem.sets.train, 0)
    drawn = torch.cat([trace["sample/0"], trace["sample/1"]])
    missed = torch.tensor([row for row in range(80) if row not in drawn])[:1]
    assert len(missed)
    done = method(original, dataclasses.replace(without(problem, missed), trace=trace), seed=0)
    assert same(done.model, original)
    assert done.cost.backward == 0
    assert 0 < method.work(Sizes.of(problem.request)).backward == 3 * 80


def only_in(trace, slices, low, high):
    """Return a record, and its shard, of which all places in the sample are in these slices."""
    for number in range(2):
        sample = trace[f"sample/{number}"]
        own = slice_of(len(sample), slices)
        for row in sample.unique().tolist():
            places = own[sample == row]
            if low <= int(places.min()) and int(places.max()) < high:
                return torch.tensor([row]), number
    raise AssertionError("no such record; take another seed")


def test_a_removal_of_few_epochs_has_them_on_the_last_slice():
    problem = posed(dataclasses.replace(SHORT, epochs=15))
    method = SISADP(shards=2, slices=10, epochs=1)
    assert epochs_by_slice(1, 10)[6:] == [0] * 4
    original, trace = method.train(problem.recipe, problem.sets.train, 0)
    row, number = only_in(trace, 10, 8, 9)
    assert epochs_by_slice(15, 10)[8] == 3
    done = method(original, dataclasses.replace(without(problem, row), trace=trace), seed=0)
    assert not same(done.model.members[number], original.members[number])
    assert same(done.model.members[1 - number], original.members[1 - number])
    assert len(done.notes["deviations"]) == len(done.notes["update norms"]) == 1
    assert done.notes["update norms"][0] > 0
    assert done.cost.backward == 40  # the whole sample, once
    worst = method.work(Sizes.of(problem.request))
    assert worst == Cost(forward=80, backward=80)


def test_a_network_trained_on_the_record_is_never_published_as_it_was():
    problem = posed(dataclasses.replace(SHORT, lr=0.0))
    method = SISADP(shards=2, slices=2)
    original, trace = method.train(problem.recipe, problem.sets.train, 0)
    row, number = only_in(trace, 2, 0, 2)
    done = method(original, dataclasses.replace(without(problem, row), trace=trace), seed=1)
    # Nothing moved, which is no reason for less noise than training's.
    expected = d2d.analytic_gaussian(16.0, 1 / 40**2, method.clip)
    assert done.notes["update norms"][0] == 0
    assert done.notes["deviations"][0] == pytest.approx(expected)
    assert not same(done.model.members[number], original.members[number])


def test_what_comes_after_the_last_run_was_never_trained_on():
    problem, method = posed(dataclasses.replace(SHORT, epochs=1)), SISADP(shards=2, slices=10)
    original, trace = method.train(problem.recipe, problem.sets.train, 0)
    row, _ = only_in(trace, 10, 6, 10)
    done = method(original, dataclasses.replace(without(problem, row), trace=trace), seed=0)
    assert same(done.model, original)
    assert done.cost.backward == 0


def test_a_removal_without_epochs_is_refused():
    with pytest.raises(ValueError, match=r"epochs >= 1, got .* and 0"):
        SISADP(epochs=0)


@pytest.mark.parametrize(("epsilon", "delta"), [(0.1, 1e-3), (1.0, 1e-5), (16.0, 1e-4)])
def test_the_analytic_gaussian_by_quadrature(epsilon, delta):
    sigma = d2d.analytic_gaussian(epsilon, delta, 3.0)

    def excess(sigma):
        def gap(x):
            return max(0.0, norm.pdf(x, 3, sigma) - math.exp(epsilon) * norm.pdf(x, 0, sigma))

        cross = 1.5 + epsilon * sigma**2 / 3  # where the densities' ratio is e^epsilon
        return integrate.quad(gap, cross, cross + 40 * sigma, epsabs=1e-14, limit=200)[0]

    assert excess(sigma) == pytest.approx(delta, rel=1e-5)
    assert excess(0.99 * sigma) > delta
    if epsilon <= 1:  # where the classical rule holds it is looser
        assert sigma < 3 * math.sqrt(2 * math.log(1.25 / delta)) / epsilon


def test_the_constants_bound_gradients_and_curvature():
    draws = generator(0, "constants")
    x = torch.cat([torch.randn(6, 4, generator=draws), torch.ones(6, 1)], 1).double()
    y, decay = torch.arange(6) % 3, 0.3
    bound = float(x.norm(dim=1).max())
    constants = d2d.softmax_regression(bound, decay)
    radius = math.sqrt(2) * bound / decay
    for _ in range(20):
        theta = torch.randn(15, generator=draws).double()
        theta *= radius * float(torch.rand(1, generator=draws)) / theta.norm()
        for record, answer in zip(x, y, strict=True):

            def loss(theta, record=record, answer=answer):
                own = F.cross_entropy(theta.view(3, 5) @ record, answer)
                return own + decay / 2 * theta.square().sum()

            assert torch.func.grad(loss)(theta).norm() <= constants.lipschitz
            curvature = torch.linalg.eigvalsh(torch.func.hessian(loss)(theta))
            assert constants.convex - 1e-9 <= curvature.min()
            assert curvature.max() <= constants.smooth + 1e-9


def test_steps_contract_as_foreseen_and_training_gets_near_enough():
    constants = d2d.Constants(lipschitz=2.0, smooth=4.0, convex=0.5)
    assert d2d.contraction(constants, 2 / 4.5) == pytest.approx((4.0 - 0.5) / (4.0 + 0.5))
    with pytest.raises(ValueError, match="at most"):
        d2d.contraction(constants, 0.5)
    factor, records, steps = d2d.contraction(constants, 0.1), 50, 5
    before = d2d.steps_before(factor, records, steps)
    reached = factor**before * constants.lipschitz / constants.convex
    allowed = 2 * 2.0 * factor**steps / (0.5 * records * (1 - factor**steps))
    assert reached == pytest.approx(allowed)


def test_the_cost_that_is_foreseen_is_the_most_there_can_be():
    problem, method = posed(), SISA(shards=2, slices=4)
    sizes = Sizes.of(problem.request)
    assert method.work(sizes) == Cost(forward=400, backward=400)  # 2 epochs of 20, 40, 60 and 80
    with metered() as bill:
        method.train(problem.recipe, problem.sets.train, 0)
    assert bill.cost.backward == 400
