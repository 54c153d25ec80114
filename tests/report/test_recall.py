import json
import math
import re

import numpy as np
import pytest
from scipy import stats

from expunge import registry
from expunge.cli import main
from expunge.report import page, recalled, sections
from expunge.report.charts import save
from expunge.report.sections import membership_recall
from expunge.study import recall, summary
from expunge.study.groups import group
from expunge.study.published import recall as paper
from tests.report import made

PRINTED = [
    (case, data, part)
    for case in ("closed", "open")
    for data in ("cifar10", "cifar100", "pet37", "flowers102")
    for part in ("test", "forget")
]


@pytest.fixture(scope="module")
def records():
    return made.attacked(2)


@pytest.fixture(scope="module")
def study(records):
    found = recall.study(group(records)[0])
    assert found is not None
    return found


@pytest.fixture(scope="module")
def html(records):
    return page.render(records)


def line(study, label, case="closed", part="forget"):
    attack = next(a for a in study.attacks if a.case == case)
    return next(each for each in study.lines(attack, part) if each.row.label == label)


# What the paper prints.


@pytest.mark.parametrize(("case", "data", "part"), PRINTED)
def test_printed_differences_are_recalled_minus_unlearned(case, data, part):
    printed = paper.tables()[case][data][part]
    told = zip(*(printed[key] for key in ("ulm", "rcm", "difference")), strict=True)
    off = [abs(rcm - ulm - difference) for ulm, rcm, difference in told]
    assert len(off) == 8
    # Three numbers, each rounded to three digits.
    assert all(math.isnan(error) or error <= 0.0015 + 1e-9 for error in off)


@pytest.mark.parametrize(("case", "data", "part"), PRINTED)
def test_printed_ablation_repeats_the_tables(case, data, part):
    tables = paper.tables()
    assert str(tables["ablation"][data][case][part]) == str(tables[case][data][part]["rcm"])
    assert str(tables["open"][data][part]["ulm"]) == str(tables["closed"][data][part]["ulm"])


@pytest.mark.parametrize("case", ["distilled", "closed", "open"])
@pytest.mark.parametrize("part", ["test", "forget"])
def test_printed_excerpt_repeats_the_ablation(case, part):
    tables = paper.tables()
    excerpt = tables["excerpt"]
    whole = tables["ablation"][excerpt["data"]][case][part]
    picked = [whole[tables["methods"].index(name)] for name in excerpt["methods"]]
    assert picked == excerpt[case][part]


def test_printed_numbers_are_called_as_ours_are():
    tables = paper.tables()
    assert set(tables["methods"]) <= set(registry.methods.known())
    assert set(tables["data"]) <= set(registry.data.known())


def test_a_number_is_found_by_data_method_case_and_part():
    assert paper.told("cifar10", "salun", "closed", "forget") == (0.117, 0.615, 0.498)
    assert paper.told("pet37", "boundary_shrink", "open", "forget") == (0.084, 0.960, 0.876)
    distilled = paper.told("cifar10", "salun", "distilled", "forget")
    assert distilled == (0.117, 0.027, pytest.approx(-0.09))
    assert paper.told("flowers102", "null_space", "closed", "test") is None
    assert paper.told("cifar10", "finetune", "closed", "test") is None
    assert paper.told("svhn", "salun", "closed", "test") is None


def test_marks_agree_with_what_the_paper_says_of_its_own():
    """It says: influence has the lowest two three times when closed, the top two when open."""
    tables = paper.tables()

    def count(case, part, mark):
        found = 0
        for of in tables[case].values():
            told = zip(tables["methods"], of[part]["difference"], strict=True)
            gains = {name: value for name, value in told if not math.isnan(value)}
            found += recall.marked(gains).get("influence") == mark
        return found

    assert count("closed", "forget", "smallest") == 3
    assert count("open", "test", "largest") == 3


# Marks.


def marks(*gains):
    names = "abcdefgh"[: len(gains)]
    found = recall.marked(dict(zip(names, map(float, gains), strict=True)))
    return [found.get(name, "") for name in names]


