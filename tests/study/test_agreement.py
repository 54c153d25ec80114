import json
import random
from itertools import combinations as choose

import pytest

from expunge.cli import main
from expunge.study import agreement, consensus
from expunge.study.agreement import Flags, Jaccard, Model
from expunge.study.groups import group
from tests.report import flagged, made

TEN = tuple(range(10))


def flags(members, asked=TEN):
    return Flags(frozenset(asked), frozenset(members))


def model(asked=TEN, **members):
    return Model({audit: flags(each, asked) for audit, each in members.items()})


THREE = ("a", "b", "c")
FIRST = model(a=[0, 1, 2, 3], b=[2, 3, 4], c=[])
SECOND = model(a=[0, 1], b=[4, 5], c=[0])


# Jaccard's index.


def index(one, other):
    found = agreement.jaccard(one, other)
    assert found is not None
    return found.value


def test_the_index_is_the_share_of_either_that_is_in_both():
    assert index(flags([0, 1, 2, 3]), flags([2, 3, 4])) == pytest.approx(2 / 5)
    assert index(flags([1, 2]), flags([1, 2])) == 1.0
    assert agreement.jaccard(flags([1, 2]), flags([])) == (0.0, 0.0)
    assert agreement.jaccard(flags([]), flags([])) is None


def test_only_records_that_both_were_asked_about_count():
    part = flags([0, 9], asked=(0, 1, 9))
    assert index(flags([0, 1, 2, 3]), part) == pytest.approx(1 / 3)
    assert agreement.jaccard(flags([2, 3]), flags([], asked=(0, 1))) is None


@pytest.mark.parametrize(
    ("count", "one", "other"), [(6, 2, 3), (6, 0, 3), (5, 5, 5), (7, 5, 4), (1, 1, 0), (6, 6, 1)]
)
def test_chance_is_the_mean_over_every_pair_of_sets(count, one, other):
    values = [
        len(set(a) & set(b)) / len(set(a) | set(b))
        for a in choose(range(count), one)
        for b in choose(range(count), other)
    ]
    expected = sum(values) / len(values)
    assert agreement.by_chance(count, one, other) == pytest.approx(expected, rel=1e-12)
    assert agreement.by_chance(count, other, one) == pytest.approx(expected, rel=1e-12)


def test_two_random_tenths_share_a_nineteenth_of_what_they_flag():
    # Of n records n / 100 are in both and 19 n / 100 in either; the mean of ratios comes near.
    assert agreement.by_chance(100_000, 10_000, 10_000) == pytest.approx(1 / 19, rel=1e-3)


@pytest.mark.parametrize("sizes", [(5, 6, 1), (5, 0, 0), (5, -1, 2), (5, 1, 6)])
def test_sizes_that_cannot_be_are_refused(sizes):
    with pytest.raises(ValueError, match="at most 5 records"):
        agreement.by_chance(*sizes)


def test_an_index_comes_with_its_chance():
    assert agreement.jaccard(flags([0, 1]), flags([1, 2, 3])) == (
        pytest.approx(1 / 4),
        agreement.by_chance(10, 2, 3),
    )


def test_pairs_are_means_over_models_in_which_either_flags():
    shared = agreement.pairs([FIRST, SECOND], THREE)
    assert shared["a", "b"].value == pytest.approx((2 / 5 + 0) / 2)
    assert shared["a", "c"].value == pytest.approx((0 + 1 / 2) / 2)
    assert set(shared) == {("a", "b"), ("a", "c"), ("b", "c")}
    assert agreement.pairs([model(a=[], b=[])], ("a", "b")) == {}
    assert agreement.pairs([model(a=[1])], ("a", "b")) == {}


def test_stability_is_the_mean_over_pairs_of_models():
    third = model(a=[0, 1, 2, 3], b=[4], c=[0])
    found = agreement.stability([FIRST, SECOND, third], THREE)
    assert found["a"].value == pytest.approx((2 / 4 + 1 + 2 / 4) / 3)
    assert found["b"].value == pytest.approx((1 / 4 + 1 / 3 + 1 / 2) / 3)
    assert found["c"].value == pytest.approx((0 + 0 + 1) / 3)


def test_models_of_different_forget_sets_are_not_compared():
    other = model(asked=range(1, 11), a=[1, 2], b=[4], c=[])
    assert agreement.stability([FIRST, other], THREE) == {}
    alike = agreement.stability([FIRST, SECOND], THREE)
    assert agreement.stability([FIRST, other, SECOND], THREE) == alike


