"""The report as its reader meets it: in a real browser, by mouse, by keyboard, on a phone, at night."""

from __future__ import annotations

import json
import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from test_report import DIGITS, EVIL
from test_tables import six_blocks, write_run

from ssl_bench import report, watch
from ssl_bench.runs import METRICS, SELECTIONS, collect
from ssl_bench.tables import render, statistics_tables, summarize

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[test]'")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium")

CONTRAST = """() => {
  const channels = text => text.match(/[\\d.]+/g).map(Number);
  const light = color => color.slice(0, 3).map(c => c / 255).map(c => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => {
    const color = channels(getComputedStyle(element).backgroundColor);
    if (color.length < 4) return color;
    const below = element.parentElement ? behind(element.parentElement) : [255, 255, 255];
    return below.map((c, i) => color[3] * color[i] + (1 - color[3]) * c);
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
    if (!own || !element.checkVisibility() || ["SCRIPT", "STYLE", "OPTION"].includes(element.tagName)) continue;
    const style = getComputedStyle(element), ink = element.namespaceURI.endsWith("svg") ? style.fill : style.color;
    const [a, b] = [light(channels(ink)), light(behind(element))].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), element.tagName + "." + (element.getAttribute("class") || ""), element.textContent.slice(0, 30)]);
  }
  return found.sort((x, y) => x[0] - y[0]);
}"""


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    file = tmp_path_factory.mktemp("report") / "digits.html"
    file.write_bytes(report.page(report.page_data([DIGITS], figures=False), "Digits"))
    return file.as_uri()


@pytest.fixture
def opened(browser):
    """opened(address, **context) -> page; at the end nothing was logged and nobody but the address itself was asked."""
    pages = []

    def go(address: str, clock: bool = False, **context):
        page = browser.new_context(reduced_motion="reduce", **context).new_page()  # clicks wait for what moves
        if clock:  # that a test can put forward
            page.clock.install()
        page.set_default_timeout(5_000)
        page.said, page.asked, page.home = [], [], address
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(address)
        pages.append(page)
        return page

    yield go
    for page in pages:
        said, asked, home = page.said, page.asked, page.home.split("#")[0]
        page.context.close()
        assert not said, said
        assert all(url.startswith((home, "data:", "about:")) for url in asked), asked


def cells(page) -> list[list[str]]:
    """The table as text, heads first."""
    return page.evaluate(
        "[...document.querySelectorAll('#table tr')].map(row => [...row.children].map(cell => cell.textContent.replace(/\\s+/g, ' ').trim()))"
    )


