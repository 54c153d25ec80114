"""The challenge's score against its rules written out in exact arithmetic, and closed forms."""

import copy
import dataclasses
import logging
import math
from fractions import Fraction
from functools import cache
from pathlib import Path
from statistics import median

import pytest
import torch
from scipy.stats import binomtest

from expunge.api import problem as pose
from expunge.audit import Case
from expunge.audits.forgetting_quality import ForgettingQuality
from expunge.bench import run, stages
from expunge.bench.problem import Problem, Training
from expunge.bench.spec import parse
from expunge.bench.store import Store
from expunge.core.descent import Diverged, train
from expunge.core.epsilon import floored, forgetting_quality
from expunge.core.rng import generator
from expunge.lab import Lab, Needs, Repeat
from expunge.methods.finetune import Finetune
from expunge.subject import Refused, WhiteBox
from expunge.types import Descent


def normal(n, s, seed, shift=0.0, spread=1.0):
    return shift + spread * torch.randn(n, s, generator=generator(seed), dtype=torch.double)


# the rules, literally


def steps(low, high, count):
    """Return `count` exact numbers from `low` to `high`."""
    return [low + (high - low) * Fraction(i, count - 1) for i in range(count)]


@cache
def upper(errors, n):
    """Return the upper end of the exact 95 % interval of a rate, by scipy."""
    return binomtest(errors, n).proportion_ci(0.95, "exact").high


def epsilon_of(wrong_u, n_u, wrong_r, n_r, delta, mode):
    """Return epsilon of one rule; None where it is passed over."""
    if mode == "bounded":
        first, second = upper(wrong_u, n_u), upper(wrong_r, n_r)
    else:
        if wrong_u == wrong_r == 0:
            return math.inf
        if 0 in (wrong_u, wrong_r):
            return None
        first, second = wrong_u / n_u, wrong_r / n_r
    branches = [
        math.log((1 - delta - a) / b)
        for a, b in ((first, second), (second, first))
        if 1 - a > delta
    ]
    return max([0.0, *branches])


def literal(unlearned, retrained, *, delta, grid, buffer, mode):
    """Try every rule on every model, one by one."""
    u, r = ([Fraction(c) for c in side] for side in (unlearned, retrained))
    width_u, width_r = max(u) - min(u), max(r) - min(r)
    if min(width_u, width_r) < Fraction(1, 100) * max(width_u, width_r):
        return 50.0
    rules = []  # each says whether a confidence is an unlearned model's
    positive_u = median(u) > median(r)
    low, high = min(u + r), max(u + r)
    for t in steps(low, high, math.ceil(grid * (high - low))):
        rules.append(lambda c, t=t: (c >= t) == positive_u)
    narrow_u = width_u < width_r
    narrow, width = (u, width_u) if narrow_u else (r, width_r)
    ends = math.ceil(2 * grid * buffer)
    for right in steps(max(narrow) - buffer, max(narrow) + buffer, ends):
        for left in steps(right - width - buffer, right - width + buffer, ends):
            rules.append(lambda c, a=left, b=right: (a <= c <= b) == narrow_u)
    found = []
    for rule in rules:
        wrong_u, wrong_r = sum(not rule(c) for c in u), sum(rule(c) for c in r)
        found.append(epsilon_of(wrong_u, len(u), wrong_r, len(r), delta, mode))
    told = [epsilon for epsilon in found if epsilon is not None]
    return min(max(told, default=0.0), 50.0)


@pytest.mark.parametrize("mode", ["challenge", "bounded"])
@pytest.mark.parametrize(
    ("n", "m", "shift", "spread", "grid"),
    [(6, 6, 0.0, 1.0, 6), (5, 9, 0.7, 0.5, 6), (9, 4, -0.4, 2.0, 7), (7, 7, 3.0, 0.9, 5)],
)
def test_epsilon_is_that_of_the_rules_tried_one_by_one(n, m, shift, spread, grid, mode):
    u, r = normal(n, 5, 1, shift, spread), normal(m, 5, 2)
    ours = forgetting_quality(u, r, delta=1e-3, grid=grid, buffer=0.75, mode=mode)
    expected = [
        literal(
            u[:, s].tolist(),
            r[:, s].tolist(),
            delta=1e-3,
            grid=grid,
            buffer=Fraction(3, 4),
            mode=mode,
        )
        for s in range(5)
    ]
    assert ours.epsilon.tolist() == pytest.approx(expected, rel=1e-9)


