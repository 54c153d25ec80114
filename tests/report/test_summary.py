import io

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from expunge.study import summary, table
from expunge.study.estimate import student
from expunge.study.groups import labels
from tests.report import made


def row(rows, label):
    return next(row for row in rows if row.label == label)


def cell(row, value):
    return next(cell for column, cell in row.cells.items() if column.value == value)


def test_interval_over_seeds_is_scipys():
    values = [0.52, 0.61, 0.57, 0.49]
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    got = student(values, "seeds")
    assert got.value == pytest.approx(np.mean(values))
    assert (got.low, got.high) == pytest.approx((low, high))


def test_equal_values_give_no_interval():
    assert student([0.5, 0.5], "seeds").low is None


def test_a_method_is_the_mean_of_its_seeds():
    records = made.records(3)
    got = cell(row(table.summarise(records), "salun"), "auc")
    values = [
        f["unlearned"]["values"]["auc"]
        for r in records
        if r["method"]["name"] == "salun"
        for f in r["findings"]
        if f["audit"] == "loss_attack"
    ]
    assert got.estimate.value == pytest.approx(np.mean(values))
    assert (got.estimate.basis, got.estimate.n) == ("seeds", 3)


def test_gap_is_to_the_mean_of_retraining_of_the_same_seed():
    records = made.records(2)
    found = [
        f
        for r in records
        if r["method"]["name"] == "finetune"
        for f in r["findings"]
        if f["audit"] == "loss_attack"
    ]
    gaps = [
        f["unlearned"]["values"]["auc"] - np.mean([a["values"]["auc"] for a in f["retrained"]])
        for f in found
    ]
    got = cell(row(table.summarise(records), "finetune"), "auc")
    assert got.gap.value == pytest.approx(np.mean(gaps))
    assert got.floor == pytest.approx(0.012)
    assert not got.within


def test_one_seed_keeps_the_runs_own_intervals():
    records = made.records(1)
    finding = next(f for f in records[-1]["findings"] if f["audit"] == "loss_attack")
    got = cell(row(table.summarise(records), "salun"), "auc")
    assert got.estimate.basis == "records"
    assert [got.estimate.low, got.estimate.high] == finding["unlearned"]["intervals"]["auc"]
    assert (got.gap.low, got.gap.high) == (finding["gap"]["low"], finding["gap"]["high"])


def test_retrained_models_of_one_seed_vary_among_themselves():
    got = cell(row(table.summarise(made.records(1, retrained=3)), "retrained"), "auc")
    assert got.estimate.basis == "models"


def test_a_control_counts_once_however_many_methods_there_are():
    records = made.records(2)
    alone = [r for r in records if r["method"]["name"] == "salun"]
    for label in ("original", "retrained"):
        everyone, one = (row(table.summarise(rs), label) for rs in (records, alone))
        assert cell(everyone, "auc").estimate == cell(one, "auc").estimate


def test_the_original_is_the_one_that_most_methods_started_from():
    records = made.records(1)
    for number, own in enumerate(records[:2]):  # as many as there are methods like SISA
        for finding in own["findings"]:
            values = {k: v / (3 + number) for k, v in finding["original"]["values"].items()}
            finding["original"] = finding["original"] | {"values": values}
    common = records[-1]["findings"][0]
    got = cell(row(table.summarise(records), "original"), common["headline"])
    assert got.estimate.value == common["original"]["values"][common["headline"]]


@pytest.mark.parametrize("first", ["retrain", "finetune"])
def test_the_original_is_as_far_from_all_retrained_models_whichever_method_comes_first(first):
    records = [made.record(name, 0, retrained=3) for name in ("retrain", "finetune")]
    for lacking, whole in zip(*(r["findings"] for r in records), strict=True):
        lacking |= {"original": whole["original"], "retrained": whole["retrained"][1:]}
    whole = next(f for f in records[1]["findings"] if f["audit"] == "loss_attack")
    theirs = [answer["values"]["auc"] for answer in whole["retrained"]]
    records.sort(key=lambda record: record["method"]["name"] != first)
    got = cell(row(table.summarise(records), "original"), "auc")
    assert got.estimate.value == whole["original"]["values"]["auc"]
    assert got.gap.value == pytest.approx(got.estimate.value - np.mean(theirs))


def test_fractions_stay_fractions():
    for got in table.summarise(made.records(3)):
        for column, item in got.cells.items():
            if column.unit == "%" and item.estimate.low is not None:
                assert 0 <= item.estimate.low <= item.estimate.high <= 1


def test_no_retrained_model_gives_no_gap_but_what_unseen_records_would():
    rows = table.summarise(made.records(1, retrained=0))
    assert "retrained" not in [r.label for r in rows]
    got = cell(row(rows, "salun"), "auc")
    assert got.gap is None
    assert (got.unseen.low, got.unseen.high) == (0.47, 0.53)