def printed(frame, select: str, metric: str) -> list[list[str]]:
    lines = [line for line in render(summarize(frame, select, metric)).splitlines() if line.startswith("|")]
    rows = [[cell.strip().replace("**", "").replace("\\", "") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [rows[0], *rows[2:]]


@pytest.mark.parametrize("metrics", [["top1"], pytest.param([*METRICS], marks=pytest.mark.slow)])
def test_every_rule_and_metric_shows_the_numbers_that_table_prints(opened, digits, metrics):
    page, frame = opened(digits), collect([DIGITS])
    for metric in [value for value in metrics if summarize(frame, "last", value)["n"].any()]:
        page.select_option("#metric", metric)
        for select in page.eval_on_selector_all("#select option", "found => found.map(option => option.value)"):
            page.select_option("#select", select)
            assert cells(page) == printed(frame, select, metric), (metric, select)
            assert SELECTIONS[select] in page.inner_text("#caption") and METRICS[metric] in page.inner_text("#caption")
            summary = {tuple(line[:5]): line[7:10] for line in summarize(frame, select, metric).itertuples(index=False, name=None)}
            shown = page.evaluate("[...summarize(view)].map(([key, cell]) => [...key.split(',').map(Number), cell.mean, cell.std, cell.n])")
            rows, columns = page.evaluate("[data.rows.map(r => [r.method, r.variant]), data.columns.map(c => [c.data, c.labels, c.arch])]")
            for r, c, mean, std, n in shown:
                want = summary[(*rows[r], *columns[c])]
                assert n == want[2]
                np.testing.assert_allclose([mean or np.nan, np.nan if std is None else std], want[:2], rtol=1e-12)
    numbers = [0.25, 0.75, 84.25, 84.75, 1.35, 99.95, 0.05, 33.349999999999994, 100.0]  # summed and rounded as Python does
    assert page.evaluate("numbers => numbers.map(shown)", numbers) == [f"{x:.1f}" for x in numbers]
    assert page.evaluate("exactSum([1e16, 1, -1e16, 0.1, 0.2, 0.3])") == 1.6
    page.select_option("#select", "best")
    assert page.inner_text("#caption .warning") == "(optimistic: chosen on the test set)"


def test_sort_filter_open_and_compare_by_mouse(opened, digits, tmp_path):
    page = opened(digits)
    head = page.locator("#table th", has_text="test_vit")
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending" and cells(page)[1][0] == "semi_vit"
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending" and cells(page)[1][0] == "self_tuning"
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "none" and cells(page)[1][0] == "erm"
    page.fill("#filter-text", "match vit")
    assert [row[0] for row in cells(page)[1:]] == ["debiasmatch", "fixmatch", "flexmatch"] and len(cells(page)[0]) == 2
    page.select_option("#filter-method", "fixmatch")
    assert "5 of 5 runs shown, of 140 in all" in page.inner_text("#run-notes")
    for box in page.locator("#run-table input").all()[:2]:
        box.check()
    page.click("#compare")
    assert page.inner_text("#detail h1") == "Two runs" and page.locator(".marked").count() >= 1 and page.locator(".chart polyline.dash").count() > 2
    page.locator("#detail h2 a").first.click()
    assert page.inner_text("#detail h1").startswith("fixmatch, seed") and "ssl-bench fixmatch -d Digits" in page.inner_text(".command code")
    page.get_by_role("button", name="Copy").click()
    sync_api.expect(page.locator(".command button")).to_have_text(re.compile("Copied|Selected"))
    page.screenshot(path=tmp_path / "run.png", full_page=True)
    assert (tmp_path / "run.png").stat().st_size > 20_000
    page.go_back()
    page.get_by_role("link", name="All runs").click()
    assert page.input_value("#filter-text") == "match vit" and page.locator("#home").is_visible()


def test_everything_can_be_reached_by_keyboard(opened, digits):
    page = opened(digits)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    seen = []
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.dataset.key || document.activeElement.id || document.activeElement.tagName"))
        if seen[-1] == "results-1":
            break
    assert {"select", "metric", "filter-text", "table", "results-name"} <= {*seen}
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    assert page.get_attribute("[aria-sort=descending]", "scope") == "col" and page.evaluate("document.activeElement.dataset.key") == "results-1"
    for _ in range(4):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.locator("#detail").is_visible() and "labels per class" in page.inner_text("#detail .lead")


@pytest.mark.parametrize("scheme", [pytest.param("light", marks=pytest.mark.slow), "dark"])
def test_all_text_can_be_read_and_a_phone_scrolls_only_inside_tables(opened, digits, tmp_path, scheme):
    ids = re.findall(r'"id":"(\w{12})"', Path(digits.removeprefix("file://")).read_text())
    page = opened(digits, viewport={"width": 360, "height": 740}, color_scheme=scheme)
    for place in ("", f"#run/{ids[0]}", f"#compare/{ids[0]}/{ids[-1]}"):
        page.evaluate("hash => { location.hash = hash; }", place)
        page.select_option("#select", "best") if not place else page.wait_for_selector("#detail:not([hidden]) h1")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, place
        least = page.evaluate(CONTRAST)[0]
        assert least[0] >= 4.5, (place, least)
        page.screenshot(path=tmp_path / f"{scheme}.png")


def test_statistics_follow_the_rule_and_pairs_open_on_demand(opened, tmp_path):
    frame = six_blocks(tmp_path / "log")
    (tmp_path / "page.html").write_bytes(report.page(report.page_data([tmp_path / "log"], figures=False), "Six"))
    page = opened((tmp_path / "page.html").as_uri())
    (ranks, pairs), _ = statistics_tables(frame, "best", "top1", "columns", "")
    assert page.locator("#statistics table").count() == 1 and page.inner_text("#statistics strong") == "1.00"
    page.click("#statistics summary")
    assert page.locator("#statistics table").count() == 2
    page.select_option("#select", "best")  # what is open stays open
    assert ranks.caption in page.inner_text("#statistics") and pairs.caption in page.inner_text("#statistics details")
    shown = page.locator("#statistics details tbody tr").all_inner_texts()
    assert [line.split("\t") for line in shown] == [[cell.text for cell in row] for row in pairs.body]
    page.select_option("#metric", "mean_class")
    assert page.inner_text("#statistics-body") == "None for this metric: they compare top-1 accuracies."


def test_predictions_are_shown_class_by_class(opened, tmp_path):
    folder = write_run(tmp_path / "log", num_val_per_class=1)
    (folder / "classes.json").write_text(json.dumps(["cat", "dog", "cow"]))
    result = json.loads((folder / "result.json").read_text())
    result["evaluations"] = [{**row, "val_top1": 50.0} for row in result["evaluations"]]
    (folder / "result.json").write_text(json.dumps({**result, "num_classes": 3}))
    parts = {"target": [0, 0, 0, 1], "prediction": [0, 1, 0, 1]}
    np.savez(folder / "predictions.npz", **{k: np.array(v, np.int32) for k, v in parts.items()}, confidence=np.array([0.9, 0.5, 0.9, 0.9], np.float32))
    data = report.page_data([tmp_path / "log"], figures=False)
    (tmp_path / "page.html").write_bytes(report.page(data, "One"))
    page = opened((tmp_path / "page.html").as_uri() + f"#run/{data['runs'][0]['id']}")
    assert page.locator(".bars .value").all_inner_texts() == ["66.7 % (2 of 3)", "100.0 % (1 of 1)", "no images"]
    assert page.locator(".confusion tbody tr").all_inner_texts() == ["cat\t2\t1\t0", "dog\t0\t1\t0", "cow\t0\t0\t0"]
    large, small = sorted((float(r) for r in page.eval_on_selector_all(".bin", "all => all.map(c => c.getAttribute('r'))")), reverse=True)
    assert (small - 2) / (large - 2) == pytest.approx((1 / 3) ** 0.5)
    assert "expected calibration error 20.0 % of 4 images" in page.inner_text("#detail")  # (3 |1 - 0.9| + |0 - 0.5|) / 4
    assert "val" in page.locator("[aria-label='Results by selection rule'] th").all_inner_texts()


def test_texts_from_files_are_shown_and_do_nothing(opened, tmp_path):
    folder = write_run(tmp_path / "log", data=EVIL, arch=EVIL, note=EVIL)
    (folder / "classes.json").write_text(json.dumps([EVIL, "<b>b</b>"]))
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 5, "kind": "test", "top1": 3.0, EVIL: 3}) + "\n" + json.dumps({"step": 5, "kind": "warning", "text": EVIL}))
    np.savez(folder / "predictions.npz", target=np.array([0, 1], np.int32), prediction=np.array([0, 0], np.int32), confidence=np.array([0.5, 0.9], np.float32))
    (write_run(tmp_path / "log", seed=1, data=EVIL, arch=EVIL) / "result.json").write_text(EVIL)
    data = report.page_data([tmp_path], figures=False)
    (tmp_path / "page.html").write_bytes(report.page(data, EVIL))
    page = opened((tmp_path / "page.html").as_uri())
    page.on("dialog", lambda dialog: page.said.append(dialog.message))
    assert EVIL in page.inner_text("h1") and EVIL in page.inner_text("#table") and "result.json" in page.inner_text("#left-out")
    page.evaluate("id => { location.hash = `run/${id}`; }", data["runs"][0]["id"])
    page.wait_for_selector(".confusion")
    assert EVIL in page.inner_text(".confusion") and EVIL in page.inner_text(".note") and page.locator("script, b, iframe").count() == 2