def test_numbers_that_lie_on_the_grid_are_inside():
    # Intervals of both odd and even numbers of ends, and samples on whole numbers.
    for grid in (2, 3):
        u, r = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[1.0], [2.0], [3.0], [4.0]])
        ours = forgetting_quality(u, r, grid=grid, buffer=0.5).epsilon.item()
        expected = literal(
            [0, 1, 2], [1, 2, 3, 4], delta=1e-5, grid=grid, buffer=Fraction(1, 2), mode="challenge"
        )
        assert ours == pytest.approx(expected)


# what is known of it


@pytest.mark.parametrize("n", [16, 64])
def test_equal_distributions_score_a_fifth_and_not_one(n):
    assert 0.13 < forgetting_quality(normal(n, 80, 1), normal(n, 80, 2)).score < 0.25


def test_disjoint_distributions_score_nothing():
    found = forgetting_quality(normal(20, 4, 1), normal(20, 4, 2, shift=30.0))
    assert found.score == 0
    assert found.epsilon.tolist() == [50.0] * 4


def test_a_constant_column_is_collapsed():
    constant, varied = torch.full((8, 3), 1.5), normal(8, 3, 1)
    for pair in ((constant, varied), (varied, constant), (constant, constant)):
        found = forgetting_quality(*pair)
        assert found.epsilon.tolist() == [50.0] * 3
        assert found.score == 0


@pytest.mark.parametrize("mode", ["challenge", "bounded"])
def test_the_sides_may_be_swapped(mode):
    u, r = normal(12, 20, 1, spread=0.8), normal(9, 20, 2, shift=0.3)
    one, other = (forgetting_quality(*pair, mode=mode) for pair in ((u, r), (r, u)))
    assert torch.equal(one.epsilon, other.epsilon)
    assert one.score == other.score


def test_a_wider_gap_scores_less():
    scores = [forgetting_quality(normal(40, 25, 1, s), normal(40, 25, 2)).score for s in (0, 1, 2)]
    assert scores == sorted(scores, reverse=True)


def test_each_bin_counts_half_of_the_one_below():
    found = forgetting_quality(normal(30, 60, 1), normal(30, 60, 2, shift=0.5))
    for epsilon, part in zip(found.epsilon.tolist(), found.parts.tolist(), strict=True):
        expected = 2 / 2 ** (1 + math.floor(epsilon / 0.5))
        assert part == (expected if epsilon < math.ceil(math.log(29)) else 0)
    assert len(found.parts.unique()) > 2
    assert found.score == pytest.approx(float(found.parts.mean()))


def test_bounds_of_models_that_nothing_confuses_are_those_of_no_error_in_n():
    n, delta = 40, 1e-5
    upper = 1 - 0.025 ** (1 / n)  # Clopper and Pearson where there are no successes
    found = forgetting_quality(normal(n, 3, 1), normal(n, 3, 2, shift=30.0), mode="bounded")
    expected = math.log((1 - delta - upper) / upper)
    assert found.epsilon.tolist() == pytest.approx([expected] * 3)


def test_bounded_rates_are_not_taken_in_by_chance():
    u, r = normal(64, 25, 1), normal(64, 25, 2)
    assert forgetting_quality(u, r, mode="bounded").score > 0.95
    assert forgetting_quality(u, r).score < 0.25


def test_floored_confidence_is_the_scorers_formula():
    p = torch.tensor([1e-300, 1e-44, 1e-3, 0.5, 0.9], dtype=torch.double)
    expected = (p + 1e-45).log() - (1 - p + 1e-45).log()
    torch.testing.assert_close(floored(p.log() - torch.log1p(-p)), expected)
    assert floored(torch.tensor(float("inf"))) == pytest.approx(-math.log(1e-45))


