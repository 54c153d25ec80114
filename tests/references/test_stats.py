"""Every statistic against another library, a formula, or a simulation."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, t
from sklearn.metrics import roc_auc_score, roc_curve

from expunge import stats
from expunge.core.rng import generator


@pytest.fixture
def scores():
    rng = generator(0)
    members = torch.randn(80, generator=rng).round(decimals=1) + 0.4
    return members, torch.randn(60, generator=rng).round(decimals=1)


def test_auc_is_sklearns_with_ties(scores):
    truth = roc_auc_score([1] * 80 + [0] * 60, torch.cat(scores).numpy())
    assert float(stats.auc(*scores)) == pytest.approx(truth, abs=1e-12)


def test_auc_at_its_bounds_and_its_symmetry(scores):
    low, high = torch.arange(5.0), torch.arange(5.0) + 10
    assert stats.auc(high, low) == 1
    assert stats.auc(low, high) == 0
    assert stats.auc(low, low) == 0.5
    assert float(stats.auc(*scores)) == pytest.approx(
        1 - float(stats.auc(scores[1], scores[0])), abs=1e-12
    )


def test_roc_lies_on_sklearns_curve_and_keeps_its_ends(scores):
    fpr, tpr = stats.roc(*scores)
    their_fpr, their_tpr, _ = roc_curve(
        [1] * 80 + [0] * 60, torch.cat(scores).numpy(), drop_intermediate=False
    )
    theirs = set(zip(their_fpr.round(9), their_tpr.round(9), strict=True))
    ours = set(zip(fpr.numpy().round(9), tpr.numpy().round(9), strict=True))
    assert ours <= theirs
    assert (fpr[0], tpr[0]) == (0, 0)
    assert (fpr[-1], tpr[-1]) == (1, 1)
    assert (fpr.diff() >= 0).all()


def test_roc_of_few_thresholds_is_whole():
    fpr, tpr = stats.roc(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 2.0]))
    assert {(f, t) for f, t in zip(fpr.tolist(), tpr.tolist(), strict=True)} >= {
        (0.0, 0.5),
        (0.5, 1.0),
    }


def test_tpr_at_fpr_counts_by_hand():
    members, others = torch.tensor([5.0, 3.5, 2.5, 0.0]), torch.arange(4.0)
    assert stats.tpr_at(members, others, 0.0) == 0.5  # above 3
    assert stats.tpr_at(members, others, 0.25) == 0.75  # above 2
    assert stats.tpr_at(others, others, 0.01) == 0


def test_chance_interval_of_auc_covers_what_chance_gives():
    rng = generator(1)
    sizes = [(20, 30)] * 3
    chance = stats.auc_by_chance(sizes)
    trials = []
    for _ in range(600):
        aucs = [
            float(stats.auc(torch.randn(m, generator=rng), torch.randn(n, generator=rng)))
            for m, n in sizes
        ]
        trials.append(sum(aucs) / 3)
    outside = np.mean([chance.excludes(value) for value in trials])
    assert 0.02 < outside < 0.09


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10), (57, 200)])
def test_proportion_is_scipys_exact_interval(k, n):
    truth = binomtest(k, n).proportion_ci(method="exact")
    got = stats.proportion(k, n)
    assert (got.low, got.high) == pytest.approx((truth.low, truth.high), abs=1e-9)


def test_spread_is_students_prediction_interval():
    values = [0.1, 0.4, 0.25]
    expected = t.ppf(0.975, 2) * np.std(values, ddof=1) * math.sqrt(1 + 1 / 3)
    assert stats.spread(values) == pytest.approx(expected)
    assert stats.spread([0.3]) is None


def test_p_of_an_interval_is_gauss_or_students_of_what_it_rests_on():
    assert stats.Interval(0.5, 0.3, 0.7).against(0.7) == pytest.approx(0.05)
    values = [0.2, 0.9, 0.6, 0.8]
    reach = stats.spread(values)
    cut = stats.Interval(0.625, 0.0, 1.0, reach, 4)
    assert cut.against(0.625 + reach) == pytest.approx(0.05)
    scale = np.std(values, ddof=1) * math.sqrt(1 + 1 / 4)
    assert cut.against(1.0) == pytest.approx(2 * t.sf(0.375 / scale, 3))


def test_bootstrap_of_a_mean_is_near_its_textbook_interval():
    values = torch.randn(400, generator=generator(2)).double()
    got = stats.bootstrap(stats.average, [values], draws=2000)["mean"]
    reach = 1.96 * values.std().item() / 20
    assert got.low == pytest.approx(got.value - reach, abs=0.02)
    assert got.high == pytest.approx(got.value + reach, abs=0.02)


def test_bootstrap_pairs_models_on_the_same_records():
    noise = torch.randn(100, generator=generator(3))
    both = torch.stack([noise + 1, noise])
    got = stats.bootstrap(lambda x: {"gap": (x[0] - x[1]).mean(-1)}, [both])["gap"]
    assert got.low == pytest.approx(1, abs=1e-6)
    assert got.high == pytest.approx(1, abs=1e-6)


def test_many_rows_at_once_are_each_row_alone(scores):
    members, others = (torch.stack([s, s.flip(0) + 0.1]) for s in scores)
    rows = [(members[i], others[i]) for i in range(2)]
    assert torch.equal(stats.auc(members, others), torch.stack([stats.auc(*r) for r in rows]))
    expected = torch.stack([stats.tpr_at(*r, 0.05) for r in rows])
    assert torch.equal(stats.tpr_at(members, others, 0.05), expected)


def test_bootstrap_does_not_depend_on_how_many_are_drawn_at_once(monkeypatch):
    values = torch.randn(50, generator=generator(4)).double()
    whole = stats.bootstrap(stats.average, [values])
    monkeypatch.setattr(stats, "HELD", 50 * 7)
    assert stats.bootstrap(stats.average, [values])["mean"] == whole["mean"]