def test_an_audit_of_a_part_is_compared_on_the_part_that_two_models_share():
    one = Model({"a": flags([0, 1]), "part": flags([0, 1], asked=(0, 1, 2))})
    two = Model({"a": flags([0, 1]), "part": flags([1, 3], asked=(1, 2, 3))})
    found = agreement.stability([one, two], ("a", "part"))
    assert found["part"] == Jaccard(1.0, agreement.by_chance(2, 1, 1))


# Combinations.


def test_combinations_count_each_record_once():
    found = agreement.combinations([FIRST, SECOND], THREE)
    assert found == {
        ("a",): (2 + 1) / 2,
        ("a", "b"): 2 / 2,
        ("b",): (1 + 2) / 2,
        ("a", "c"): 1 / 2,
        (): (5 + 6) / 2,
    }


def test_independent_audits_give_products_of_shares():
    half = model(a=range(5), b=range(2), c=range(10))
    assert agreement.independent([half], THREE, ("a", "b", "c")) == pytest.approx(10 * 0.5 * 0.2)
    assert agreement.independent([half], THREE, ("a", "c")) == pytest.approx(10 * 0.5 * 0.8)
    assert agreement.independent([half], THREE, ("a", "b")) == 0.0
    every = [key for size in range(4) for key in choose(THREE, size)]
    total = sum(agreement.independent([FIRST, SECOND], THREE, key) for key in every)
    assert total == pytest.approx(10)


def test_models_that_lack_an_audit_are_left_out_of_combinations():
    less = model(a=[0], b=[0])
    both = agreement.combinations([FIRST, less], THREE)
    assert both == agreement.combinations([FIRST], THREE)
    assert agreement.combinations([less], THREE) == {}
    assert agreement.independent([less], THREE, ("a",)) == 0.0


def test_a_record_is_flagged_by_a_mean_number_of_audits():
    found = agreement.often([FIRST, SECOND, model(asked=(3, 99), a=[99], b=[], c=[])], THREE)
    assert found[0] == 1.5
    assert found[3] == pytest.approx((2 + 0 + 0) / 3)
    assert found[99] == 1.0
    assert found[9] == 0.0


def test_order_of_models_records_and_audits_changes_nothing():
    rng = random.Random(0)
    models = [
        model(asked=range(30), **{a: rng.sample(range(30), 7) for a in THREE}) for _ in range(4)
    ]
    shuffled, turned = models[::-1], THREE[::-1]

    def unordered(found):
        return {frozenset(key): pytest.approx(tuple(each)) for key, each in found.items()}

    def counted(found):
        return {frozenset(key): pytest.approx(each) for key, each in found.items()}

    assert unordered(agreement.pairs(shuffled, turned)) == {
        frozenset(k): tuple(v) for k, v in agreement.pairs(models, THREE).items()
    }
    assert counted(agreement.combinations(shuffled, turned)) == {
        frozenset(k): v for k, v in agreement.combinations(models, THREE).items()
    }
    assert agreement.often(shuffled, turned) == pytest.approx(agreement.often(models, THREE))
    for audit, each in agreement.stability(shuffled, turned).items():
        assert each == pytest.approx(agreement.stability(models, THREE)[audit])


# Records.


@pytest.fixture
def records():
    return flagged.records(2, methods=2)


def test_flags_are_read_by_the_records_names():
    record = flagged.records(1, methods=1, audits=("lira",), size=4)[0]
    arrays = record["findings"][-1]["unlearned"]["arrays"]
    arrays |= {"index": [9, 5, 7, 1], "flagged": [True, False, True, False]}
    (found,) = agreement.models([record], "method")
    assert found.flags == {"lira": (frozenset({1, 5, 7, 9}), frozenset({7, 9}))}


def test_order_of_records_in_a_record_changes_nothing(records):
    before = agreement.pairs(agreement.models(records[:2], "method"), flagged.AUDITS)
    arrays = records[0]["findings"][-1]["unlearned"]["arrays"]
    order = random.Random(1).sample(range(60), 60)
    for name in ("index", "flagged", "scores"):
        arrays[name] = [arrays[name][i] for i in order]
    after = agreement.pairs(agreement.models(records[:2], "method"), flagged.AUDITS)
    assert after == before


def test_controls_count_once_a_seed(records):
    assert len(agreement.models(records, "original")) == 2
    assert len(agreement.models(records, "retrained")) == 2 * 2
    assert len(agreement.models(records[:2], "method")) == 2


def test_one_model_under_several_seeds_counts_once(records):
    copy = json.loads(json.dumps(records[0])) | {"seed": 5}
    twice = agreement.models([records[0], copy], "method")
    assert len(twice) == 1
    assert agreement.stability(twice, flagged.AUDITS) == {}
    assert len(agreement.models([records[0], copy], "original")) == 1