def test_two_of_each_are_marked_and_none_twice():
    assert marks(4, 3, 2, 1) == ["largest", "largest", "smallest", "smallest"]
    assert marks(1, 5, 9, 5, 2) == ["smallest", "largest", "largest", "largest", "smallest"]
    assert marks(1, 2, 3) == ["smallest", "", "largest"]
    assert marks(1) == [""]
    assert marks() == []


def test_ties_are_marked_together_or_not_at_all():
    assert marks(1, 1, 1, 1) == [""] * 4
    assert marks(5, 3, 3, 2, 1) == ["largest", "largest", "largest", "smallest", "smallest"]


# Numbers.


def test_every_number_is_the_mean_over_seeds(study):
    got = line(study, "salun")
    assert got.before.estimate.value == pytest.approx(0.1)
    assert got.renormed.estimate.value == pytest.approx(0.6)
    assert got.after.estimate.value == pytest.approx((0.70 + 0.72) / 2)
    assert got.gain.estimate.value == pytest.approx(0.61)
    low, high = stats.t.interval(0.95, 1, loc=0.71, scale=stats.sem([0.70, 0.72]))
    assert (got.after.estimate.low, got.after.estimate.high) == pytest.approx((low, high))


def test_recall_is_set_against_the_same_attack_on_retrained_models(study):
    got = line(study, "salun")
    # Seed by seed: 0.70 - mean(0.40, 0.41, 0.42), 0.72 - mean(0.42, 0.43, 0.44).
    assert got.after.gap.value == pytest.approx(0.29)
    assert not got.after.within
    assert line(study, "random_label").after.within
    control = line(study, "retrained")
    assert sorted(control.told) == pytest.approx([0.40, 0.41, 0.42, 0.42, 0.43, 0.44])
    assert control.after.estimate.value == pytest.approx(0.42)
    assert recall.beyond(control) == "40.0 to 44.0 in 6 attacks"
    assert recall.beyond(got).startswith("+29.0")


def test_an_accuracy_stays_one(study):
    for attack in study.attacks:
        for part in recall.PARTS:
            for each in study.lines(attack, part):
                for cell in (each.before, each.renormed, each.after):
                    if cell.estimate.low is not None:
                        assert 0 <= cell.estimate.low <= cell.estimate.high <= 1


def test_attacks_come_in_the_order_of_their_components(study):
    assert [attack.component for attack in study.attacks] == ["DST", "DST+STU", "DST+STU+TCH"]


def test_two_attacks_of_one_case_are_told_apart():
    records = made.attacked(1, cases=("closed", "closed"))
    for record in records:
        record["findings"][1]["settings"]["tau"] = 0.05
    titles = [attack.title for attack in recall.attacks(records)]
    assert titles == ["closed (tau 0.6)", "closed (tau 0.05)"]


def test_controls_are_never_marked(study):
    for attack in study.attacks:
        marks = {e.row.kind: e.mark for e in study.lines(attack, "forget") if e.mark}
        assert set(marks) == {"method"}


# Markdown.


def tables_of(text):
    return re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE)


def test_both_controls_are_in_every_table(records):
    tables = tables_of(recall.markdown(records))
    assert len(tables) == 3 * 2 + 2
    for table in tables:
        head, _, *lines = table.splitlines()
        assert "BN only" in head
        assert {"original", "retrained"} <= {each.split("|")[1].strip() for each in lines}
        assert len({each.count("|") for each in table.splitlines()}) == 1


def test_published_numbers_stand_beside_ours_and_say_what_they_are(records):
    text = recall.markdown(records)
    assert "11.7 → 61.5 (+49.8)" in text
    assert "2.7 → 61.5 → 99.7" in text
    assert "Another model at another scale" in text
    other = recall.markdown(made.attacked(1, data="svhn"))
    assert "paper" not in other.lower()