def test_a_record_of_which_no_rule_speaks_is_told(caplog):
    with caplog.at_level(logging.WARNING):
        found = forgetting_quality(
            torch.tensor([[0.0], [0.004]]), torch.tensor([[0.002], [0.3]]), grid=3, buffer=0.3
        )
    assert found.epsilon.item() == 0
    assert "take more than 2 and 2 models" in caplog.text


@pytest.mark.parametrize(
    ("u", "r", "said"),
    [
        (torch.zeros(1, 3), torch.zeros(4, 3), "at least 2 unlearned models"),
        (torch.zeros(4, 3), torch.zeros(1, 3), "at least 2 retrained models"),
        (torch.zeros(4, 0), torch.zeros(4, 0), "at least 1 record, got 4 on 0"),
        (torch.full((4, 3), torch.nan), torch.zeros(4, 3), "12 confidences of unlearned"),
    ],
)
def test_what_cannot_be_scored_is_refused(u, r, said):
    with pytest.raises(ValueError, match=said):
        forgetting_quality(u, r)


# the audit


N = 4


@pytest.fixture(scope="module")
def problem() -> Problem:
    training = Training(descent=Descent(lr=0.1, epochs=3, batch_size=20))
    return pose({"name": "blobs", "train": 60}, "linear", range(12), training=training)


@pytest.fixture(scope="module")
def case(problem) -> Case:
    request, original = problem.request, problem.train(0)

    def finetune(number):
        """A method that forgets nothing and is a little different each time."""
        net = copy.deepcopy(original)
        with torch.no_grad():
            for p in net.parameters():
                p.add_(0.02 * torch.randn(p.shape, generator=generator(number, "noise")))
        return net

    return Case(
        original=WhiteBox(original),
        unlearned=WhiteBox(finetune(0)),
        retrained=tuple(WhiteBox(train(request.recipe, request.retain, 50 + i)) for i in range(2)),
        request=request,
        test=problem.test,
        lab=Lab(request=request, seed=3, unlearn=Repeat("noise", finetune)),
    )


def logits(net, data):
    with torch.no_grad():
        return net(data.take(torch.arange(len(data))).x).double()


def odds(net, data):
    p = logits(net, data).softmax(-1).gather(1, data.y[:, None])[:, 0]
    return p.log() - (1 - p).log()


def right(net, data):
    return float((logits(net, data).argmax(1) == data.y).double().mean())


def test_the_audit_is_the_score_of_models_made_by_hand(case):
    audit, lab, request = ForgettingQuality(models=N), case.lab, case.request
    answer = audit(case, seed=0).unlearned
    unlearned = [case.unlearned.model, *(lab.unlearn.run(i) for i in range(1, N))]
    retrained = [train(*lab.order("retrained", i)) for i in range(N)]
    columns = [torch.stack([odds(m, request.forget) for m in g]) for g in (unlearned, retrained)]
    expected = forgetting_quality(*columns)
    assert answer.headline == pytest.approx(expected.score)
    torch.testing.assert_close(answer.arrays["epsilon"], expected.epsilon, rtol=1e-6, atol=1e-9)
    ratios = [
        sum(right(m, data) for m in unlearned) / sum(right(m, data) for m in retrained)
        for data in (request.retain, case.test)
    ]
    values = answer.values
    assert [values["retain_ratio"], values["test_ratio"]] == pytest.approx(ratios)
    assert values["score"] == pytest.approx(expected.score * math.prod(ratios))
    assert values["of_floor"] == pytest.approx(expected.score / values["floor"])


def test_the_floor_is_printed_with_and_without_controls(case):
    audit = ForgettingQuality(models=N)
    for asked in (case, dataclasses.replace(case, retrained=())):
        finding = audit(asked, seed=0)
        floor = finding.unlearned.values["floor"]
        assert floor > 0
        assert finding.original.headline == 0  # one model is a point
        assert finding.record()["unlearned"]["values"]["floor"] == floor
    assert f"{floor:.3f} [" in str(finding)


