import json
import re

import pytest

from expunge.report import overlap, page, sections
from expunge.report.charts import save
from expunge.report.figures import Album
from expunge.report.sections import agreement
from expunge.study import consensus, summary
from expunge.study.agreement import Jaccard, by_chance
from expunge.study.groups import group
from tests.report import flagged, made

HEADINGS = ("All audits", "Which audits disagree?", "Do audits flag the same records?")


@pytest.fixture(scope="module")
def records():
    return flagged.records(2)


@pytest.fixture(scope="module")
def study(records):
    found = consensus.study(group(records)[0])
    assert found is not None
    return found


@pytest.fixture(scope="module")
def html(records):
    return page.render(records)


def section(html, name):
    """Return one section of the page: `table`, `verdicts` or `records`."""
    start = html.index(f'<section aria-labelledby="group-1-agreement-{name}">')
    return html[start : html.index("</section>", start)]


def specs(html):
    text = html.split('id="charts">')[1].split("</script>")[0]
    return json.loads(text)["specs"]


def datasets(chart):
    return list(chart.to_dict(validate=True)["datasets"].values())


def test_the_folder_finds_it():
    assert sections.studies()["agreement"] is agreement


def test_every_part_is_drawn(html):
    assert all(heading in html for heading in HEADINGS)
    told = [each["description"] for each in specs(html).values()]
    assert sum("Jaccard index" in each for each in told) == 3
    assert sum("each combination of audits" in each for each in told) == 1


@pytest.mark.parametrize(
    "records",
    [made.records(1), flagged.records(1, audits=("lira",)), flagged.records(1, audits=())],
)
def test_without_two_audits_that_flag_there_is_no_section(records):
    html = page.render(records)
    assert not any(heading in html for heading in HEADINGS)
    assert "group-1-agreement" not in html
    assert "Agreement of audits" not in page.markdown(records)
    with pytest.raises(ValueError, match="ask `applies` first"):
        agreement.view(summary.summarise(records), Album())


def test_the_table_holds_every_audit_with_its_interval(html, study):
    told = section(html, "table")
    for row in study.rows:
        for column in (*study.columns, *study.rates):
            cell = row.cells[column]
            assert f"<b>{column.show(cell.estimate.value)}</b>" in told
            if cell.estimate.low is not None:
                low, high = (column.show(end) for end in (cell.estimate.low, cell.estimate.high))
                assert f"[{low}, {high}]" in told
    assert told.index("original</span>") < told.index("retrained</span>") < told.index("finetune")
    assert told.count(flagged.WARNING) == 1


def test_a_rate_tells_every_models_own_interval(html, records):
    answer = records[0]["findings"][1]["unlearned"]
    value, (low, high) = answer["values"]["tpr_at_1%_fpr"], answer["intervals"]["tpr_at_1%_fpr"]
    said = f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]; "
    assert re.search(r'title="lira, every model[^"]*' + re.escape(said), section(html, "table"))


def test_a_verdict_is_a_word_in_its_colour():
    records = flagged.records(1, methods=1)
    for finding, verdict in zip(
        records[0]["findings"],
        ["leaks", "like retraining", "overshoots", "cannot tell"],
        strict=True,
    ):
        finding["verdict"] = verdict
    told = section(page.render(records), "verdicts")
    for verdict, tone in agreement.TONES.items():
        shown = f'tone-{tone.replace(" ", "-")}" data-value="{verdict}">{verdict}</td>'
        assert (shown in told) == (verdict != "like never trained")
    assert "<b>1 of 1</b>" in told
    for finding in records[0]["findings"]:
        finding["verdict"] = "leaks"
    told = section(page.render(records), "verdicts")
    assert "In 0 of 1 models" in told
    assert '<span class="quiet">none</span>' in told


def test_other_forget_sets_for_every_seed_leave_no_stability():
    told = section(page.render(flagged.records(2, models=1, apart=True)), "records")
    assert "no two models had the same forget set" in told
    assert "From seed to seed, by method" not in told
    told = section(page.render(flagged.records(2)), "records")
    assert "no two models had the same forget set" not in told
    assert "From seed to seed, by method" in told


def test_without_retrained_models_the_rest_is_drawn():
    html = page.render(flagged.records(1, models=0))
    told = section(html, "records")
    assert "original" in told
    assert "tone-retrained" not in told