def test_nothing_is_said_of_records_that_were_not_attacked():
    assert recall.markdown(made.records(1)) == ""
    assert not membership_recall.applies(made.records(1))
    with pytest.raises(ValueError, match="got none"):
        membership_recall.view(summary.summarise(made.records(1)), page.figures.Album())


def test_the_command_writes_the_tables(tmp_path, capsys):
    source, target = tmp_path / "records.jsonl", tmp_path / "tables.md"
    records = made.attacked(1, methods=["salun"])
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    out = tmp_path / "report.html"
    assert (
        main(["report", str(source), "--out", str(out), "--markdown", str(target), "--json"]) == 0
    )
    assert json.loads(capsys.readouterr().out)["markdown"] == str(target)
    text = target.read_text()
    assert "| model | verdict |" in text
    assert "DST+STU+TCH" in text


# The page.


def test_the_page_has_the_section_only_where_it_applies(html):
    assert "Do the labels come back?" in html
    assert "Do the labels come back?" not in page.render([made.record(audits=("accuracy",))])


def test_the_page_has_both_controls_in_every_table(html):
    tables = re.findall(r'<table class="results halves">.*?</table>', html, re.DOTALL)
    assert len(tables) == 4
    for table in tables:
        assert 'class="original"' in table
        assert 'class="retrained"' in table
        assert table.count("BN only") == 2
        rows = re.findall(r"<tr.*?</tr>", table, re.DOTALL)[1:]
        assert len({len(re.findall(r"<t[hd]\b", row)) for row in rows}) == 1


def test_marks_are_shapes_with_words(html):
    assert re.search(r'aria-label="among the two largest">▲', html)
    assert re.search(r'aria-label="among the two smallest">▽', html)


def test_arrays_of_the_attack_are_drawn_once(html):
    specs = json.loads(html.split('id="charts">')[1].split("</script>")[0])["specs"]
    drawn = [spec["description"] for spec in specs.values()]
    assert sum("confusion" in words for words in drawn) == 4 + 2  # one for each model
    assert sum("before and after the attack" in words for words in drawn) == 3 * 2 + 2 * 4


@pytest.mark.parametrize(
    ("records", "words"),
    [
        (made.attacked(1, methods=["salun"], renormed=False), "has no BatchNorm"),
        (made.attacked(1, methods=["salun"], retrained=0), "No retrained model"),
        (made.attacked(1, methods=["salun"], cases=["open"]), "DST+STU+TCH: open"),
        (made.attacked(1, methods=["salun"], classes=list("abcdefgh" * 5)), "Cells under 1 %"),
    ],
    ids=["no BatchNorm", "no retrained model", "one case", "many classes"],
)
def test_every_kind_of_attack_has_a_page(records, words):
    assert words in page.render(records)


def test_ids_in_the_page_are_unique():
    two = [made.attacked(1, methods=["salun"], data=data) for data in ("cifar10", "svhn")]
    html = page.render([record for records in two for record in records])
    assert 'id="group-2-membership_recall"' in html
    ids = re.findall(r'\bid="([^"]+)"', html.split("<main>")[1].split("</main>")[0])
    assert len(ids) == len(set(ids))


def test_names_of_classes_and_methods_stay_words():
    hostile = "</script><script>alert(1)</script>"
    records = made.attacked(1, methods=["salun"], classes=[hostile, *made.CIFAR[1:]])
    for record in records:
        record["method"]["name"] += hostile
    assert "<script>alert" not in page.render(records)
    assert "<script>" not in recall.markdown(records).replace("\\<", "")


# Charts.


def matrices(classes=10):
    counts = np.zeros((classes, classes))
    counts[3, 3], counts[3, 5], counts[7, 0] = 30, 10, 20
    return {"ULM": counts, "DST": 2 * counts}


def heat(chart):
    """Return the numbers of the cells, as the chart's data holds them."""
    spec = chart.to_dict(validate=True)
    lists = next(rows[0] for rows in spec["datasets"].values() if "s" in rows[0])
    return list(zip(*(lists[key] for key in "xtns"), strict=True))


