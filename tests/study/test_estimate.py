"""Intervals of few models and few seeds, against scipy's and against simulations."""

import numpy as np
import pytest
from scipy import stats

from expunge.study.estimate import counted, fraction, over_models, student, welch


def reach(values) -> float:
    low, high = stats.t.interval(0.95, len(values) - 1, loc=0.0, scale=stats.sem(values))
    return (high - low) / 2


def crossed(numbers: np.ndarray) -> list[dict[int, float]]:
    """Return the numbers of models (rows) by seed (columns)."""
    return [dict(enumerate(row)) for row in numbers.tolist()]


def test_welchs_interval_is_scipys() -> None:
    first, others = [0.50, 0.52, 0.53, 0.55], [0.53, 0.51, 0.40]
    theirs = stats.ttest_ind(first, others, equal_var=False).confidence_interval(0.95)
    got = welch(first, others, "models")
    assert got.value == pytest.approx(np.mean(first) - np.mean(others))
    assert (got.low, got.high) == pytest.approx((theirs.low, theirs.high))
    assert (got.basis, got.n) == ("models", 7)


def test_one_number_beside_a_sample_counts_as_known() -> None:
    models = [0.53, 0.51, 0.40]
    got, alone = welch([0.6], models, "models"), student(models, "models")
    assert (got.low, got.high) == pytest.approx((0.6 - alone.high, 0.6 - alone.low))
    assert welch([0.6], [0.5], "models").low is None
    assert welch([0.6, 0.6], [0.5, 0.5], "models").low is None


def test_models_that_seeds_share_are_few_however_many_seeds_there_are() -> None:
    numbers = np.array([[0.1, 0.3, 0.2, 0.15], [0.5, 0.6, 0.65, 0.4], [0.2, 0.3, 0.35, 0.1]])
    got = over_models(crossed(numbers))
    width = np.hypot(reach(numbers.mean(1)), reach(numbers.mean(0)))
    assert got.value == pytest.approx(numbers.mean())
    assert (got.low, got.high) == pytest.approx((numbers.mean() - width, numbers.mean() + width))
    assert (got.basis, got.n) == ("models", 3)


def test_models_of_which_seeds_say_the_same_count_once() -> None:
    models = [0.53, 0.51, 0.40]
    got, once = over_models([{s: v for s in range(5)} for v in models]), student(models, "models")
    assert (got.value, got.low, got.high) == pytest.approx((once.value, once.low, once.high))
    assert (got.basis, got.n) == ("models", 3)


def test_models_of_one_seed_each_belong_together() -> None:
    told = [{0: 0.1}, {0: 0.3}, {1: 0.4}, {1: 0.5}, {2: 0.2}, {2: 0.9}]
    assert over_models(told) == student([0.2, 0.45, 0.55], "seeds")
    agreeing = [{0: 0.1}, {0: 0.3}, {1: 0.3}, {1: 0.1}]
    assert over_models(agreeing) == student([0.1, 0.3, 0.3, 0.1], "models")


def test_models_that_are_missing_leave_the_rest() -> None:
    assert over_models([]) is None
    assert over_models([{}, {}]) is None
    assert over_models([{}, {0: 0.5}]).low is None
    # One model says nothing of others.
    assert over_models([{0: 0.5, 1: 0.7}]).basis == "seeds"
    lacking = over_models([{0: 0.1, 1: 0.3}, {0: 0.5}, {1: 0.3}])
    assert lacking.value == pytest.approx((0.2 + 0.5 + 0.3) / 3)


@pytest.mark.parametrize(("models", "seeds"), [(2, 3), (3, 3), (5, 2)])
@pytest.mark.parametrize(
    ("by_model", "by_seed", "by_both"), [(1, 0.1, 0.3), (0.3, 1, 0.3), (1, 1, 0)]
)
def test_a_crossed_interval_holds_the_truth(models, seeds, by_model, by_seed, by_both) -> None:
    rng, draws = np.random.default_rng(0), 1000
    numbers = (
        by_model * rng.normal(size=(draws, models, 1))
        + by_seed * rng.normal(size=(draws, 1, seeds))
        + by_both * rng.normal(size=(draws, models, seeds))
    )
    told = [over_models(crossed(each)) for each in numbers]
    held = np.mean([e.low <= 0 <= e.high for e in told])
    assert held > 0.95 - 3 * np.sqrt(0.95 * 0.05 / draws)


def test_a_count_has_the_exact_interval_and_a_fraction_stays_one() -> None:
    got, theirs = counted(3, 7), stats.binomtest(3, 7).proportion_ci(0.95, "exact")
    assert (got.value, got.basis) == (3 / 7, "records")
    assert (got.low, got.high) == pytest.approx((theirs.low, theirs.high))
    wide = fraction(student([0.1, 0.9], "seeds"))
    assert (wide.low, wide.high) == (0.0, 1.0)
    assert fraction(student([0.4], "seeds")).low is None