def test_a_matrix_has_chance_above_and_stability_on_its_diagonal():
    shared = {("a", "b"): Jaccard(0.5, 0.1)}
    chart = overlap.matrix(shared, {("a", "a"): Jaccard(0.9, 0.2)}, ["a", "b"])
    assert chart is not None
    (cells,) = datasets(chart)
    assert {(cell["x"], cell["y"], cell["s"]) for cell in cells} == {
        ("a", "b", 0.5),  # column a, row b: below
        ("b", "a", 0.1),
        ("a", "a", 0.9),
    }
    assert overlap.matrix({}, {}, ["a", "b"]) is None


def test_an_upset_chart_has_a_column_for_each_combination():
    order = [("a",), ("a", "c")]
    counts = {"method": {("a",): 8.0, ("a", "c"): 3.0}, "original": {("a", "c"): 16.0}}
    chart = overlap.upset(counts, {("a",): 4.0, ("a", "c"): 1.0}, order, ["a", "b", "c"])
    assert chart is not None
    sets = datasets(chart)
    bars = next(rows for rows in sets if "method" in rows[0])
    assert [(bar["method"], bar["original"], bar["expected"]) for bar in bars] == [
        (8.0, 0.0, 4.0),
        (3.0, 16.0, 1.0),
    ]
    on = next(rows for rows in sets if rows[0].get("on") is True)
    assert {(dot["at"], dot["y"]) for dot in on} == {(0, -1), (1, -1), (1, -3)}
    assert {"at": 1, "low": -3, "high": -1} in next(rows for rows in sets if "low" in rows[0])
    assert overlap.upset(counts, {}, [], ["a"]) is None
    assert overlap.upset({"original": {("a",): 1.0}}, {("a",): 1.0}, [("a",)], ["a"]) is None


@pytest.mark.parametrize("highest", [0.0, 0.07, 0.8, 3.0, 16.4, 99.0, 1234.0])
def test_ticks_are_few_and_round(highest):
    unit = highest / 8 or 1.0
    found = [tick * unit for tick in overlap.ticks(highest, unit)]
    assert found[0] == 0.0
    assert all(tick <= highest * (1 + 1e-9) for tick in found)
    assert 2 <= len(found) <= 5 or not highest
    assert all(float(f"{tick:.2g}") == pytest.approx(tick) for tick in found)


def test_every_chart_becomes_a_picture(study, tmp_path):
    kinds = {kind: study.counts(kind) for kind in study.kinds}
    expected = {key: study.expected(key) for key in study.largest}
    drawn = [
        overlap.matrix(study.shared("method"), study.steady("method"), study.audits),
        overlap.upset(kinds, expected, study.largest, study.audits),
    ]
    for number, chart in enumerate(drawn):
        assert chart is not None
        save(chart, tmp_path / f"{number}.svg", theme="dark")
        text = (tmp_path / f"{number}.svg").read_text()
        assert "var(--" not in text
        assert "population" in text
        assert text.count("<path") > 8


def test_many_methods_and_audits_stay_within_bounds():
    records = flagged.records(2, methods=26, audits=flagged.MANY, size=60)
    album = Album()
    view = agreement.view(summary.summarise(records), album)
    assert len(view["study"].verdicts) == 26
    assert len(album.specs) == 4
    upset = next(s for s in album.specs.values() if "combination" in s["description"])
    bars = next(rows for rows in upset["datasets"].values() if "method" in rows[0])
    assert len(bars) == agreement.MOST
    assert view["left"] == len(view["study"].largest) - agreement.MOST
    held = sum(bar["method"] for bar in bars) + view["rest"] + view["none"]
    assert held == pytest.approx(view["records"], abs=0.2)
    assert len(json.dumps(upset)) < 60_000


def test_hostile_names_stay_words(records):
    copy = json.loads(json.dumps(records[:1]))
    for number, finding in enumerate(copy[0]["findings"]):
        finding["audit"] = f"<img src=x onerror=alert({number})>"
        finding["unlearned"]["warnings"] = ["<script>alert(1)</script>"]
    html = page.render(copy)
    assert "<img" not in html[: html.index("</main>")]
    assert "&lt;img" in section(html, "table")
    assert "<script>alert" not in html
    assert "<img" not in page.markdown(copy).replace("\\<", "")


def test_chance_is_told_beside_the_index(html, study):
    told = section(html, "records")
    each = next(a for a in study.agreements if a.row.kind == "method")
    index = each.stability["lira"]
    cell = f'<b>{index.value:.2f}</b><span class="ends">({index.chance:.2f})</span>'
    assert cell in told
    assert 0 < index.chance < by_chance(60, 30, 30)
