"""What the reports tell of a proof: per output what was allowed and why, accuracy, culprit, notes."""

from __future__ import annotations

import json
import math
import re
from xml.etree import ElementTree

import pytest
from msgspec.structs import replace

from bnfuse.report import proved, render, text
from bnfuse.results import Accuracy, Agreement, Culprit, OutputAgreement, Report, Status
from tests.report_samples import HOSTILE, in_terminal, report
from tests.report_schema import assert_fits

NOISE = "6 × 1.1e-06, how far rounding alone moves the original on these inputs"
EXACT = "integers, booleans and text must be identical"
OUTPUTS = (
    OutputAgreement("y", 1e-6, 2e-7, 131.5, 6.6e-6, 1.0, rms=3e-8, basis=NOISE),
    OutputAgreement("z", 1e-6, 2e-7, 131.5, 6.6e-6, None, rms=3e-8, basis=NOISE),
    OutputAgreement("ids", 0.0, 0.0, math.inf, 0.0, None, basis=EXACT),
)
PROOF = Agreement(
    Status.EQUAL,
    OUTPUTS,
    6,
    6.6e-6,
    "onnxruntime 1.32, graph optimisation off, 360 samples of your own",
    own_samples=360,
    accuracy=(Accuracy("y", 360, 353 / 360, 352 / 360, 1, "the largest of 10 values"),),
    notes=("outputs are matched by position, because their names differ: 'y' is 'out'",),
)


def test_tolerances_are_told_once_per_origin() -> None:
    assert proved.allowances(PROOF) == [
        f"6.6e-06 of the range for 'y', 'z': {NOISE}",
        f"no difference for 'ids': {EXACT}",
    ]


def test_figures_that_do_not_apply_are_left_out() -> None:
    page = _text(render(report(verification=PROOF), ".md"))
    assert "| <code>y</code> | 1e-06 | 3e-08 | 2e-07 | 6.6e-06 | 131.5 dB | 100 % |" in page
    assert "| <code>ids</code> | 0 |  | 0 | 0 | identical |  |" in page


ACCURACY = (
    "98.06 % → 97.78 % of 360 labels right by 'y', 1 answer differs (an answer is the largest of 10 values)"
)


EXACT_ONLY = [
    (Status.EQUAL, 0.0, "equal, value by value"),
    (Status.DIFFERENT, 0.25, "DIFFERENT: 25 % of the values of 'ids' differ (allowed: none)"),
    (Status.DIFFERENT, math.inf, "DIFFERENT"),
]


@pytest.mark.parametrize(("status", "share", "sentence"), EXACT_ONLY)
@pytest.mark.parametrize("floats", [(), OUTPUTS[:1]])
def test_outputs_without_a_tolerance_have_a_sentence(
    status: Status, share: float, sentence: str, floats: tuple[OutputAgreement, ...]
) -> None:
    outputs = (replace(OUTPUTS[2], max_rel=share), *floats)
    told = text.proof(Agreement(status, outputs))
    assert told.startswith(sentence if share or not floats else "equal, within 2e-07 of the output's range")


@pytest.mark.parametrize("verbose", [False, True])
def test_the_terminal_tells_all_of_it(verbose: bool) -> None:
    printed = in_terminal(report(verification=PROOF), verbose=verbose)
    assert f"allowed  6.6e-06 of the range for 'y', 'z': {NOISE}" in printed
    assert f"accuracy {ACCURACY}" in printed
    assert "note     outputs are matched by position" in printed
    assert ("131.5 dB" in printed) == verbose


def test_markdown_tells_all_of_it() -> None:
    page = _text(render(report(verification=PROOF), ".md"))
    assert ACCURACY in page and f"'y', 'z': {NOISE}" in page and EXACT in page
    assert "| <code>y</code> | 1e-06 | 3e-08 | 2e-07 | 6.6e-06 | 131.5 dB | 100 % |" in page
    assert "matched by position" in page


def test_html_and_junit_tell_it() -> None:
    page = _text(render(report(verification=PROOF), ".html"))
    assert NOISE in page and EXACT in page and "the largest of 10 values" in page and "98.06" in page
    root = ElementTree.fromstring(render(report(verification=PROOF), ".xml"))
    assert ACCURACY in "".join(root.itertext())


def test_json_holds_all_of_it() -> None:
    proof = json.loads(render(report(verification=PROOF), ".json"))["verification"]
    assert proof["outputs"][0]["rms"] == 3e-8 and proof["outputs"][0]["tolerance_basis"] == NOISE
    assert proof["outputs"][2]["rms"] is None
    assert proof["accuracy"] == [
        {
            "output": "y",
            "samples": 360,
            "before": 353 / 360,
            "after": 352 / 360,
            "changed": 1,
            "rule": "the largest of 10 values",
        }
    ]
    assert (proof["own_samples"], proof["culprit"], proof["suspects"]) == (360, None, [])
    assert proof["notes"] == list(PROOF.notes)


def hostile(name: str) -> Report:
    """A failed proof in which every string that a model can choose is ``name``."""
    failed = replace(
        PROOF,
        status=Status.DIFFERENT,
        outputs=(replace(OUTPUTS[0], name=name),),
        accuracy=(Accuracy(name, 3, 0.5, None, 1, "above 0"),),
        notes=(f"'{name}' is '{name}'",),
        culprit=Culprit(name, name, "up", (name, name)),
        suspects=(name,),
        failing_sets=(3, 0),
    )
    return report(verification=failed)


@pytest.mark.parametrize("name", HOSTILE)
def test_no_string_of_the_model_escapes(name: str) -> None:
    value = hostile(name)
    document = json.loads(render(value, ".json"))
    assert_fits(document)
    assert document["verification"]["failing_sets"] == [3, 0]
    page = render(value, ".md")
    assert not re.search(r"<(?!/?(code|details|summary)>)", page)
    own = "> [!CAUTION]\n"
    assert page.count(own) == 1, "and no model makes one more"
    assert not re.search(r"[`\[\]@]|://", page.replace("BatchNormalization", "").replace(own, ""))
    ElementTree.fromstring(render(value, ".xml"))
    printed = in_terminal(value)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e]", printed)
    html = render(value, ".html")
    assert "<script>alert" not in html and "<img" not in html and "<b onmouseover" not in html


def _text(markup: str) -> str:
    """Entities as the characters they stand for."""
    import html

    return html.unescape(markup).replace("\u200b", "")