def test_controls_are_groups_of_their_own(case):
    audit = ForgettingQuality(models=N)
    pairs = [audit.ensemble(case.without(i), 0).of(model) for i, model in enumerate(case.retrained)]
    for (group, reference), model in zip(pairs, case.retrained, strict=True):
        assert len(group["confidence"]) == len(reference["confidence"]) == N
        torch.testing.assert_close(
            group["confidence"][0], odds(model.model, case.request.forget), rtol=1e-5, atol=1e-6
        )
        rows = torch.cat([group["confidence"], reference["confidence"]])
        assert len(rows.unique(dim=0)) == 2 * N
    assert not torch.equal(pairs[0][1]["confidence"], pairs[1][1]["confidence"])


def test_a_control_from_the_labs_own_models_is_in_no_group_twice(case):
    own = case.lab.retrained(1)
    asked = dataclasses.replace(case, retrained=own)
    group, reference = ForgettingQuality(models=N).ensemble(asked.without(0), 0).of(own[0])
    rows = torch.cat([group["confidence"], reference["confidence"]])
    assert len(rows.unique(dim=0)) == 2 * N


def test_models_are_made_once_and_not_kept(case):
    made = []

    def count(orders):
        for order in orders:
            made.append(order.seed)
            yield train(*order)

    lab = Lab(request=case.request, seed=9, train=count, unlearn=case.lab.unlearn)
    ForgettingQuality(models=2, halvings=2)(dataclasses.replace(case, lab=lab), seed=0)
    assert len(made) == len(set(made)) == 4
    assert not lab.made


def test_it_says_how_many_models_it_takes(case):
    audit = ForgettingQuality(models=32)
    assert audit.needs == Needs(unlearned=31, retrained=64)
    for lab in (None, Lab(request=case.request, seed=0)):
        with pytest.raises(Refused, match=r"needs 31 more models .* and 64 retrained models"):
            audit(dataclasses.replace(case, lab=lab), seed=0)
    with pytest.raises(ValueError, match="at least 2 models, since one shows no distribution"):
        ForgettingQuality(models=1)


def test_a_repeat_that_diverged_is_told(case):
    def ruined(_):
        net = copy.deepcopy(case.unlearned.model)
        for p in net.parameters():
            p.data.fill_(torch.nan)
        return net

    lab = Lab(request=case.request, seed=3, unlearn=Repeat("ruin", ruined))
    with pytest.raises(Diverged, match="model 1 of a group"):
        ForgettingQuality(models=2)(dataclasses.replace(case, lab=lab), seed=0)


def test_a_run_unlearns_again_from_the_same_original(tmp_path: Path):
    spec = parse(
        {
            "name": "toy",
            "data": [{"name": "blobs", "train": 60}],
            "models": [{"name": "mlp", "hidden": [8]}],
            "forget": [{"name": "random", "count": 12}],
            "training": {"descent": {"lr": 0.05, "epochs": 2}},
            "methods": [{"name": "finetune", "descent": {"epochs": 1}}],
            "audits": [{"name": "forgetting_quality", "models": 3, "halvings": 2}],
        }
    )
    (cell,) = run.expand(spec)
    wanted = [stage.what for stage in run.order([cell])]
    assert wanted.count("original, seed 0") == 1
    assert [w for w in wanted if "run" in w] == [
        "finetune, seed 0, run 1",
        "finetune, seed 0, run 2",
    ]
    assert sum("retrained model" in w for w in wanted) == 6

    store, heard = Store(tmp_path / "store"), []
    (record,) = run.run(spec, tmp_path / "out", store, listen=lambda e: heard.append(e.kind))
    assert record["status"] == "done"
    assert record["findings"][0]["unlearned"]["values"]["floor"] is not None
    assert heard.count("done") == len(wanted)
    first, second = (
        store.get(stage.kind, stage.key)
        for stage in (
            stages.unlearned(cell.problem, cell.method, 0),
            stages.unlearned(cell.problem, cell.method, 0, 1),
        )
    )
    assert any(not torch.equal(first.tensors[k], second.tensors[k]) for k in first.tensors)
    again = run.run(spec, tmp_path / "again", store)
    assert again[0]["findings"] == record["findings"]


def test_the_key_of_the_first_run_is_what_it_was(problem):
    first, third = (stages.unlearned(problem, Finetune(), 0, n) for n in (0, 2))
    assert "number" not in first.about
    assert third.about == first.about | {"number": 2}