def test_distances_of_weights_and_costs_have_no_gap():
    got = row(table.summarise(made.records(2)), "salun")
    assert cell(got, "parameters").gap is None
    assert cell(got, "of_retraining").gap is None


def test_weights_moved_leave_running_statistics_out():
    record = made.record()
    found = next(f for f in record["findings"] if f["audit"] == "weight_distance")
    (column,) = (c for c in summary.columns([record]) if c.audit == "weight_distance")
    assert column.heading == "Weights moved (L2)"
    held = row(table.summarise([record]), "salun").cells[column]
    assert held.estimate.value == found["unlearned"]["values"]["parameters"]
    assert held.estimate.value != found["unlearned"]["values"]["l2"]


def test_a_method_is_judged_by_its_worst_seed():
    records = [made.record("salun", 0), made.record("salun", 1), made.record("salun", 2)]
    records[1]["verdict"] = {"kind": "leaks", "sentence": "it shows"}
    got = row(table.summarise(records), "salun")
    assert got.verdict == "leaks"
    assert got.sentence == "it shows"
    assert got.verdicts == {"leaks": 1, "forgotten": 2}


def test_a_model_far_below_retrainings_accuracy_is_called_damaged():
    rows = {row.label: row for row in table.summarise(made.records())}
    spoilt = rows.pop("gradient_ascent")
    gap = cell(spoilt, "test").gap
    assert gap is not None
    assert spoilt.damage == pytest.approx(-gap.value)
    assert all(row.damage is None for row in rows.values())
    told = table.markdown([spoilt])
    assert f"; damaged, {-100 * gap.value:.0f} points" in told
    assert "; damaged," not in table.markdown(list(rows.values()))


@pytest.mark.parametrize("status", ["diverged", "failed"])
def test_failures_are_rows_without_numbers(status):
    records = [made.record("salun", 0), made.record("finetune", 0, status=status)]
    got = row(table.summarise(records), "finetune")
    assert (got.verdict, dict(got.cells)) == (status, {})
    only = table.summarise([made.record("finetune", 0, status=status)])
    assert [r.kind for r in only] == ["method"]


def test_namesakes_are_told_apart_by_what_differs():
    things = [
        {"name": "salun", "settings": {"sparsity": 0.5, "descent": {"lr": 0.1}}},
        {"name": "salun", "settings": {"sparsity": 0.9, "descent": {"lr": 0.1}}},
        {"name": "finetune", "settings": {}},
    ]
    assert labels(things) == ["salun (sparsity 0.5)", "salun (sparsity 0.9)", "finetune"]


def test_settings_within_settings_and_long_lists_are_told_shortly():
    few = {"of": {"name": "a", "version": 1}, "others": None, "classes": list("abcdefgh")}
    many = {"of": {"name": "b", "version": 2}, "others": {"name": "c"}, "classes": []}
    things = [{"name": "data", "settings": settings} for settings in (few, many)]
    assert labels(things) == [
        "data (of a, classes [a, b, c, … 8 in all])",
        "data (of b, others c)",
    ]


def test_a_setting_that_was_left_out_is_told_only_where_nothing_else_differs():
    rates = [{"orthogonality": None, "l1": 0.1}, {"orthogonality": 0.0, "l1": 0.1}]
    things = [{"name": "replay", "settings": settings} for settings in rates]
    assert labels(things) == ["replay", "replay (orthogonality 0)"]
    empty = [{"name": "replay", "settings": {"layers": value}} for value in (None, [])]
    assert len({*labels([*things, *empty])}) == 3
    only = [{"name": "replay", "settings": {"a": a, "b": b}} for a, b in ((None, 1), (1, None))]
    assert labels(only) == ["replay (b 1)", "replay (a 1)"]


def test_different_problems_are_different_groups():
    rows = table.summarise([made.record(data="cifar10"), made.record(data="svhn")])
    assert {r.group.title.split(" ")[0] for r in rows} == {"cifar10", "svhn"}


def test_an_unknown_audit_shows_its_headline():
    rows = table.summarise([made.record(audits=("oddity",))])
    assert [c.title for c in rows[0].columns] == ["oddity: strangeness"]


def test_values_that_are_missing_leave_a_hole():
    record = made.record()
    for found in record["findings"]:
        found["unlearned"]["values"] = dict.fromkeys(found["unlearned"]["values"])
    got = row(table.summarise([record]), "salun")
    assert dict(got.cells) == {}
    assert "—" in table.markdown(table.summarise([record]))


def test_no_records_is_an_error():
    with pytest.raises(ValueError, match="at least one record"):
        table.summarise([])


def test_text_and_markdown_say_the_same_verdicts():
    rows = table.summarise(made.records(2))
    console = Console(width=140, file=io.StringIO())
    console.print(table.text(rows))
    text, markdown = console.file.getvalue(), table.markdown(rows)
    for said in ("finetune", "leaks 2/2", "control"):
        assert said in text
        assert said in markdown
    assert markdown.count("\n|") == len(rows) + 2


