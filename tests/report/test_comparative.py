"""The comparative study's section: what it draws, and that it says what the claims found."""

import re

import altair as alt
import numpy as np
import pytest

from expunge import registry
from expunge.report import page
from expunge.report.figures import Album
from expunge.report.sections import comparative
from expunge.report.sections import studies as sections
from expunge.study import mechanisms
from expunge.study.comparative import NAMES, studies
from expunge.study.groups import group
from expunge.study.summary import summarise
from tests.report import compared, made


def rows_of(chart: alt.LayerChart) -> list[list[dict]]:
    """Return the rows of each data set of a chart, which is checked against the schema."""
    return list(chart.to_dict()["datasets"].values())


@pytest.fixture(scope="module")
def records():
    return compared.records(repeats=3, lengths=(5, 9))


@pytest.fixture(scope="module")
def view(records):
    return comparative.view(summarise(records), Album())


def test_it_is_a_section_of_runs_that_hold_a_compared_method(records) -> None:
    assert "comparative" in sections()
    assert comparative.applies(records)
    assert not comparative.applies(made.records(1))
    assert not comparative.applies([r | {"findings": []} for r in records])


def test_the_page_holds_claims_figures_and_table() -> None:
    html = page.render(compared.records(repeats=2, lengths=(9,), targets=("random",)))
    said = html[html.index("The comparative study") :]
    for number in range(1, 11):
        assert f'<th scope="row">S{number}</th>' in said
    for words in ("Fig. 12", "Fig. 13", "Fig. 14", "Table I", "While it unlearns", "not run"):
        assert words in said
    assert "The comparative study" not in page.render(made.records(1))


def test_every_figure_is_there_for_every_forget_set(view) -> None:
    (part,) = view["parts"]
    notes = [f.note for f in part.accuracies]
    assert [f.title for f in part.accuracies] == [
        words for words in comparative.BOXED.values() for _ in range(2)
    ]
    assert all(n.startswith(("random", "red")) for n in notes)
    assert len(part.times) == len(part.attacks) == 2
    assert {len(figures) for figures in part.curves.values()} == {len(NAMES)}
    assert sum(part.counts.values()) == 10


def test_charts_are_valid_and_hold_the_numbers(records) -> None:
    (study,) = studies(records)
    values = comparative._boxed(study, "val", "random")
    chart = comparative.boxes(values, study.epochs, "Validation", 1.0)
    assert isinstance(chart, alt.LayerChart)
    boxes = [row for rows in rows_of(chart) for row in rows if "q1" in row]
    simple = next(b for b in boxes if (b["name"], b["epochs"]) == ("Simple", 9))
    wanted = sorted(study.of("val", "random", "finetune", 9).values())
    found = [simple[k] for k in ("low", "median", "high")]
    assert found == pytest.approx(wanted, abs=1e-4)
    assert {b["kind"] for b in boxes} == {"original", "retrained", "unlearned"}
    retrained = next(b for b in boxes if b["kind"] == "retrained")
    assert retrained["n"] == 9, "three of each repetition, once each"


def test_quartiles_are_those_of_numpy() -> None:
    numbers = [0.3, 0.1, 0.9, 0.4, 0.7]
    rows = [{"name": "a", "kind": "unlearned", "epochs": 5, "value": v} for v in numbers]
    box = comparative._box(rows, {5: 0.5})
    assert [box[k] for k in ("low", "q1", "median", "q3", "high")] == pytest.approx(
        np.quantile(numbers, [0, 0.25, 0.5, 0.75, 1]).tolist()
    )
    assert comparative._box(rows[:1], {5: 0.5})["q3"] == 0.3


def test_times_are_means_with_their_ends() -> None:
    rows = [{"name": "a", "epochs": 5, "value": 0.2, "low": 0.1, "high": 0.3}]
    chart = comparative.times(rows, [5])
    assert chart is not None
    assert [rows[0]["value"] for rows in rows_of(chart)] == [0.5, 0.2]
    assert comparative.times([], [5]) is None


def test_curves_are_means_over_repetitions_and_pass_over_what_is_not_finite() -> None:
    def traced(*values):
        return {"epoch": [0, 1], "forget": {"accuracy": list(values)}}

    chart = comparative.curves([traced(0.9, 0.5), traced(0.7, None)], "accuracy")
    assert chart is not None
    (rows,) = rows_of(chart)
    assert [(r["value"], r["low"], r["high"]) for r in rows] == [(0.8, 0.7, 0.9), (0.5, 0.5, 0.5)]
    assert comparative.curves([{"epoch": []}], "accuracy") is None


def row(name: str, value: float) -> dict:
    return {"name": name, "kind": "unlearned", "epochs": 9, "value": value}


def test_only_what_would_hide_all_else_is_left_off_the_scale() -> None:
    near = [row("a", 0.80), row("b", 0.85), row("c", 0.90)]
    assert comparative.off_scale([*near, row("low", 0.5)]) == ["low"]
    assert comparative.off_scale([*near, row("low", 0.65)]) == []
    assert comparative.off_scale([*near, row("high", 2.0)]) == []
    assert comparative.off_scale([*near, row("low", 0.5) | {"kind": "retrained"}]) == []
    assert comparative.off_scale([row("a", 0.9), row("b", 0.9), row("low", 0.1)]) == [], "a third"
    assert comparative.off_scale([]) == []


def test_what_is_left_off_is_named_with_its_numbers(view) -> None:
    (part,) = view["parts"]
    val = next(f for f in part.accuracies if f.title == "Validation accuracy")
    assert re.search(r"below the scale: Gradient, 0\.[34]\d to 0\.5", val.note)


def test_runs_without_traces_have_no_curves() -> None:
    plain = compared.records(repeats=1, lengths=(9,), targets=("random",))
    for record in plain:
        del record["curve"]
    (part,) = comparative.view(summarise(plain), Album())["parts"]
    assert part.curves == {}
    assert "While it unlearns" not in page.render(plain)


def test_the_table_of_mechanisms_is_the_papers_where_cards_agree(records) -> None:
    lines = {line.label: line for line in mechanisms.table(records)}
    assert list(lines) == [label for label, _ in NAMES.values()]
    for label in ("Distillation", "Rotate", "Pruning", "Deviation", "Gradient", "Divergence"):
        assert all(tick.agree for tick in lines[label].ticks.values()), label
    pseudo = lines["Pseudo"].ticks["Re-initialised weights"]
    assert (pseudo.ours, pseudo.published) == (True, False)
    assert lines["Simple"].ticks["Fine-tuned on retain"].published is None
    assert lines["Rotate"].rest == ["permute weights"]
    assert [line.place for line in lines.values()] == [None, 6, 5, 5, 4, 3, 2, 1]


def test_repetitions_with_splits_of_their_own_are_one_group(records) -> None:
    titles = [g.title for g in group(records)]
    assert len(titles) == 2
    assert titles[0].endswith("random")


def test_several_splits_under_one_seed_are_several_groups(records) -> None:
    one = [r | {"seed": 0} for r in records if r["forget"]["name"] == "random"]
    assert len(group(one)) == 3


def test_the_cards_say_what_the_paper_says() -> None:
    cards = {
        name: {"method": {"name": name, "mechanisms": list(vars(cls)["card"].mechanisms)}}
        for name, cls in registry.methods.known().items()
    }
    lines = {line.label: line for line in mechanisms.table(list(cards.values()))}
    differing = [
        (label, column)
        for label, line in lines.items()
        for column, tick in line.ticks.items()
        if not tick.agree
    ]
    # The paper's text draws the last layer anew, its table does not.
    assert differing == [("Pseudo", "Re-initialised weights")]
