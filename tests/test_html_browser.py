"""What the page's own script does, in a real browser where there is one: filter, sort, open a row, draw.

The page runs unchanged but for its content security policy, which would forbid the test's own script; that
the policy lets the page's script run is tested on the page as it is.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from bnfuse.core.decisions import Plan
from bnfuse.report import render
from bnfuse.results import Details
from bnfuse.results.many import Collected
from tests.html_pages import layer, neighbourhood, whole_report
from tests.many_models import outcomes
from tests.report_samples import fold, keep, report

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-quic", "--virtual-time-budget=2000"),
)
_LONG = "/backbone/stage3/block42/layer342/BatchNormalization"
_EVIL = "<img src=x onerror=alert(1)>"

pytestmark = pytest.mark.slow

_SCRIPT = """
const rows = () => [...document.querySelectorAll("#every tbody tr[data-action]")];
const shown = () => rows().filter((row) => !row.hidden).map((row) => row.cells[1].textContent);
const set = (id, value) => {
  const field = document.getElementById(id);
  field.value = value;
  field.dispatchEvent(new Event("input", { bubbles: true }));
};
const press = (column) => document.querySelectorAll("#every thead th button")[column].click();
const told = () => document.getElementById("shown").textContent;
const seen = {};
seen.all = [shown(), told()];
set("words", "RELU softmax");
seen.words = shown();
set("words", "no such node");
seen.none = [shown(), told()];
set("words", "");
set("action", "kept");
seen.kept = shown();
set("action", "");
set("reason", "up");
seen.up = shown();
document.querySelector(".show").click();
seen.group = [shown(), document.getElementById("reason").value];
set("reason", "");
press(1);
seen.sorted = [shown(), document.querySelectorAll("#every th")[1].getAttribute("aria-sort")];
press(1);
seen.reversed = [shown(), document.querySelectorAll("#every th")[1].getAttribute("aria-sort")];
press(3);
seen.channels = rows().map((row) => row.cells[3].textContent);
seen.lazy = document.querySelectorAll(".graph svg").length;
const row = rows().find((one) => one.cells[1].textContent === "bn10");
const button = row.querySelector(".toggle");
button.click();
const detail = row.nextElementSibling;
const box = (g) => [g.getAttribute("class"), g.querySelector("title").textContent];
const drawn = (figure) => [...figure.querySelectorAll("g")].map(box);
seen.open = [button.getAttribute("aria-expanded"), detail.className, detail.hidden];
seen.figures = [...detail.querySelectorAll("figure")].map(drawn);
seen.bridges = [...detail.querySelectorAll("figure")].map((f) => f.querySelectorAll(".bridge").length);
seen.more = detail.textContent.includes("7 more nodes");
set("action", "kept");
seen.hiddenWithRow = detail.hidden;
set("action", "");
seen.shownWithRow = !detail.hidden;
button.click();
seen.closed = [button.getAttribute("aria-expanded"), detail.hidden];
seen.label = button.getAttribute("aria-label");
seen.images = document.images.length;
const pre = document.createElement("pre");
pre.id = "seen";
pre.textContent = JSON.stringify(seen);
document.body.append(pre);
"""


def _dom(page: str, folder: Path) -> str:
    """The document after its scripts ran; skips where no browser starts."""
    browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if browser is None:
        pytest.skip("no Chromium here")
    path = folder / "page.html"
    path.write_text(page, encoding="utf-8")
    command = [browser, *_OPTIONS, f"--user-data-dir={folder / 'profile'}", "--dump-dom", path.as_uri()]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("the browser does not answer")
    if "<body" not in done.stdout:
        pytest.skip(f"the browser does not start: {done.stderr[-200:]}")
    return done.stdout


def _page() -> str:
    plan = Plan((fold("bn10"), keep("bn9"), fold(_EVIL), keep("relu", node="Softmax 's'")))
    details = Details(
        (neighbourhood("bn10"), neighbourhood("bn9"), neighbourhood(_EVIL), neighbourhood("r")), (layer("l"),)
    )
    return render(report(plan=plan, details=details), ".html")


_WIDTHS = """
const frame = document.createElement("iframe");
const seen = {};
const widths = [360, 390, 600, 800, 890, 900, 1000, 1280, 1920];
frame.height = 800;
document.body.replaceChildren(frame);
frame.srcdoc = PAGE;
frame.onload = () => {
  for (const width of widths) {
    frame.width = width;
    const root = frame.contentDocument.documentElement;
    seen[width] = root.scrollWidth - root.clientWidth;
  }
  const pre = document.createElement("pre");
  pre.id = "seen";
  pre.textContent = JSON.stringify(seen);
  document.body.append(pre);
};
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return _answer(_page(), _SCRIPT, tmp_path_factory.mktemp("page"))


