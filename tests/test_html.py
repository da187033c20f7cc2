"""The HTML page: its structure, what it may do in a browser, and that no string escapes its place."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest
from msgspec.structs import replace

from bnfuse.core.decisions import Plan
from bnfuse.report import render, text
from bnfuse.report.text import shortened
from bnfuse.results import Agreement, Details, Report, Status
from tests.html_pages import Page, layer, whole_report
from tests.report_samples import HOSTILE, bench_run, fold, keep, report

PAGES = {
    "whole": whole_report(),
    "plain": report(),
    "inspected": report(output=None, verification=Agreement(Status.SKIPPED), benchmark=None),
    "empty": report(plan=Plan(()), operators_before={}, operators_after={}, versions={}, seconds={}),
    "nothing drawn": report(details=Details((None, None, None), ())),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_elements_and_attributes_do_not_depend_on_names(name: str) -> None:
    page, harmless = (Page(render(whole_report(n, n), ".html")) for n in (name, "harmless"))
    assert page.tags == harmless.tags
    assert page.attributes == harmless.attributes
    assert text.plain(name) in page.text
    assert not page.unclosed


@pytest.mark.parametrize("name", HOSTILE)
def test_the_data_block_holds_no_markup_and_gives_the_names_back(name: str) -> None:
    page = Page(render(whole_report(name), ".html"))
    (block,) = [data for data in page.inside["script"] if data.startswith('{"names"')]
    assert not re.search(r"[<>&\u2028\u2029]", block)
    assert page.graphs["names"] == [text.plain(shortened(name))]


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_every_element_is_closed_and_every_reference_finds_its_target(page: Report) -> None:
    made = Page(render(page, ".html"))
    assert not made.unclosed and not made.open_tags
    ids = [value for key, value in made.attributes if key == "id"]
    assert len(set(ids)) == len(ids)
    wanted = [value or "" for key, value in made.attributes if key in ("aria-labelledby", "for")]
    wanted += [(value or "").removeprefix("#") for key, value in made.attributes if key == "href"]
    assert {one for value in wanted for one in value.split()} <= set(ids)
    assert made.tags.count("h1") == 1 and made.tags.count("main") == 1


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_nothing_is_loaded_and_only_what_is_its_own_may_run(page: Report) -> None:
    source = render(page, ".html")
    assert not re.search(r'\ssrc=|href="[^#]|url\(|@import|\sstyle=|\son\w+=', source)
    policy = next(value for value in re.findall(r'content="(default-src[^"]*)"', source))
    assert policy.startswith("default-src 'none'; ")
    for tag in ("style", "script"):
        (own,) = re.findall(rf"<{tag}>(.*?)</{tag}>", source, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy


def test_the_script_makes_no_markup_of_strings() -> None:
    (script,) = re.findall(r"<script>(.*?)</script>", render(report(), ".html"), flags=re.DOTALL)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Function\(", script)


def test_a_row_says_which_group_it_is_in() -> None:
    plan = Plan((fold("a"), keep("b"), keep("c"), keep("d", node="Tanh 't'")))
    source = render(report(plan=plan), ".html")
    rows = re.findall(r'<tr data-action="(\w+)" data-reason="([\w-]+)"', source)
    assert rows == [("folded", "up"), ("kept", "g0"), ("kept", "g0"), ("kept", "g1")]
    options = dict(re.findall(r'<option value="([\w-]+)">([^<]*)</option>', source))
    assert options["g0"] == "NONLINEAR at Softmax (2)" and options["g1"] == "NONLINEAR at Tanh (1)"
    assert options["up"] == "up (1)"
    assert re.findall(r'data-reason="(g\d)" hidden>show', source) == ["g0", "g1"]


def test_the_page_says_what_the_report_holds() -> None:
    words = Page(render(whole_report("some node"), ".html")).text
    for part in (
        "1 of 2 BatchNormalizations folded",
        "into some node",
        "8×4×3×3",
        "0.25 … 4",
        "300 %",
        "1 → 4",
        "1.25 → 8",
        "7.7 → 5.0 bits",
        "1.200× (1.150–1.250)",
        "10 MB",
        "basis some node",
        "Equality breaks with the fold of some node",
        "89 %",
        "10 % slower",
        "102.4 MB → 102.3 MB",
    ):
        assert part in words, part


def test_without_details_there_are_no_graphs_and_no_layers() -> None:
    page = Page(render(report(), ".html"))
    assert "application/json" not in dict(page.attributes).values()
    assert ("id", "layers") not in page.attributes
    assert not [key for key, _ in page.attributes if key == "data-graph"]


def test_layers_that_spread_are_told_of() -> None:
    wide = layer("wide", spread_before=2.0, spread_after=40.0)
    found = report(details=Details((), (wide, layer("calm"))))
    made = Page(render(found, ".html")).text
    assert "In 1 the ranges of the channels spread by far more" in made
    planned = Page(render(replace(found, output=None), ".html")).text
    assert "Folding would rewrite 2 layers. 2 of them would get a bias they did not have. " in planned
    assert "In 1 the ranges of the channels would spread by far more than before" in planned
    calm = Page(render(report(details=Details((), (layer("calm"),))), ".html")).text
    assert "In none of them" in calm


def test_an_axis_of_ratios_is_drawn_only_where_there_is_a_ratio() -> None:
    """An axis without a mark on it reads as if something were missing."""
    latency = report().benchmark
    assert latency is not None
    known, unknown = bench_run("optimisation on"), bench_run("cold start", ci95=None, speedup=None)
    heads = [
        re.findall(r">([^<]*× – [^<]*×)</th>", render(report(benchmark=replace(latency, runs=runs)), ".html"))
        for runs in ((known, unknown), (unknown,))
    ]
    assert [len(head) for head in heads] == [1, 0]


CURVES = [
    # 41 quantiles from 1 to 2 ms: the line starts at 0 % and ends at 100 %.
    (tuple(1 + i / 40 for i in range(41)), 41),
    # only p50, p90 and p99 are known
    ((), 3),
]


@pytest.mark.parametrize(("quantiles", "points"), CURVES)
def test_distributions_are_drawn_from_what_is_known(quantiles: tuple[float, ...], points: int) -> None:
    run = replace(bench_run("optimisation on"), before_quantiles_ms=quantiles, after_quantiles_ms=quantiles)
    latency = report().benchmark
    assert latency is not None
    source = render(report(benchmark=replace(latency, runs=(run,))), ".html")
    lines = re.findall(r'<polyline class="(before|after)" points="([^"]*)"', source)
    assert [kind for kind, _ in lines] == ["before", "after"]
    assert [len(line.split()) for _, line in lines] == [points, points]
    ys = [float(point.split(",")[1]) for point in lines[0][1].split()]
    assert ys == sorted(ys, reverse=True)  # the share grows, and SVG's y points down