def test_an_attack_without_flags_is_left_out_and_named(records):
    assert agreement.flagging(records) == list(flagged.AUDITS)
    study = consensus.study(group(records)[0])
    assert study is not None
    assert study.mute == ["loss_attack"]
    assert [column.audit for column in study.columns] == ["loss_attack", *flagged.AUDITS]


def test_two_audits_of_one_model_are_needed(records):
    assert agreement.holds(records)
    assert not agreement.holds(made.records(1))
    assert not agreement.holds(flagged.records(1, methods=1, audits=("lira",)))
    apart = flagged.records(1, methods=1, audits=("lira",))
    apart += flagged.records(1, methods=1, audits=("rmia",))
    assert not agreement.holds(apart)
    assert consensus.study(group(made.records(1))[0]) is None
    assert consensus.markdown(made.records(1)) == ""


def test_methods_count_alike_however_many_seeds_they_have(records):
    study = consensus.study(group(records[:3])[0])
    assert study is not None
    two, one = study.of("method")
    assert (len(two.models), len(one.models)) == (2, 1)
    for pair, each in study.shared("method").items():
        assert each.value == pytest.approx((two.pairs[pair].value + one.pairs[pair].value) / 2)
    assert study.steady("method").keys() == {(a, a) for a in flagged.AUDITS}
    assert sum(study.counts("method").values()) == pytest.approx(60)
    counts = [study.counts("method")[key] for key in study.largest]
    assert counts == sorted(counts, reverse=True)
    assert () not in study.largest


def test_the_most_flagged_records_stand_with_both_controls(records):
    study = consensus.study(group(records)[0])
    assert study is not None
    first, *rest = study.named(5)
    assert len(rest) == 4
    assert set(first.audits) == {"method", "original", "retrained"}
    told = [each.often[first.record] for each in study.of("method")]
    assert first.audits["method"] == pytest.approx(sum(told) / len(told))
    assert all(first.audits["method"] >= each.audits["method"] for each in rest)


# Verdicts.

LEAKS, OVER, LIKE, NO = "leaks", "overshoots", "like retraining", "cannot tell"


def test_audits_that_cannot_tell_disagree_with_nobody():
    assert not agreement.disagree({"a": LEAKS, "b": NO})
    assert not agreement.disagree({"a": LIKE, "b": "like never trained"})
    assert agreement.disagree({"a": LEAKS, "b": LIKE})
    assert agreement.disagree({"a": LEAKS, "b": OVER})
    assert not agreement.disagree({})
    assert agreement.sides({"a": LEAKS, "b": NO, "c": LIKE, "d": LEAKS}) == {
        "leaks": ["a", "d"],
        "no sign": ["c"],
    }


def test_dissent_is_against_a_majority_of_the_others():
    models = [
        {"a": LEAKS, "b": LIKE, "c": LIKE},  # a against b and c; for b and c the others are split
        {"a": LEAKS, "b": LEAKS, "c": NO},
        {"a": LIKE, "b": LIKE, "c": LIKE},
        {"a": NO, "b": LEAKS, "c": NO},  # b has nobody to contradict
    ]
    assert agreement.dissent(models) == {"a": (1, 3), "b": (0, 2), "c": (0, 1)}


def test_the_worst_over_seeds_is_counted():
    models = [{"a": LIKE, "b": NO}, {"a": LEAKS}, {"a": LEAKS, "b": LIKE}]
    assert agreement.worst(models) == {"a": (LEAKS, 2, 3), "b": (NO, 1, 2)}
    assert consensus.told(agreement.worst(models)["a"]) == "leaks 2/3"
    assert consensus.told(agreement.worst([{"a": LEAKS}])["a"]) == "leaks"


def test_what_decides_nothing_has_no_verdict(records):
    finding = records[0]["findings"][0]
    assert "loss_attack" in agreement.verdicts(records[0])
    assert "loss_attack" not in agreement.verdicts(
        records[0] | {"findings": [finding | {"decides": False}]}
    )
    assert agreement.verdicts(records[0] | {"findings": [finding | {"verdict": "measured"}]}) == {}


# Markdown.


def test_tables_are_written_with_everything_in_them(records, tmp_path):
    source, out, target = (tmp_path / name for name in ("records.jsonl", "x.html", "x.md"))
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert main(["report", str(source), "--out", str(out), "--markdown", str(target)]) == 0
    told = target.read_text()
    study = consensus.study(group(records)[0])
    assert study is not None
    pair = study.shared("method")["lira", "rmia"]
    assert f"| rmia | {pair.value:.2f} ({pair.chance:.2f}) |" in told
    assert told.count(flagged.WARNING) == 1
    assert "(lira, rmia, population)" in told
    assert "| model | audits disagree in | loss\\_attack | lira | rmia | population |" in told
    assert "loss\\_attack says of no record" in told
    assert "lira + rmia" in told