def test_a_watched_page_follows_a_run_and_keeps_what_its_reader_did(opened, tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "SHARE", 0)
    log = tmp_path / "log"
    write_run(log)
    going = write_run(log, seed=1, top1=None)
    serving = watch.server([str(log)], "Live", None, 0)
    threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01}).start()
    try:
        page = opened(f"http://127.0.0.1:{serving.server_address[1]}/", clock=True)
        page.fill("#filter-text", "fixmatch")
        page.locator("#run-table .sort").first.click()
        (going / "metrics.jsonl").write_text('{"step": 7, "kind": "test", "top1": 51.5}\n')
        page.clock.run_for(3_000)
        sync_api.expect(page.locator("#run-table")).to_contain_text("incomplete, step 7, 51.5 %", timeout=10_000)
        assert page.input_value("#filter-text") == "fixmatch" and page.evaluate("document.activeElement.dataset.key") == "runs-name"
        assert page.get_attribute("#run-table th", "aria-sort") == "ascending"
        (going / ".owner.json").write_text("{}")  # which a trainer writes beside its lock
        with FileLock(going / ".lock"):
            page.clock.run_for(3_000)
            sync_api.expect(page.locator("#run-table")).to_contain_text("running, step 7, 51.5 %", timeout=10_000)
        assert "live" in page.inner_text("#live")
        page.goto("about:blank")
    finally:
        serving.shutdown()
        serving.server_close()
