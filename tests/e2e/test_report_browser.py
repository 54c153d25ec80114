"""The report in a real browser: what no parser can promise."""

import json
import os
import shutil
import time

import pytest

from expunge.report import page
from tests.report import made

selenium = pytest.importorskip("selenium")
from selenium import webdriver  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--window-size=1360,1000",
]
LOGS = {"browser": "ALL", "performance": "ALL"}


def programs():
    found = [shutil.which("chromium"), shutil.which("chromedriver")]
    if all(found):
        return found
    if os.environ.get("CI") == "true":
        pytest.fail("chromium and chromedriver are needed here: apt-get install chromium-driver")
    return pytest.skip("needs Debian's chromium and chromium-driver")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser_path, driver_path = programs()
    options = webdriver.ChromeOptions()
    options.binary_location = browser_path
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", LOGS)
    driver = webdriver.Chrome(options=options, service=Service(driver_path))
    yield driver
    driver.quit()


def visit(browser, folder, records):
    for kind in LOGS:
        browser.get_log(kind)
    file = folder / "report.html"
    page.write(records, file)
    browser.get(file.as_uri())
    deadline = time.monotonic() + 120
    while browser.execute_script("return document.documentElement.dataset.charts") != "done":
        assert time.monotonic() < deadline, "the charts were not drawn within two minutes"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def report(browser, tmp_path_factory):
    visit(browser, tmp_path_factory.mktemp("report"), made.records(2))
    return browser


def names(report):
    rows = report.find_elements(By.CSS_SELECTOR, "table.results tbody tr")
    return [row.find_element(By.TAG_NAME, "th").text.replace("\n", "") for row in rows]


def aucs(report):
    heads = report.find_elements(By.CSS_SELECTOR, "table.results thead th")
    at = [head.text.replace("\n", " ") for head in heads].index("Attack AUC") + 1
    cells = report.find_elements(By.CSS_SELECTOR, f"table.results tbody td:nth-child({at})")
    return heads[at - 1].find_element(By.TAG_NAME, "button"), [
        float(cell.get_attribute("data-value")) for cell in cells
    ]


# First, while the logs still hold the visit.
def test_no_errors_and_no_requests(report):
    assert report.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in report.get_log("performance")]
    sent = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
    # A browser that has just started loads pages of its own: only what ours asks for counts.
    ours = [event for event in sent if event["documentURL"].startswith("file:")]
    asked = [event["request"]["url"] for event in ours]
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert len([url for url in asked if url.startswith("file:")]) == 1


def test_every_chart_is_drawn(report):
    charts = report.find_elements(By.CSS_SELECTOR, ".chart")
    assert len(charts) > 25
    for chart in charts:
        assert chart.get_attribute("data-state") == "done"
        drawn = chart.find_element(By.CSS_SELECTOR, "svg, canvas")
        assert drawn.size["width"] > 100
        assert drawn.size["height"] > 50
    marks = report.find_elements(By.CSS_SELECTOR, ".chart svg path")
    assert len(marks) > 500


def test_sorting_goes_both_ways(report):
    button, before = aucs(report)
    button.click()
    assert aucs(report)[1] == sorted(before, reverse=True)
    aucs(report)[0].click()
    assert aucs(report)[1] == sorted(before)
    first = report.find_element(By.CSS_SELECTOR, "table.results thead button")
    first.send_keys(Keys.ENTER)
    assert names(report) == sorted(names(report), key=str.lower)
    assert first.find_element(By.XPATH, "..").get_attribute("aria-sort") == "ascending"
    first.send_keys(Keys.ENTER)
    assert names(report) == sorted(names(report), key=str.lower, reverse=True)


def test_charts_follow_the_theme(report):
    def seen():
        script = """const style = (query) => getComputedStyle(document.querySelector(query));
        return [style("body").backgroundColor, style(".chart svg text").fill];"""
        return report.execute_script(script)

    toggle = report.find_element(By.ID, "theme")
    light, pressed = seen(), toggle.get_attribute("aria-pressed")
    toggle.click()
    dark = seen()
    assert all(a != b for a, b in zip(light, dark, strict=True))
    assert toggle.get_attribute("aria-pressed") != pressed
    report.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert seen()[1] == light[1], "paper is light whatever the theme"
    report.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    toggle.click()
    assert seen() == light


def test_printing_opens_what_is_folded(report):
    paper = report.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"]
    assert len(paper) > 100_000
    assert report.find_elements(By.CSS_SELECTOR, "details[open]") == []
    report.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert report.find_elements(By.CSS_SELECTOR, "details:not([open])") == []
    report.execute_script("dispatchEvent(new Event('afterprint'))")


def test_a_phone_scrolls_the_table_not_the_page(report):
    size = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    report.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    time.sleep(0.5)
    width = report.execute_script("return document.documentElement.scrollWidth")
    report.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert width <= 390


def test_a_hostile_name_is_shown_not_run(browser, tmp_path):
    name = "<img src=x onerror=alert(1)></script><script>alert(2)</script>"
    record = made.record(classes=[name, "dog"])
    record["method"]["name"] = name
    visit(browser, tmp_path, [record])
    assert browser.get_log("browser") == []
    assert name in browser.find_element(By.CSS_SELECTOR, ".card h3").text


@pytest.mark.parametrize(
    "records",
    [
        made.records(1, retrained=0),
        [made.record(audits=("oddity",)), made.record("finetune", status="diverged")],
        [made.record(classes=[f"class {i}" for i in range(100)], forget=2000)],
        made.attacked(2),
    ],
    ids=["no retrained model", "an unknown audit and a failure", "a hundred classes", "recall"],
)
def test_other_runs_draw_without_complaint(browser, tmp_path, records):
    visit(browser, tmp_path, records)
    assert browser.get_log("browser") == []
