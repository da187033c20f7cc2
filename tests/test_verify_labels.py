"""``--labels``: how many answers are right before and after, counted by another route."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from bnfuse.errors import UsageError
from bnfuse.formats.base import TensorSpec
from bnfuse.inputs.labels import read_labels
from bnfuse.results import Accuracy, Agreement, Status
from bnfuse.use_cases.verify import VerifyRequest, verify
from tests.cli_models import outputs_of
from tests.command import call
from tests.fake_runner import Fake
from tests.report_schema import assert_fits

ROOT = Path(__file__).resolve().parents[1]
FIXTURE = ROOT / "fixtures" / "digits_cnn.onnx"
LABELS = np.array([2, 0, 1, 1], np.int64)


# ---- files ----------------------------------------------------------------------------------------

TEXTS = [
    ("a.csv", "2\n0\n1\n1\n"),
    ("a.csv", "label\n2\n0\n1\n1"),
    ("a.csv", "\ufefffile,Label\nx,2\n\ny,0\nz,1\nw,1\n"),
    ("a.txt", "2.0\n0\n 1 \n1e0\n"),
]


@pytest.mark.parametrize(("name", "text"), TEXTS)
def test_labels_from_text(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert np.array_equal(read_labels(tmp_path / name), LABELS)


@pytest.mark.parametrize("array", [LABELS, LABELS[:, None], LABELS.astype("f4"), LABELS.astype("u1")])
def test_labels_from_arrays(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", whatever=array)
    for name in ("a.npy", "a.npz"):
        found = read_labels(tmp_path / name)
        assert found.dtype == np.int64 and np.array_equal(found, LABELS)


REFUSED: list[tuple[str, Any, str]] = [
    ("a.npy", np.eye(3), "not one column per class"),
    ("a.npy", np.array([0.5]), "not integers"),
    ("a.npy", np.array(["cat"]), "not integers"),
    ("a.npy", np.array(3), r"shape \[\]"),
    ("a.npz", {"a": LABELS, "b": LABELS}, "holds 2 arrays"),
    ("a.csv", "a,b\n1,2\n", "2 columns"),
    ("a.csv", "label\n1\ncat\n", "line 3 of .* 'cat'"),
    ("a.csv", "file,label\nx\n", "line 2"),
    ("a.csv", b"\xff\xfe\x00", "cannot be read as text"),
    ("a.json", "[1]", "must be a .npy, .npz or .csv"),
    ("none.npy", None, "does not exist"),
    ("none.csv", None, "does not exist"),
]


@pytest.mark.parametrize(("name", "content", "message"), REFUSED)
def test_what_is_no_label(tmp_path: Path, name: str, content: Any, message: str) -> None:
    path = tmp_path / name
    if isinstance(content, dict):
        np.savez(path, **content)
    elif isinstance(content, np.ndarray):
        np.save(path, content)
    elif content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError, match=message) as caught:
        read_labels(path)
    assert "\n" not in str(caught.value)


# ---- answers --------------------------------------------------------------------------------------

X = np.random.default_rng(5).standard_normal((50, 4)).astype(np.float32)
WEIGHT = np.random.default_rng(6).standard_normal((4, 4)).astype(np.float32)


def judged(
    tmp_path: Path, outputs: dict[str, Any], labels: dict[str, np.ndarray], other: Any = None
) -> Agreement:
    """Verify a model of these functions of x against itself, or ``other`` in place of its first output."""
    names = list(outputs)

    class Many(Fake):
        functions: ClassVar = outputs

        def __post_init__(self) -> None:
            self.inputs = (TensorSpec("x", "float32", ("N", 4)),)
            self.outputs = tuple(TensorSpec(name, "float32", None) for name in names)

        def run(self, feeds: Any) -> dict[str, np.ndarray]:
            return {name: np.asarray(f(feeds["x"])) for name, f in self.functions.items()}

    class Other(Many):
        functions: ClassVar = {**outputs, names[0]: other or outputs[names[0]]}

    runners = {tmp_path / "a": Many(abs), tmp_path / "b": Other(abs)}
    np.save(tmp_path / "x.npy", X)
    files = {}
    for name, values in labels.items():
        files[name] = tmp_path / f"labels-{name}.npy"
        np.save(files[name], values)
    for path in runners:
        path.write_bytes(b"")
    request = VerifyRequest(inputs=tmp_path / "x.npy", labels=files, samples=1)
    return verify(*runners, request=request, load=lambda path, settings: runners[path])


def scores(x: np.ndarray) -> np.ndarray:
    return np.asarray(x @ WEIGHT)


def test_top_1(tmp_path: Path) -> None:
    wanted = scores(X).argmax(axis=1)
    wanted[:7] = (wanted[:7] + 1) % 4
    (found,) = judged(tmp_path, {"y": scores}, {"": wanted}).accuracy
    assert found == Accuracy("y", 50, 43 / 50, 43 / 50, 0, "the largest of 4 values")


def test_the_second_model_is_judged_by_its_own_answers(tmp_path: Path) -> None:
    wanted = scores(X).argmax(axis=1)
    swapped = np.array([1, 0, 2, 3])

    def other(x: np.ndarray) -> np.ndarray:
        return scores(x)[:, swapped]

    found = judged(tmp_path, {"y": scores}, {"": wanted}, other)
    assert found.status is Status.DIFFERENT
    moved = int((wanted < 2).sum())
    assert 0 < moved < 50
    assert found.accuracy == (Accuracy("y", 50, 1.0, (50 - moved) / 50, moved, "the largest of 4 values"),)


def test_a_second_model_that_cannot_be_read_has_no_accuracy(tmp_path: Path) -> None:
    wanted = scores(X).argmax(axis=1)
    found = judged(tmp_path, {"y": scores}, {"": wanted}, lambda x: scores(x).reshape(-1))
    assert found.status is Status.DIFFERENT
    assert found.accuracy == (Accuracy("y", 50, 1.0, None, 0, "the largest of 4 values"),)


SHAPES: list[tuple[str, Any, Any, str]] = [
    ("logit column", lambda x: scores(x)[:, :1], lambda y: y[:, 0] > 0, "above 0"),
    ("logits", lambda x: scores(x)[:, 0], lambda y: y > 0, "above 0"),
    ("probabilities", lambda x: 1 / (1 + np.exp(-scores(x)[:, :1])), lambda y: y[:, 0] > 0.5, "above 0.5"),
    ("pooled", lambda x: scores(x)[:, :, None, None], lambda y: y[:, :, 0, 0].argmax(1), "the largest of 4"),
    ("integers", lambda x: scores(x).argmax(1), lambda y: y, "the number itself"),
    ("booleans", lambda x: scores(x)[:, 0] > 0, lambda y: y, "the number itself"),
    ("halves", lambda x: scores(x).astype(np.float16), lambda y: y.argmax(1), "the largest of 4 values"),
]


@pytest.mark.parametrize(("name", "output", "answers", "rule"), SHAPES, ids=[s[0] for s in SHAPES])
def test_how_answers_are_read(tmp_path: Path, name: str, output: Any, answers: Any, rule: str) -> None:
    wanted = np.asarray(answers(output(X))).astype(np.int64)
    assert np.unique(wanted).size > 1
    wanted[3] = wanted[3] + 1 if rule == "the number itself" else (wanted[3] + 1) % 2
    wanted[3] = min(wanted[3], 1) if rule.startswith("above") else wanted[3]
    right = float(np.mean(np.asarray(answers(output(X))).astype(np.int64) == wanted))
    (found,) = judged(tmp_path, {"y": output}, {"": wanted}).accuracy
    assert right < 1.0
    assert found.before == found.after == pytest.approx(right)
    assert found.rule.startswith(rule)


def test_labels_for_several_outputs(tmp_path: Path) -> None:
    outputs = {"y": scores, "z": lambda x: scores(x)[:, :1]}
    labels = {"y": scores(X).argmax(axis=1), "z": (scores(X)[:, 0] > 0).astype(int)}
    found = judged(tmp_path, outputs, labels).accuracy
    assert [(one.output, one.before, one.after) for one in found] == [("y", 1.0, 1.0), ("z", 1.0, 1.0)]


BAD: list[tuple[dict[str, np.ndarray], str]] = [
    ({"": np.zeros(50, int)}, r"2 outputs \('y', 'z'\).*--labels y=FILE"),
    ({"w": np.zeros(50, int)}, "--labels names 'w', but the model's outputs are 'y', 'z'"),
    ({"y": np.zeros(49, int)}, "49 labels, but 50 samples"),
    ({"y": np.full(50, 4)}, "sample 0 has the label 4, but output 'y' tells 4 classes apart: give 0 to 3"),
    ({"y": np.full(50, -1)}, "label -1"),
    ({"z": np.zeros(50, int)}, r"no accuracy can be read from output 'z' .* \[32, 4, 2\]"),
]


@pytest.mark.parametrize(("labels", "message"), BAD)
def test_labels_that_do_not_fit(tmp_path: Path, labels: dict[str, np.ndarray], message: str) -> None:
    outputs = {"y": scores, "z": lambda x: np.stack([scores(x)] * 2, axis=2)}
    with pytest.raises(UsageError, match=message):
        judged(tmp_path, outputs, labels)


# ---- through the command line ---------------------------------------------------------------------


@pytest.fixture
def digits(tmp_path: Path) -> tuple[Path, Path]:
    """Held-out digits and their labels, 60 of them; three labels are wrong."""
    with np.load(ROOT / "fixtures" / "digits_test.npz") as data:
        images, labels = data["image"][:60], data["label"][:60].copy()
    labels[:3] = (labels[:3] + 5) % 10
    np.savez(tmp_path / "x.npz", image=images)
    (tmp_path / "y.csv").write_text("".join(f"{label}\n" for label in labels))
    return tmp_path / "x.npz", tmp_path / "y.csv"


def expected(digits: tuple[Path, Path]) -> float:
    """By onnx's own reference implementation."""
    from onnx import load
    from onnx.reference import ReferenceEvaluator

    with np.load(digits[0]) as data:
        evaluator: Any = ReferenceEvaluator(load(FIXTURE))
        logits = np.asarray(evaluator.run(None, {"image": data["image"]})[0])
    labels = np.loadtxt(digits[1])
    return float(np.mean(logits.argmax(axis=1) == labels))


