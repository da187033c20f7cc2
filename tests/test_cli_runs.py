"""The command line as pipelines see it, on real files: stdout, stderr, exit codes, files left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bnfuse import formats
from bnfuse.results import Agreement, BenchRun, Latency, Percentiles, Status
from tests.cli_models import convnet, outputs_of
from tests.command import FAST, PATIENCE_S, ROOT, Cli, call, interruptible
from tests.report_schema import assert_fits

use_case = import_module("bnfuse.use_cases.optimize")
verify_module = import_module("bnfuse.use_cases.verify")
bench_module = import_module("bnfuse.use_cases.bench")


def test_optimize_folds_proves_measures_and_reports(model: Path, tmp_path: Path) -> None:
    before = model.read_bytes(), model.stat().st_mtime_ns
    result = call("optimize", model, "--json", *FAST)
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert_fits(report)
    assert report["batchnorms"] == {"found": 1, "folded": 1, "kept": 0}
    assert report["verification"]["status"] == "equal"
    assert report["operators"]["before"]["BatchNormalization"] == 1
    assert "BatchNormalization" not in report["operators"]["after"]
    assert report["benchmark"]["runs"]
    output = tmp_path / "model.fused.onnx"
    assert report["output"]["path"] == str(output)
    assert report["output"]["bytes"] == output.stat().st_size
    assert (model.read_bytes(), model.stat().st_mtime_ns) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.fused.onnx", "model.onnx"]
    x = np.random.default_rng(0).standard_normal((2, 3, 9, 7)).astype(np.float32)
    np.testing.assert_allclose(outputs_of(output, x), outputs_of(model, x), rtol=0, atol=2e-6)
    assert [n.op_type for n in onnx.load(output).graph.node] == ["Conv", "Softsign"]


def test_the_default_output_in_words(model: Path) -> None:
    result = call("optimize", model, *FAST)
    assert result.exit_code == 0, result.stderr
    assert "1 of 1 BatchNormalizations folded" in result.stdout
    for word in ("conv", "equal", "model.fused.onnx", "ms", "size"):
        assert word in result.stdout


def test_quiet_prints_nothing(model: Path) -> None:
    result = call("optimize", model, "-q", *FAST)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")


def test_every_report_is_written(model: Path, tmp_path: Path) -> None:
    files = [tmp_path / f"report{suffix}" for suffix in (".json", ".md", ".html", ".xml")]
    options = [word for file in files for word in ("--report", str(file))]
    assert call("optimize", model, "--no-bench", *FAST, *options).exit_code == 0
    for file in files:
        assert "bn" in file.read_text(encoding="utf-8")
    assert_fits(json.loads(files[0].read_text()))


@pytest.mark.parametrize("option", ["--dry-run", "--check"])
def test_planning_only_writes_nothing(model: Path, tmp_path: Path, option: str) -> None:
    result = call("optimize", model, option)
    assert result.exit_code == (1 if option == "--check" else 0)
    assert "1 of 1 BatchNormalizations can be folded" in result.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


def test_check_passes_once_everything_is_folded(model: Path, tmp_path: Path) -> None:
    assert call("optimize", model, "--no-bench", *FAST).exit_code == 0
    result = call("optimize", tmp_path / "model.fused.onnx", "--check")
    assert (result.exit_code, result.stderr) == (0, "")


def test_nothing_foldable_is_done_and_said(plain_model: Path, tmp_path: Path) -> None:
    result = call("optimize", plain_model)
    assert result.exit_code == 0, result.stderr
    assert "nothing to fold" in result.stdout
    assert (tmp_path / "plain.fused.onnx").exists()


def test_what_stays_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(convnet(relu_first=True), path)
    result = call("inspect", path, "--json")
    assert result.exit_code == 0
    (decision,) = json.loads(result.stdout)["decisions"]
    assert decision["action"] == "keep"
    assert "sigmoid" in decision["message"] or "out" in decision["message"]


def test_two_runs_write_the_same_bytes(model: Path, tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        assert call("optimize", model, "-o", tmp_path / name, "--no-verify", "--no-bench").exit_code == 0
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_an_output_that_exists(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "model.fused.onnx"
    output.write_bytes(b"old")
    result = call("optimize", model, "--no-bench", *FAST)
    assert result.exit_code == 2 and "--force" in result.stderr
    assert output.read_bytes() == b"old"
    assert call("optimize", model, "--no-bench", "--force", *FAST).exit_code == 0
    assert output.read_bytes() != b"old"


def test_a_wrong_result_is_not_written(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx_model = formats.detect(model).read(model, use_case.ReadOptions())
    write = type(onnx_model).write

    def spoiling(self: Any, patch: Any, path: Path) -> Any:
        written = write(self, patch, path)
        spoiled = onnx.load(path)
        (bias,) = (t for t in spoiled.graph.initializer if len(t.dims) == 1)
        values = numpy_helper.to_array(bias).copy()
        values[2] += 0.1
        bias.CopyFrom(numpy_helper.from_array(values, bias.name))
        onnx.save(spoiled, path)
        return written

    monkeypatch.setattr(type(onnx_model), "write", spoiling)
    report = tmp_path / "report.json"
    result = call("optimize", model, "--json", "--report", report, *FAST)
    assert result.exit_code == 4
    assert "differs from the original" in result.stderr
    document = json.loads(result.stdout)
    assert_fits(document)
    assert document["verification"]["status"] == "different" and document["output"] is None
    assert json.loads(report.read_text()) == document
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx", "report.json"]


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "garbage": lambda _: bytes(range(7, 256)) * 20,
    "half": lambda whole: whole[: len(whole) // 2],
    "one byte short": lambda whole: whole[:-1],
    "text": lambda _: b"this is no model\n" * 50,
    "zip": lambda _: b"PK\x03\x04" + bytes(200),
    "zeros": lambda _: bytes(500),
}


COMMANDS = ("optimize", "inspect", "verify", "bench")


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("command", COMMANDS)
def test_broken_files_are_one_sentence_and_exit_3(
    model: Path, tmp_path: Path, broken: str, command: str
) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(BROKEN[broken](model.read_bytes()))
    names = sorted(p.name for p in tmp_path.iterdir())
    done = call(command, path, *([model] if command == "verify" else []))
    _assert_refused(done.exit_code, done.stdout, done.stderr)
    assert sorted(p.name for p in tmp_path.iterdir()) == names


@pytest.mark.parametrize("command", ["optimize", "verify"])
def test_a_broken_file_in_a_process_of_its_own(
    bnfuse_cli: Cli, model: Path, tmp_path: Path, command: str
) -> None:
    """The same from outside, where also what libraries print and how the interpreter ends would be seen.

    One command that reads by itself, and one that lets a runtime.
    """
    path = tmp_path / "broken.onnx"
    path.write_bytes(BROKEN["half"](model.read_bytes()))
    done = bnfuse_cli(command, path, *([model] if command == "verify" else []))
    _assert_refused(done.returncode, done.stdout, done.stderr)


def _assert_refused(code: int, stdout: str, stderr: str) -> None:
    assert code == 3, stdout + stderr
    assert stdout == ""
    assert stderr.startswith("bnfuse: ") and stderr.count("\n") == 1
    assert "internal error" not in stderr and "broken.onnx" in stderr


def test_verify_tells_equal_from_different(model: Path, tmp_path: Path) -> None:
    other = convnet()
    values = numpy_helper.to_array(other.graph.initializer[1]).copy()
    values[0] += 0.5
    other.graph.initializer[1].CopyFrom(numpy_helper.from_array(values, "b"))
    onnx.save(other, tmp_path / "other.onnx")
    same = call("verify", model, model, "--verify-time", "0.2", "--json")
    assert same.exit_code == 0 and json.loads(same.stdout)["verification"]["status"] == "equal"
    different = call("verify", model, tmp_path / "other.onnx", "--verify-time", "0.2")
    assert different.exit_code == 1 and "DIFFERENT" in different.stdout


def test_verify_that_shows_nothing_exits_4(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unsure = Agreement(Status.INCONCLUSIVE, detail="the reference gives NaN")
    monkeypatch.setattr(verify_module, "verify", lambda *_, **__: unsure)
    result = call("verify", model, model)
    assert result.exit_code == 4 and "the reference gives NaN" in result.stderr


def test_inputs_that_do_not_fit_exit_2(model: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", wrong=np.zeros((1, 3, 9, 7), np.float32))
    for options in (("--inputs", tmp_path / "x.npz"), ("--shape", "x=1,4,9,7"), ("--shape", "nope=1")):
        result = call("verify", model, model, *options)
        assert result.exit_code == 2, result.stderr
        assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("ci95", "percent", "code"),
    [
        ((0.90, 0.95), "3", 1),  # at least 5.3 % slower
        ((0.90, 0.95), "6%", 0),
        ((0.80, 1.10), "0", 0),  # noise: may be faster
        ((1.10, 1.20), "0", 0),
        (None, "3", 1),  # nothing compared: the gate cannot say yes
    ],
)
def test_fail_if_slower_uses_the_interval(
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    ci95: tuple[float, float] | None,
    percent: str,
    code: int,
) -> None:
    time_ms = Percentiles(1.0, 1.0, 1.0)
    run = BenchRun("optimisation on", 1, time_ms, time_ms, 0.92, ci95)
    monkeypatch.setattr(bench_module, "bench", lambda *_, **__: Latency("cpu", 1, (), (run,)))
    result = call("bench", model, model, "--fail-if-slower", percent)
    assert result.exit_code == code
    assert ("--fail-if-slower" in result.stderr) == (code == 1)


def test_bench_of_one_model(model: Path) -> None:
    result = call("bench", model, "--bench-time", "0.2", "--batch", "1,3", "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    runs = document["benchmark"]["runs"]
    assert {run["batch"] for run in runs} == {1, 3}
    assert document["after"] is None and runs[0]["after_ms"] is None
    assert_fits(document["benchmark"], "benchmark")


def test_stdout_is_plain_where_it_is_no_terminal(bnfuse_cli: Cli, model: Path) -> None:
    done = bnfuse_cli("inspect", model)
    assert done.returncode == 0 and done.stderr == ""
    assert "\x1b" not in done.stdout


def test_a_reader_that_goes_away_is_no_traceback(model: Path) -> None:
    command = f"{sys.executable} -m bnfuse inspect {model} --json | head -c 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode in (0, 141)
    assert done.stderr == ""


def test_other_encodings_of_stdout(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "модель.onnx"
    path.write_bytes(model.read_bytes())
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    for options in (FAST, ["--json", "--no-bench", "--no-verify"]):
        command = [sys.executable, "-m", "bnfuse", "optimize", str(path), "--force", *options]
        done = subprocess.run(command, capture_output=True, check=False, cwd=ROOT, env=environment)
        assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not hasattr(signal, "SIGTERM") or os.name != "posix", reason="POSIX signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_leaves_nothing_behind(model: Path, tmp_path: Path, number: int, code: int) -> None:
    script = (
        "import sys, time\nfrom importlib import import_module\nfrom bnfuse.cli import main\n"
        "def wait(*_, **__):\n    print('waiting', file=sys.stderr, flush=True)\n    time.sleep(600)\n"
        "import_module('bnfuse.use_cases.verify').verify = wait\n"
        "main(['optimize', sys.argv[1]], prog_name='bnfuse')"
    )
    command = [sys.executable, "-c", script, str(model)]
    with interruptible():
        child = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    with child:
        assert child.stderr is not None
        assert child.stderr.readline() == "waiting\n"
        assert len(list(tmp_path.iterdir())) == 2  # the model and the hidden folder
        child.send_signal(number)
        _, said = child.communicate(timeout=PATIENCE_S)
    assert child.returncode == code
    assert "Traceback" not in said
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
