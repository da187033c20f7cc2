"""The sizes that were run, in every form of a report, from the command line down."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from msgspec.structs import replace

from bnfuse.measure.baseline import compare, read_baseline
from bnfuse.report import render, sizes, text
from bnfuse.report.json import document as document_of
from bnfuse.results import Agreement, Axis, Comparison, FileInfo, Latency, Machine, RanInput, Report, Status
from tests.command import FAST, call
from tests.report_samples import HOSTILE, bench_run, in_terminal, report
from tests.report_schema import assert_fits
from tests.sized_nets import Net, free
from tests.tiny_models import save

OPTION = "--shape gives others"
B, D, G, GIVEN = Axis.BATCH, Axis.DECLARED, Axis.GUESSED, Axis.GIVEN
IMAGE = RanInput("x", "float32", (2, 3, 224, 224), (B, D, G, G))
IDS = RanInput("ids", "int64", (2, 64), (B, G))


def one(shape: tuple[int, ...], *axes: Axis, more: int = 0) -> RanInput:
    return RanInput("x", "float32", shape, axes, more)


IN_WORDS = [
    ((), "", ""),
    ((IMAGE,), "x 2×3×224×224 (height and width guessed)",
     "x 2×3×224×224 (batch 2, height and width guessed); --shape gives others"),
    ((one((2, 8, 9, 3), B, G, G, D),), "x 2×8×9×3 (height and width guessed)",
     "x 2×8×9×3 (batch 2, height and width guessed); --shape gives others"),
    ((one((1, 1, 8, 8, 8), D, D, G, G, G),), "x 1×1×8×8×8 (depth, height and width guessed)",
     "x 1×1×8×8×8 (depth, height and width guessed); --shape gives others"),
    ((one((2, 3, 8, 8), B, G, G, G),), "x 2×3×8×8 (axes 1, 2 and 3 guessed)",
     "x 2×3×8×8 (batch 2, axes 1, 2 and 3 guessed); --shape gives others"),
    ((one((1, 3, 8, 8), D, D, D, D),), "x 1×3×8×8", "x 1×3×8×8"),
    ((one((1, 3, 8, 8), GIVEN, D, GIVEN, GIVEN),), "x 1×3×8×8", "x 1×3×8×8"),
    ((one((4, 3), B, D, more=2),), "x 4×3 (and 2 other sizes)", "x 4×3 (batch 4, and 2 other sizes)"),
    ((one(()),), "x of one value", "x of one value"),
    ((IMAGE, IDS), "x 2×3×224×224 (height and width guessed), ids 2×64 (axis 1 guessed)",
     f"x 2×3×224×224 (batch 2, height and width guessed), ids 2×64 (batch 2, axis 1 guessed); {OPTION}"),
    ((one((1,), D),) * 5, "x 1, x 1, x 1 and 2 more", "x 1, x 1, x 1 and 2 more"),
]  # fmt: skip


@pytest.mark.parametrize(("inputs", "short", "whole"), IN_WORDS)
def test_sizes_in_words(inputs: tuple[RanInput, ...], short: str, whole: str) -> None:
    assert (sizes.inputs(inputs), sizes.sizes(inputs)) == (short, whole)


def test_a_bench_of_several_batches_tells_the_rest_once() -> None:
    eight = replace(IMAGE, shape=(8, 3, 224, 224))
    small = replace(IMAGE, shape=(8, 3, 64, 64))
    runs = [bench_run("a", inputs=(ran,)) for ran in (IMAGE, eight, IMAGE)]
    assert sizes.benched(runs) == ["x N×3×224×224 (height and width guessed); --shape gives others"]
    assert sizes.benched(runs[:1]) == [sizes.sizes((IMAGE,))]
    assert sizes.benched([*runs, bench_run("b", inputs=(small,))]) == [
        "x N×3×224×224 (height and width guessed); --shape gives others (with a, batch 1)",
        "x 8×3×64×64 (batch 8, height and width guessed); --shape gives others (with b, batch 1)",
    ]
    assert sizes.benched([bench_run("a")]) == []


@pytest.mark.parametrize("status", [Status.EQUAL, Status.DIFFERENT, Status.INCONCLUSIVE])
def test_the_verdict_holds_for_these_sizes(status: Status) -> None:
    found = Agreement(status, evidence="a runtime", inputs=(IMAGE,))
    assert ", for x 2×3×224×224 (height and width guessed); a runtime" in text.proof(found)


def sized_report(ran: RanInput = IMAGE) -> Report:
    made = report()
    assert made.benchmark is not None
    runs = tuple(replace(run, inputs=(ran,)) for run in made.benchmark.runs)
    return replace(
        made,
        verification=replace(made.verification, inputs=(ran,)),
        benchmark=replace(made.benchmark, runs=runs),
    )


def test_every_form_tells_proof_and_latency() -> None:
    made = sized_report()
    told = "x 2×3×224×224 (height and width guessed)"
    whole = sizes.sizes((IMAGE,))
    terminal = in_terminal(made, width=400)
    assert told in terminal and terminal.count(whole) == 2
    page = render(made, ".html")
    assert told in page and page.count(f"Inputs: {whole}") == 2
    assert "for 2×3×224×224: height and width guessed" in page
    plain = render(made, ".md").replace("&#40;", "(").replace("&#41;", ")")
    plain = plain.replace("&#59;", ";").replace("&#45;", "-")
    assert told in plain and plain.count(whole) == 2
    case = ElementTree.fromstring(render(made, ".xml")).find(".//testcase[@classname='bnfuse.verification']")
    assert case is not None and told in (case.findtext("system-out") or "")
    document = json.loads(render(made, ".json"))
    assert_fits(document)
    entry = {
        "name": "x",
        "dtype": "float32",
        "shape": [2, 3, 224, 224],
        "axes": ["batch", "declared", "guessed", "guessed"],
        "guessed": True,
        "more_shapes": 0,
    }
    assert document["verification"]["inputs"] == [entry]
    assert all(run["inputs"] == [entry] for run in document["benchmark"]["runs"])


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_of_an_input_is_data(name: str) -> None:
    made = sized_report(replace(IMAGE, name=name))
    page = render(made, ".html")
    assert "<script>alert" not in page and "<img src=x" not in page and "onmouseover=x>" not in page
    assert "\x1b" not in in_terminal(made)
    ElementTree.fromstring(render(made, ".xml"))
    assert "<script>alert" not in render(made, ".md")


def test_the_command_line_tells_what_really_ran(tmp_path: Path) -> None:
    """optimize, verify and bench of a model with free height and width, in real onnxruntime."""
    path = save(Net().conv(4, 3, strides=[2, 2]).norm(4).done(free()), tmp_path / "m.onnx")
    result = call("optimize", path, "--json", *FAST)
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert_fits(document)
    (proved,) = document["verification"]["inputs"]
    assert (proved["shape"], proved["guessed"]) == ([2, 3, 224, 224], True)
    timed = [run["inputs"][0]["shape"] for run in document["benchmark"]["runs"]]
    assert timed and all(shape == [1, 3, 224, 224] for shape in timed)

    result_path = tmp_path / "m.fused.onnx"
    told = call("verify", path, result_path, *FAST[:2])
    assert told.exit_code == 0 and "x 2×3×224×224 (batch 2, height and width guessed)" in told.stdout
    told = call("verify", path, result_path, "--shape", "x=1,3,33,34", *FAST[:2])
    assert "x 1×3×33×34" in told.stdout and "guessed" not in told.stdout
    document = json.loads(call("verify", path, result_path, "--json", *FAST[:2]).stdout)
    assert document["verification"]["inputs"][0]["axes"] == ["batch", "declared", "guessed", "guessed"]

    told = call("bench", path, *FAST[2:])
    assert told.exit_code == 0 and "x 1×3×224×224 (batch 1, height and width guessed)" in told.stdout
    document = json.loads(call("bench", path, result_path, "--batch", "1,4", "--json", *FAST[2:]).stdout)
    shapes = {(run["batch"], tuple(run["inputs"][0]["shape"])) for run in document["benchmark"]["runs"]}
    assert shapes == {(1, (1, 3, 224, 224)), (4, (4, 3, 224, 224))}


def measured(ran: tuple[RanInput, ...]) -> Latency:
    return Latency(
        "cpu", 2, ("CPU",), (bench_run("optimisation on", inputs=ran),), machine=Machine("c", 2, 1, "s")
    )


SMALL = replace(IMAGE, shape=(2, 3, 64, 64))
FIXED = replace(IMAGE, axes=(D, D, D, D))
OTHER = "sizes of inputs"
BASELINES: list[tuple[tuple[RanInput, ...], tuple[RanInput, ...], str]] = [
    ((IMAGE,), (IMAGE,), ""),
    ((SMALL,), (IMAGE,), OTHER),
    ((), (IMAGE,), OTHER),
    ((), (FIXED,), ""),
    ((), (), ""),
]


@pytest.mark.parametrize(("then", "now", "refusal"), BASELINES)
def test_other_sizes_are_no_baseline(
    then: tuple[RanInput, ...], now: tuple[RanInput, ...], refusal: str, tmp_path: Path
) -> None:
    """A report from before sizes were told is one of fixed sizes only."""
    info = FileInfo(Path("m.onnx"), "ONNX", "a" * 64, 1)
    document = document_of(Comparison("bench", info, latency=measured(then)))
    if not then:
        for run in document["benchmark"]["runs"]:
            del run["inputs"]
    (tmp_path / "b.json").write_text(json.dumps(document))
    found = compare(measured(now), "", read_baseline(tmp_path / "b.json"))
    assert (refusal in found.refusal) if refusal else not found.refusal
