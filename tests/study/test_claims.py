"""Claims: true in a made-up world where they are true, false where they are not."""

import math
from statistics import fmean

import numpy as np
import pytest
from scipy import stats as scipy_stats

from expunge import stats
from expunge.study.claims import Claim, claims
from expunge.study.comparative import epochs_of, holds_study, studies
from expunge.study.statements import (
    Statement,
    about,
    above,
    all_hold,
    decided,
    holm,
    most_hold,
    varies_more,
)
from tests.report import compared

IDS = [f"S{i}" for i in range(1, 11)]


def found(**settings) -> dict[str, Claim]:
    (study,) = studies(compared.records(**settings))
    return {claim.id: claim for claim in claims(study)}


@pytest.fixture(scope="module")
def true() -> dict[str, Claim]:
    return found()


def test_the_claims_are_ten(true) -> None:
    assert list(true) == IDS


@pytest.mark.parametrize("number", IDS)
def test_a_claim_holds_where_it_is_true(true, number: str) -> None:
    claim = true[number]
    assert claim.verdict == "holds", [s for s in claim.statements if s.verdict != "holds"]
    assert all(s.test for s in claim.statements)


FALSE = {
    "S1": {"original": {"ratio": 1.0}},
    "S2": {"deviation": {"ratio": 1.0}},
    "S3": {"rotate": {"val": 0.70}},
    "S4": {"divergence": {"val": 0.80}},
    "S5": {"gradient_reset": {"val": 0.90}},
    "S7": {"pseudo_label": {"share": 0.6}},
    "S8": {"rotate": {"auc": 0.58}},
    "S9": {"pruning": {"ratio": 1.2}},
    "S10": {"finetune": {"ratio": 1.0, "auc": 0.5, "share": 0.05}},
}


@pytest.mark.parametrize("number", FALSE)
def test_a_claim_does_not_hold_where_it_is_false(number: str) -> None:
    assert found(change=FALSE[number])[number].verdict == "does not hold"


def test_five_epochs_are_not_nine_where_most_methods_go_on_improving(monkeypatch) -> None:
    truth = compared.truth

    def slower(method, epochs, target):
        mean, spread = truth(method, epochs, target)
        return mean | {"val": mean["val"] - 0.1 * (epochs == 5)}, spread

    monkeypatch.setattr(compared, "truth", slower)
    assert found()["S6"].verdict == "does not hold"


def test_one_repetition_resolves_nothing_and_says_why() -> None:
    for claim in found(repeats=1).values():
        assert claim.verdict == "cannot be resolved"
        assert all("too few" in s.missing or s.missing == "not run" for s in claim.statements)
        assert claim.n == 0


def test_without_retrained_models_nothing_is_about_equal() -> None:
    without = found(retrained=0)
    assert without["S1"].verdict == without["S6"].verdict == "cannot be resolved"
    assert "retrained" in without["S1"].statements[0].missing
    assert without["S5"].verdict == "holds", "it needs no margin"


def test_a_length_that_was_not_run_leaves_open_what_needs_it() -> None:
    short = found(lengths=(5, 9))
    assert short["S2"].verdict == short["S4"].verdict == "cannot be resolved"
    assert {s.missing for s in short["S2"].statements if "20 epochs" in s.what} == {"not run"}
    assert short["S1"].verdict == "holds"


def test_what_is_said_of_all_methods_is_not_tested_on_some() -> None:
    some = [r for r in compared.records() if r["method"]["name"] != "pruning"]
    (study,) = studies(some)
    best = next(c for c in claims(study) if c.id == "S10")
    assert best.statements[0].missing == "not run"


def test_the_margin_is_what_retraining_does(true) -> None:
    (study,) = studies(compared.records())
    ratios = [v["ratio"] for v in study.retrained["random"]]
    assert len(ratios) == 30, "three models of each of ten repetitions, each counted once"
    spread = stats.spread(ratios)
    assert study.chance("ratio", "random") == spread
    assert study.nearness("ratio", "random", 1.0) == abs(fmean(ratios) - 1) + spread
    told = next(s for s in true["S3"].statements if s.what.startswith("Rotate, 9"))
    assert f"margin {abs(fmean(ratios) - 1) + spread:.3g}" in told.what


def test_variants_do_not_bear_the_papers_name() -> None:
    records = compared.records(repeats=2, lengths=(9,), targets=("random",))
    models = {
        "original": compared.PAPER["original"],
        "retrained": [],
        "unlearned": compared.PAPER["deviation"],
    }
    other = compared.record("deviation", 9, "random", 0, models, {"layers": "all"})
    (study,) = studies([*records, other])
    assert [r.label for r in study.results if r.variant] == ["Deviation, all"]
    assert len(study.of("val", "random", "deviation", 9)) == 2