def test_confusions_hold_every_count_beside_its_stage():
    chart = recalled.confusions(matrices(), [])
    assert chart is not None
    step = 11  # ten classes and a gap
    assert set(heat(chart)) == {
        (3, 3, 30, 75), (5, 3, 10, 25), (0, 7, 20, 100),
        (step + 3, 3, 60, 75), (step + 5, 3, 20, 25), (step, 7, 40, 100),
    }  # fmt: skip


def test_confusions_have_rows_for_forgotten_classes_only():
    chart = recalled.confusions(matrices(), made.CIFAR)
    assert chart is not None
    domains = re.findall(r'"domain": (\[[0-9, ]+\])', json.dumps(chart.to_dict()))
    assert "[3, 7]" in domains


def test_confusions_are_summed_over_seeds(records):
    album = page.figures.Album()
    salun = [record for record in records if record["method"]["name"] == "salun"]
    membership_recall.view(summary.summarise(salun), album)
    spec = next(s for s in album.specs.values() if s["description"].startswith("salun: confusion"))
    lists = next(rows[0] for rows in spec["datasets"].values() if "s" in rows[0])
    cells = set(zip(*(lists[key] for key in "xtns"), strict=True))
    assert (1, 1, 20, 10) in cells  # before: 10 of 100 in each of two seeds
    assert (33 + 1, 1, 142, 71) in cells  # closed: 70 and 72, in the fourth panel


def test_a_hundred_classes_stay_small():
    rng = np.random.default_rng(0)
    counts = {f"stage {i}": rng.integers(0, 9, (102, 102)) for i in range(5)}
    counts |= {name: table + 800 * np.eye(102, dtype=int) for name, table in counts.items()}
    for table in counts.values():
        table[5:] = 0
    chart = recalled.confusions(counts, [f"a kind of flower {i}" for i in range(102)])
    assert chart is not None
    assert len(json.dumps(chart.to_dict())) < 20_000
    assert recalled.confusions({}, []) is None


def test_classes_without_records_have_no_bar():
    values = [None, 0.5]
    chart = recalled.classes({"after": values, "before": values, "retrained": []}, ["cat", "dog"])
    assert chart is not None
    (rows,) = chart.to_dict()["datasets"].values()
    assert list(rows) == [{"class": "dog", "after": 0.5, "before": 0.5}]
    assert recalled.classes({"after": [None]}, ["cat"]) is None


def test_dumbbells_hold_the_table(study):
    attack = study.attacks[1]
    chart = recalled.dumbbells(study.lines(attack, "forget"))
    assert chart is not None
    sets = list(chart.to_dict(validate=True)["datasets"].values())
    rows = next(rows for rows in sets if "name" in rows[0])
    assert {
        "name": "salun",
        "kind": "unlearned",
        "before": 0.1,
        "renormed": 0.6,
        "after": 0.71,
    } in rows
    assert ({"low": pytest.approx(0.4), "high": pytest.approx(0.44)},) in sets
    controls = [each for each in study.lines(attack, "forget") if each.row.kind != "method"]
    assert recalled.dumbbells(controls) is None


def test_every_chart_becomes_a_picture(study, tmp_path):
    drawn = [
        recalled.dumbbells(study.lines(study.attacks[0], "test")),
        recalled.confusions(matrices(), made.CIFAR),
        recalled.classes({"after": [0.5, 0.1], "before": [0.2, 0.3]}, ["cat", "dog"]),
    ]
    for number, chart in enumerate(drawn):
        assert chart is not None
        chart.to_dict(validate=True)
        save(chart, tmp_path / f"{number}.svg", theme="dark")
        text = (tmp_path / f"{number}.svg").read_text()
        assert "var(--" not in text
        assert text.count("<path") > 4


# The mechanism.


def test_a_module_of_the_folder_is_a_section():
    assert "membership_recall" in sections.studies()
    for name, study in sections.studies().items():
        assert isinstance(study, sections.Study), name
        assert study.SCOPE in ("group", "run")