def _answer(page: str, script: str, folder: Path) -> dict[str, Any]:
    """What a script that the page is made to run finds out."""
    open_page, count = re.subn(r"<meta http-equiv=[^>]*>", "", page)
    assert count == 1
    dom = _dom(open_page.replace("</body>", f"<script>{script}</script></body>"), folder)
    found = re.search(r'<pre id="seen">(.*?)</pre>', dom, flags=re.DOTALL)
    assert found, "the test's script did not end"
    document: dict[str, Any] = json.loads(html.unescape(found[1]))
    return document


def test_the_filter_finds_all_words_in_any_column(seen: dict[str, Any]) -> None:
    every = ["bn10", "bn9", _EVIL, "relu"]
    assert seen["all"] == [every, "4 of 4"]
    assert seen["words"] == ["relu"]
    assert seen["none"] == [[], "0 of 4"]
    assert seen["kept"] == ["bn9", "relu"]
    assert seen["up"] == ["bn10", _EVIL]
    assert seen["group"] == [["bn9", "relu"], "g0"]


def test_columns_sort_both_ways_and_numbers_by_value(seen: dict[str, Any]) -> None:
    names, way = seen["sorted"]
    assert names.index("bn9") < names.index("bn10") < names.index("relu") and way == "ascending"
    assert seen["reversed"] == [names[::-1], "descending"]
    assert seen["channels"] == sorted(seen["channels"], key=int)


def test_a_row_opens_its_graph_only_when_asked(seen: dict[str, Any]) -> None:
    assert seen["lazy"] == 0
    assert seen["open"] == ["true", "detail", False]
    assert seen["more"] and seen["hiddenWithRow"] and seen["shownWithRow"]
    assert seen["closed"] == ["false", True]
    assert seen["label"] == "graph around bn10"


def test_the_node_is_struck_out_before_and_absent_after(seen: dict[str, Any]) -> None:
    before, after = seen["figures"]
    assert [kind for kind, _ in before] == ["end", "into", "self gone", "", "end"]
    assert [kind for kind, _ in after] == ["end", "into", "", "end"]
    assert before[1][1] == "bn10 bn10"
    assert seen["bridges"] == [0, 1]


def test_names_stay_text_in_the_browser(seen: dict[str, Any]) -> None:
    assert seen["images"] == 0
    assert _EVIL in seen["all"][0]


def test_the_page_does_not_scroll_sideways_at_any_width(tmp_path: Path) -> None:
    _fits_all_widths(whole_report(_LONG), tmp_path)


def test_nor_does_that_on_many_models_with_all_reports_open(tmp_path: Path) -> None:
    path = _LONG.lstrip("/") + ".onnx"
    every = [replace(one, model=path, report=one.report and whole_report(_LONG)) for one in outcomes()]
    _fits_all_widths(Collected("optimize", every, 2), tmp_path)


def _fits_all_widths(found: Any, folder: Path) -> None:
    page = render(found, ".html").replace("<details", "<details open")
    plain, _ = re.subn(r"<meta http-equiv=[^>]*>", "", page)
    script = _WIDTHS.replace("PAGE", json.dumps(plain).replace("<", "\\u003c"))
    assert set(_answer(_page(), script, folder).values()) == {0}


def test_the_policy_lets_the_pages_own_script_run(tmp_path: Path) -> None:
    dom = _dom(_page(), tmp_path)
    assert "4 of 4</output>" in dom
    assert 'class="toggle"' in dom