@pytest.mark.parametrize("option", ["", "logits="])
def test_optimize_tells_the_accuracy_in_every_report(
    tmp_path: Path, digits: tuple[Path, Path], option: str
) -> None:
    right = expected(digits)
    assert 0.5 < right < 1.0
    reports = [tmp_path / f"r{suffix}" for suffix in (".json", ".md", ".html", ".xml")]
    options = [part for report in reports for part in ("--report", report)]
    asked = ("--inputs", digits[0], "--labels", f"{option}{digits[1]}", "--verify-time", "1", "--no-bench")
    done = call("optimize", FIXTURE, "-o", tmp_path / "out.onnx", *asked, *options)
    assert done.exit_code == 0, done.stderr
    told = f"{100 * right:.2f} %"
    assert f"accuracy {told} → {told} of 60 labels right by 'logits', 0 answers differ" in done.stdout
    document = json.loads(reports[0].read_text())
    assert_fits(document)
    (found,) = document["verification"]["accuracy"]
    assert found["before"] == found["after"] == pytest.approx(right)
    assert (found["output"], found["samples"], found["changed"]) == ("logits", 60, 0)
    assert document["verification"]["own_samples"] == 60
    for report in reports[1:]:
        written = report.read_text(encoding="utf-8").replace("&#46;", ".")
        assert f"{100 * right:.4g}" in written, report