def test_the_winners_first_pass_is_an_epoch() -> None:
    models = {"original": {}, "retrained": [], "unlearned": compared.PAPER["divergence"]}
    models["original"] = compared.PAPER["original"]
    record = compared.record("divergence", 9, "random", 0, models)
    assert record["method"]["settings"]["descent"]["epochs"] == 8
    assert epochs_of(record) == 9
    assert epochs_of({"method": {"name": "rotate", "settings": {}}}) is None


def test_other_records_are_no_study() -> None:
    records = compared.records(repeats=1, lengths=(9,))
    plain = [r for r in records if r["method"]["name"] == "finetune"]
    assert holds_study(records)
    assert not holds_study(plain)
    assert studies(plain) == []


def test_a_record_of_a_failure_is_passed_over() -> None:
    records = compared.records(repeats=2, lengths=(9,))
    records[0] |= {"findings": [], "status": "diverged"}
    (study,) = studies(records)
    assert len(study.results) == len(records) - 1


# ---- the tests themselves, against other people's


VALUES = [0.3, -0.1, 0.5, 0.25, 0.4]


@pytest.mark.parametrize(("side", "alternative"), [("more", "greater"), ("less", "less")])
def test_a_mean_is_tested_as_scipy_does(side, alternative) -> None:
    ours = above("it", VALUES, 0.1, side)
    theirs = scipy_stats.ttest_1samp(VALUES, 0.1, alternative=alternative)
    assert ours.p == pytest.approx(theirs.pvalue)
    assert ours.contrary == pytest.approx(1 - theirs.pvalue)
    interval = scipy_stats.ttest_1samp(VALUES, 0).confidence_interval()
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high))


def test_about_equal_is_two_one_sided_tests() -> None:
    ours = about("it", VALUES, 0.6, ideal=0.2)
    under = scipy_stats.ttest_1samp(VALUES, 0.8, alternative="less").pvalue
    over = scipy_stats.ttest_1samp(VALUES, -0.4, alternative="greater").pvalue
    assert ours.p == pytest.approx(max(under, over))
    far = about("it", [v + 3 for v in VALUES], 0.6, ideal=0.2)
    beyond = scipy_stats.ttest_1samp([v + 3 for v in VALUES], 0.8, alternative="greater").pvalue
    assert far.contrary == pytest.approx(2 * beyond)
    near = about("it", [v - 3 for v in VALUES], 0.6, ideal=0.2)
    assert near.contrary is not None
    assert near.contrary < 0.05, "it is beyond the margin on the other side"


def test_larger_variance_is_pitmans_and_morgans_test() -> None:
    rng = np.random.default_rng(0)
    wide, narrow = (s * rng.normal(size=12) for s in (3.0, 1.0))
    r, p = scipy_stats.pearsonr(wide + narrow, wide - narrow, alternative="greater")
    ours = varies_more("it", wide.tolist(), narrow.tolist())
    assert ours.p == pytest.approx(p)
    assert ours.value == pytest.approx(math.log(wide.var(ddof=1) / narrow.var(ddof=1)))
    back = varies_more("it", narrow.tolist(), wide.tolist())
    assert back.p == pytest.approx(1 - p)
    assert r > 0


def test_holms_method_on_an_example_by_hand() -> None:
    # Sorted, the thresholds are 0.05/4, 0.05/3, 0.05/2 and 0.05: the third fails, and so the last.
    assert holm([0.01, 0.04, 0.03, 0.005]) == [True, False, False, True]
    assert holm([0.01, None, 0.03]) == [True, False, False]
    assert holm([0.001, 0.02, 0.04]) == [True, True, True]
    assert holm([]) == []


@pytest.mark.parametrize("values", [[], [0.5], [0.5, 0.5, 0.5]])
def test_too_few_numbers_or_no_spread_cannot_be_tested(values) -> None:
    for statement in (above("it", values), about("it", values, 1.0)):
        assert statement.missing
        assert statement.p is None
        assert decided([statement])[0].verdict == "cannot be resolved"
    assert varies_more("it", values, values).missing


def test_a_family_of_true_nulls_is_rarely_rejected() -> None:
    rng = np.random.default_rng(1)
    wrong = 0
    for _ in range(400):
        statements = [above(str(i), rng.normal(size=4).tolist()) for i in range(6)]
        wrong += any(s.verdict == "holds" for s in decided(statements))
    assert wrong <= 32, "5 % of 400 is 20; 32 is beyond 99 % of the binomial distribution"


def test_all_and_most() -> None:
    def said(*verdicts):
        return [Statement(what="it", test="none", verdict=v) for v in verdicts]

    yes, no, open_ = "holds", "does not hold", "cannot be resolved"
    assert all_hold(said(yes, yes)) == yes
    assert all_hold(said(yes, open_)) == open_
    assert all_hold(said(yes, open_, no)) == no
    assert all_hold([]) == open_
    assert most_hold(said(yes, yes, no)) == yes
    assert most_hold(said(yes, no)) == no
    assert most_hold(said(yes, yes, open_, open_)) == open_
    assert most_hold([]) == open_
