import json
from html.parser import HTMLParser

import pytest

from expunge.report import details, page
from tests.report import made

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'{{7*7}}"


class Loads(HTMLParser):
    """Collects what a page would load, run or contain."""

    def __init__(self):
        super().__init__()
        self.urls, self.tags, self.handlers = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "srcset", "data", "action", "poster", "background", "xlink:href"):
                self.urls.append(value)
            if name == "href" and tag != "a":  # a link loads nothing until it is followed
                self.urls.append(value)
            if name.startswith("on"):
                self.handlers.append(name)


def parse(html):
    loads = Loads()
    loads.feed(html)
    return loads


@pytest.fixture(scope="module")
def html():
    return page.render(made.records(2))


def test_the_page_loads_nothing(html):
    loads = parse(html)
    assert all(url.startswith("#icon-") for url in loads.urls)
    assert not {"iframe", "link", "object", "embed", "base", "img"} & set(loads.tags)
    assert loads.handlers == []
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'" in html


def test_the_page_says_what_was_done(html):
    for said in ("400</b> of 45,000", "cifar10", "resnet18", "salun", "finetune", "over-unlearned"):
        assert said in html
    assert "of 2 seeds" in html
    assert "Climb the loss" in html
    assert made.digest("cifar10") in html
    assert "2.13.0+cpu" in html
    assert "No retrained model" not in html


def test_the_same_records_give_the_same_page():
    assert page.render([made.record()]) == page.render([made.record()])


def test_hostile_names_stay_words():
    record = made.record(classes=[HOSTILE, "dog"])
    record["method"] |= {"name": HOSTILE, "summary": HOSTILE, "settings": {HOSTILE: HOSTILE}}
    record["method"]["source"] = "javascript:alert(3)"
    record["data"]["name"] = record["run"] = record["verdict"]["sentence"] = HOSTILE
    record["verdict"]["kind"] = HOSTILE
    for finding in record["findings"]:
        finding |= {"statement": HOSTILE, "question": HOSTILE}
        if "index" in finding["unlearned"]["arrays"]:
            finding["unlearned"]["arrays"]["ids"] = [HOSTILE] * 400
    html = page.render([record])
    plain, hostile = parse(page.render([made.record(audits=())])), parse(html)
    assert hostile.tags.count("script") == plain.tags.count("script")
    assert "img" not in hostile.tags
    assert hostile.handlers == []
    assert "<script>alert" not in html
    assert 'href="javascript' not in html
    assert "49" not in html.split("<h1>")[1].split("</h1>")[0]


def test_records_come_along_without_arrays(html):
    part = html.split('<script type="application/json" id="records">')[1].split("</script>")[0]
    records = json.loads(part)
    assert records == json.loads(json.dumps(details.slim(made.records(2))))
    assert "arrays" not in part


def test_too_many_records_are_left_out_and_the_page_says_so(monkeypatch):
    monkeypatch.setattr(page, "EMBEDDED", 10)
    html = page.render([made.record(audits=())])
    assert 'id="records"' not in html
    assert 'id="download"' not in html
    assert "too many to be carried" in html


def test_numbers_that_json_cannot_hold_do_not_break_the_page():
    record = made.record(audits=("accuracy",))
    record["findings"][0]["unlearned"]["values"]["forget"] = float("nan")
    html = page.render([record])
    assert "NaN" not in html.split('id="charts">')[1].split("</script>")[0]


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([made.record(retrained=0)], "No retrained model"),
        ([made.record(retrained=1)], "salun"),
        ([made.record(audits=("oddity",))], "oddity: strangeness"),
        ([made.record(audits=("accuracy",), classes=("a", "b"))], "Forget accuracy"),
        ([made.record(audits=())], "salun"),
        ([made.record("finetune", status="failed")], "MemoryError"),
        ([made.record(audits=("cost",)), made.record("finetune", status="diverged")], "Diverged"),
        ([made.record(audits=("cost",)), made.record(data="svhn", audits=())], "group-2"),
    ],
)
def test_every_kind_of_run_has_a_page(records, words):
    assert words in page.render(records)


def test_a_record_may_hold_very_little():
    record = made.record(audits=(), retrained=0) | {"cost": None, "key": ""}
    record["measured"] = {"seconds": None, "peak_bytes": None, "training_seconds": None}
    record["measured"] |= {"retraining_seconds": [None]}
    record["data"]["classes"] = []
    assert "not measured" in page.render([record])


def test_write_makes_the_folder_and_says_where_it_cannot(tmp_path):
    page.write([made.record(audits=())], tmp_path / "new" / "report.html")
    assert (tmp_path / "new" / "report.html").read_text().startswith("<!doctype html>")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write the report"):
        page.write([made.record(audits=())], tmp_path / "file" / "report.html")


def test_no_records_is_an_error():
    with pytest.raises(ValueError, match="at least one record"):
        page.render([])