def test_names_cannot_break_a_markdown_table_or_a_terminal():
    record = made.record()
    record["method"]["name"] = "a|b<script>[red]"
    rows = table.summarise([record])
    assert "a\\|b\\<script>\\[red]" in table.markdown(rows)
    console = Console(width=140, file=io.StringIO())
    console.print(table.text(rows))
    assert "a|b<script>[red]" in console.file.getvalue()


def test_retrained_models_that_all_seeds_share_count_once():
    records = [made.record("finetune", seed, retrained=3) for seed in (0, 1)]
    records[1]["measured"]["retraining_seconds"] = records[0]["measured"]["retraining_seconds"]
    shared = row(table.summarise(records), "retrained")
    assert len(summary.answers(shared, "accuracy")) == 3
    own = [made.record("finetune", seed, retrained=3) for seed in (0, 1)]
    assert len(summary.answers(row(table.summarise(own), "retrained"), "accuracy")) == 6


def shared(rates):
    """Return records of the same three retrained models, whose rates differ by seed."""
    made_up = [made.record("finetune", seed, retrained=3) for seed in range(len(rates[0]))]
    for seed, one in enumerate(made_up):
        one["measured"]["retraining_seconds"] = [80.0, 81.0, 82.0]
        for found, first in zip(one["findings"], made_up[0]["findings"], strict=True):
            found["retrained"] = [dict(answer) for answer in first["retrained"]]
            if found["audit"] == "loss_attack":
                for answer, rate in zip(found["retrained"], rates, strict=True):
                    answer["values"] = answer["values"] | {"auc": rate[seed]}
    return made_up


def test_shared_models_keep_their_own_spread_where_their_rates_differ_by_seed():
    rates = np.array([[0.40, 0.44], [0.50, 0.52], [0.61, 0.63]])
    got = cell(row(table.summarise(shared(rates.tolist())), "retrained"), "auc").estimate
    (by_model, by_seed) = (
        np.ptp(stats.t.interval(0.95, len(means) - 1, scale=stats.sem(means))) / 2
        for means in (rates.mean(1), rates.mean(0))
    )
    width = np.hypot(by_model, by_seed)
    assert got.value == pytest.approx(rates.mean())
    assert (got.low, got.high) == pytest.approx((rates.mean() - width, rates.mean() + width))
    assert (got.basis, got.n) == ("models", 3)


def test_shared_models_have_the_same_accuracies_in_every_seed_and_count_once():
    records = shared([[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]])
    both, alone = (row(table.summarise(r), "retrained") for r in (records, records[:1]))
    assert cell(both, "test").estimate == cell(alone, "test").estimate
    assert cell(both, "test").estimate.basis == "models"


def test_models_of_their_own_in_every_seed_vary_over_seeds():
    records = [made.record("finetune", seed, retrained=3) for seed in (0, 1)]
    found = [next(f for f in r["findings"] if f["audit"] == "loss_attack") for r in records]
    means = [np.mean([a["values"]["auc"] for a in f["retrained"]]) for f in found]
    got = cell(row(table.summarise(records), "retrained"), "auc").estimate
    over = student(means, "seeds")
    assert (got.low, got.high, got.basis) == (
        pytest.approx(over.low),
        pytest.approx(over.high),
        "seeds",
    )


def test_a_control_that_the_first_method_lacks_is_read_from_another():
    first, other = made.record("retrain", 0, retrained=2), made.record("finetune", 0, retrained=3)
    for lacking, whole in zip(first["findings"], other["findings"], strict=True):
        lacking["retrained"] = whole["retrained"][1:]
    shown = row(table.summarise([first, other]), "retrained")
    whole = [found["retrained"] for found in other["findings"] if found["audit"] == "accuracy"]
    assert summary.answers(shown, "accuracy") == whole[0]
    cell = next(c for k, c in shown.cells.items() if (k.audit, k.value) == ("accuracy", "forget"))
    assert cell.estimate.n == 3


def test_a_rate_is_not_shown_without_what_its_oracle_warned_of():
    record = made.record("finetune", audits=("accuracy",))
    found = record["findings"][0] | {"audit": "forgetting_rate", "headline": "fr"}
    values = {"fr": 0.4}
    said = found["unlearned"] | {"values": values, "warnings": ["no better than chance"]}
    found |= {"unlearned": said, "original": found["original"] | {"values": values}}
    found |= {"retrained": [a | {"values": values} for a in found["retrained"]]}
    record["findings"].append(found)
    record["notes"] = {"unasked": {"lira": "too few shadows"}}
    rows = table.summarise([record])
    text = table.markdown(rows)
    assert "0.400" in text
    assert "⚠ finetune: forgetting rate: fr: no better than chance" in text
    assert "⚠ finetune: lira was not asked: too few shadows" in text
    console = Console(width=200, file=io.StringIO())
    console.print(table.text(rows))
    assert "0.400⚠" in console.file.getvalue()