def test_verify_tells_it_too(tmp_path: Path, digits: tuple[Path, Path]) -> None:
    asked = ("--inputs", digits[0], "--labels", digits[1], "--verify-time", "1", "--json")
    done = call("verify", FIXTURE, FIXTURE, *asked)
    assert done.exit_code == 0, done.stderr
    (found,) = json.loads(done.stdout)["verification"]["accuracy"]
    assert found["before"] == pytest.approx(expected(digits))


USAGE = [
    (("verify", FIXTURE, FIXTURE, "--labels", "y.csv"), "give those with --inputs"),
    (("optimize", FIXTURE, "--labels", "y.csv", "--no-verify"), "--labels need the proof"),
    (("optimize", FIXTURE, "--labels", "y.csv", "--check"), "--labels need the proof"),
    (("optimize", FIXTURE, "--labels", "a.csv", "--labels", "b.csv"), "two files of labels: name"),
    (("verify", FIXTURE, FIXTURE, "--labels", "y=a.csv", "--labels", "y=b.csv"), "of labels for 'y'"),
]


@pytest.mark.parametrize(("arguments", "message"), USAGE)
def test_wrong_usage(arguments: tuple[object, ...], message: str) -> None:
    done = call(*arguments)
    assert done.exit_code == 2
    assert message in done.stderr


def test_a_model_without_folds_is_still_run_for_its_accuracy(model: Path, tmp_path: Path) -> None:
    """What was optimised before has identical bytes, which prove equality but tell no accuracy."""
    fused = tmp_path / "fused.onnx"
    assert call("optimize", model, "-o", fused, "--no-verify", "--no-bench").exit_code == 0
    x = np.random.default_rng(0).standard_normal((9, 3, 9, 7)).astype(np.float32)
    assert outputs_of(model, x).shape == (9, 5, 9, 7)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", np.zeros(9, int))
    asked = ("--inputs", tmp_path / "x.npy", "--labels", tmp_path / "y.npy", "--no-bench")
    done = call("optimize", fused, *asked)
    assert done.exit_code == 2
    assert "no accuracy can be read from output 'y'" in done.stderr
    assert not (tmp_path / "fused.fused.onnx").exists()
