import numpy as np
import pytest
from PIL import Image

from expunge.report import charts, comparison, evidence, theme
from expunge.report.charts import Kinds
from expunge.study import table
from tests.report import made


@pytest.fixture(scope="module")
def rows():
    return table.summarise(made.records(2))


def pick(rows, *values):
    return [next(c for c in rows[0].columns if c.value == value) for value in values]


def kinds(rows, ask):
    by = {row.label: row for row in rows}
    return Kinds(*(ask(by[name]) for name in ("finetune", "original", "retrained")))


def every_chart(rows):
    auc, test = pick(rows, "auc", "test")
    yield comparison.tradeoff(rows, auc, test)
    yield comparison.distances(rows, auc)
    yield charts.roc(kinds(rows, lambda r: evidence.curve(r, "loss_attack")))
    classes = kinds(rows, lambda r: evidence.per_class(r, "accuracy", "test"))
    yield charts.classes(classes, made.CIFAR)
    yield charts.confusion(evidence.confusion(rows[0], "accuracy", "test"), made.CIFAR)
    shares = kinds(rows, lambda r: evidence.spread(evidence.arrays(r, "loss_attack", "risk")))
    yield charts.risk(shares)


def test_every_chart_fits_the_schema_and_becomes_a_picture(rows, tmp_path):
    for number, chart in enumerate(every_chart(rows)):
        assert chart is not None
        chart.to_dict(validate=True)
        charts.save(chart, tmp_path / f"{number}.png")
        with Image.open(tmp_path / f"{number}.png") as picture:
            assert min(picture.size) > 200
            assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 10


def test_a_picture_has_no_colour_that_only_a_page_could_resolve(rows, tmp_path):
    chart = comparison.distances(rows, *pick(rows, "auc"))
    assert chart is not None
    for shade in ("light", "dark"):
        charts.save(chart, tmp_path / "x.svg", theme=shade)
        text = (tmp_path / "x.svg").read_text()
        assert "var(--" not in text
        assert theme.COLOURS["leaks"][shade == "dark"] in text


def test_other_endings_are_refused(rows, tmp_path):
    chart = comparison.distances(rows, *pick(rows, "auc"))
    assert chart is not None
    with pytest.raises(ValueError, match=r"\.png or \.svg"):
        charts.save(chart, tmp_path / "x.gif")


def test_mean_curve_is_the_vertical_mean():
    record = made.record(audits=("loss_attack",), retrained=0)
    other = made.record(seed=1, audits=("loss_attack",), retrained=0)
    for each, heights in ((record, [0.2, 0.4, 1.0]), (other, [0.4, 0.8, 1.0])):
        arrays = each["findings"][0]["unlearned"]["arrays"]
        arrays |= {"roc_fpr": [0.01, 0.1, 1.0], "roc_tpr": heights}
    method = table.summarise([record, other])[-1]
    curve = evidence.curve(method, "loss_attack")
    assert curve is not None
    at = int(np.argmin(np.abs(np.array(curve.fpr) - 0.01)))
    assert curve.mean[at] == pytest.approx(0.3, abs=1e-3)
    assert (curve.low[at], curve.high[at]) == pytest.approx((0.2, 0.4), abs=1e-3)


def test_risks_are_matched_by_record_across_seeds():
    records = [made.record(seed=s, audits=("loss_attack",), retrained=0) for s in (0, 1)]
    for record, risk in zip(records, ([0.9, 0.1], [0.3, 0.7]), strict=True):
        record["findings"][0]["unlearned"]["arrays"] |= {"risk": risk, "index": [5, 8]}
    rows = table.summarise(records)
    controls = {"original": rows[0], "retrained": None}
    top = evidence.riskiest(rows[-1], controls, "loss_attack")
    assert [(r.name, r.risk) for r in top] == [("5", pytest.approx(0.6)), ("8", pytest.approx(0.4))]
    assert top[0].retrained is None


def test_classes_without_records_have_no_bar():
    chart = charts.classes(Kinds([None, 0.5], [None, 0.9], []), ["cat", "dog"])
    assert chart is not None
    (rows,) = chart.to_dict()["datasets"].values()
    assert [row["class"] for row in rows] == ["dog"]
    assert charts.classes(Kinds([None], [None], []), ["cat"]) is None


def test_a_hundred_classes_keep_only_cells_that_can_be_seen():
    counts = np.eye(100, dtype=int) * 500 + 1
    (rows,) = charts.confusion(counts, []).to_dict()["datasets"].values()
    assert len(rows) == 100
