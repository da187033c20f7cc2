"""The command line: every error is one sentence and an exit code; the public API."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from importlib import import_module
from pathlib import Path

import pytest

import bnfuse
from bnfuse.errors import (
    BnfuseError,
    NotEqual,
    OutputError,
    RuntimeMissing,
    UnreadableModel,
    UnsafeModel,
    UsageError,
)
from tests.command import ROOT, call

use_case = import_module("bnfuse.use_cases.optimize")

ERRORS: list[tuple[BaseException, int]] = [
    (UsageError("the sentence"), 2),
    (OutputError("the sentence"), 2),
    (UnreadableModel("the sentence"), 3),
    (UnsafeModel("the sentence"), 3),
    (BnfuseError("the sentence"), 3),
    (NotEqual("the sentence"), 4),
    (RuntimeMissing("the sentence"), 5),
    (ZeroDivisionError("the sentence"), 70),
    (RecursionError("the sentence"), 70),
    (MemoryError(), 3),
    (KeyboardInterrupt(), 130),
]


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def inspect(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(use_case, "inspect", inspect)


@pytest.mark.parametrize(("error", "code"), ERRORS)
def test_errors_are_one_sentence_and_a_code(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    failing(monkeypatch, error)
    result = call("inspect", "m.onnx")
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr.startswith("bnfuse: ") and result.stderr.count("\n") == 1
    if str(error):
        assert "the sentence" in result.stderr


@pytest.mark.parametrize("place", [("-v", "inspect", "m.onnx"), ("inspect", "m.onnx", "-v")])
@pytest.mark.parametrize(
    ("error", "code"), [(UnreadableModel("the sentence"), 3), (ZeroDivisionError("the sentence"), 70)]
)
def test_verbose_shows_the_traceback(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, place: tuple[str, ...]
) -> None:
    failing(monkeypatch, error)
    result = call(*place)
    assert result.exit_code == code
    assert "Traceback" in result.stderr and "the sentence" in result.stderr


def test_a_bug_asks_to_be_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, ZeroDivisionError("division by zero"))
    assert (
        "internal error (ZeroDivisionError: division by zero): please report" in call("inspect", "m").stderr
    )


def test_a_sentence_with_strings_of_the_model_stays_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, UnreadableModel("node 'a\n::error::b\x1b[31m' is broken"))
    result = call("inspect", "m.onnx")
    assert result.stderr == "bnfuse: node 'a\\n::error::b\\x1b[31m' is broken\n"


def test_the_public_functions_stay_functions() -> None:
    """Whatever else is imported: the modules that have them lie in a room of their own."""
    for name in ("optimize", "verify", "bench"):
        import_module(f"bnfuse.use_cases.{name}")
    for name in ("optimize", "inspect", "verify", "bench"):
        function = getattr(bnfuse, name)
        assert callable(function) and function.__name__ == name
    script = "import bnfuse, bnfuse.use_cases.verify; assert callable(bnfuse.optimize and bnfuse.verify)"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = bnfuse.nonsense  # type: ignore[attr-defined]
    assert {"optimize", "inspect", "verify", "bench", "__version__"} <= set(dir(bnfuse))


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no folder that takes no files")
def test_a_report_that_cannot_be_written_is_told_once() -> None:
    blocked = "/proc/nothing/r.json"
    done = call("inspect", ROOT / "fixtures" / "digits_mlp.onnx", "--report", blocked)
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.stderr
    assert f"'{blocked}' cannot be written" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
@pytest.mark.parametrize("arguments", [["inspect", "fixtures/digits_mlp.onnx"], ["--help"]])
def test_a_full_device_for_stdout_is_one_sentence(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "bnfuse", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr == "bnfuse: standard output cannot be written: No space left on device\n"


@pytest.mark.parametrize("name", ["a" * 5000, "b/" * 3000, "c d" * 2000])
def test_names_do_not_fill_a_sentence(name: str) -> None:
    """They come from files; the path of the file itself, which the user gave, stays whole."""
    path = f"/{'folder/' * 40}model.onnx"
    said = str(UnreadableModel(f"{path}: tensor '{name}' and '{name}' are one; export it again"))
    assert said.startswith(f"{path}: tensor '") and said.endswith("' are one; export it again")
    assert len(said) <= len(path) + 300
    assert str(UnreadableModel(f"'{path}' is short")) == f"'{path}' is short"
    assert len(str(UnreadableModel("word " * 300))) == 300 < len(str(NotEqual("word " * 300)))


@pytest.mark.parametrize("command", ["verify", "bench", "diff"])
@pytest.mark.parametrize("broken", [0, 1], ids=["first", "second"])
def test_an_error_is_told_of_the_model_that_has_it(command: str, broken: int, tmp_path: Path) -> None:
    """Where names begin alike, too: a host of code marks the file that the report names."""
    models = [tmp_path / "net.onnx", tmp_path / "net.onnx.onnx"]
    for path in models:
        path.write_bytes((ROOT / "fixtures" / "digits_mlp.onnx").read_bytes())
    models[broken].write_bytes(b"no model")
    told = [tmp_path / f"report{suffix}" for suffix in (".json", ".xml", ".sarif")]
    done = call(command, *models, *(part for path in told for part in ("--report", path)))
    assert done.exit_code == 3 and str(models[broken]) in done.stderr
    assert json.loads(told[0].read_text())["path"] == str(models[broken])
    suite = ET.parse(told[1]).getroot().find("testsuite")
    assert suite is not None and suite.get("name") == models[broken].name
    (run,) = json.loads(told[2].read_text())["runs"]
    (note,) = run["invocations"][0]["toolExecutionNotifications"]
    (place,) = note["locations"]
    assert place["physicalLocation"]["artifactLocation"]["uri"].endswith(f"/{models[broken].name}")
