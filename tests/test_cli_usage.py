"""The command line: what it imports, its help, wrong usage, and what reaches the use case."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest
from msgspec.structs import asdict

import bnfuse
from bnfuse.cli import main
from bnfuse.errors import UnreadableModel
from bnfuse.formats.base import ReadOptions
from bnfuse.use_cases.requests import OptimizeRequest
from tests.command import ROOT, call

use_case = import_module("bnfuse.use_cases.optimize")


def test_help_is_fast() -> None:
    """By the processor's time: a wait for a processor is not ours."""
    times = []
    for _ in range(5):
        start = _seconds_of_children()
        subprocess.run([sys.executable, "-m", "bnfuse", "--help"], capture_output=True, check=True, cwd=ROOT)
        times.append(_seconds_of_children() - start)
    assert 0.0 < min(times) < 0.2


def test_what_a_command_leaves_is_not_looked_through_when_it_ends() -> None:
    script = (
        "import atexit, gc\n"
        "atexit.register(lambda: print(gc.get_freeze_count() > 10_000, gc.isenabled()))\n"
        "from bnfuse.cli import main\nmain(['--version'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.splitlines()[-1] == "True False"


def _seconds_of_children() -> float:
    spent = os.times()
    return spent.children_user + spent.children_system


COMMANDS = ["optimize", "inspect", "verify", "bench", "diff", "doctor"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_explained(command: str) -> None:
    assert call(command, "--help").exit_code == 0
    for parameter in main.commands[command].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{command} {parameter.name}"


def test_the_time_it_takes_is_said_in_the_help() -> None:
    assert "10 s" in call("optimize", "--help").stdout
    assert "10 s" in call("verify", "--help").stdout
    assert "20 s" in call("bench", "--help").stdout


def test_the_exit_codes_are_in_the_help() -> None:
    shown = " ".join(call("--help").stdout.split())
    assert "Exit codes: 0 done; 1 a gate said no; 2 wrong usage; 3 the model cannot be read;" in shown


def test_every_command_is_told_in_one_line_of_80_columns() -> None:
    lines = call("--help").stdout.splitlines()
    told = lines[lines.index("Commands:") + 1 :]
    assert [line.split()[0] for line in told] == sorted(COMMANDS)
    assert all(line.endswith((".", "?")) and "..." not in line and len(line) <= 80 for line in told)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_no_line_of_help_is_wider_than_80_columns(command: str) -> None:
    shown = call(*filter(None, [command]), "--help").stdout
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize("command", ["optimize", "verify", "bench"])
def test_options_stand_in_groups_each_of_them_once(command: str) -> None:
    shown = call(command, "--help").stdout
    for parameter in main.commands[command].params:
        if isinstance(parameter, click.Option):
            first = next(name for name in parameter.opts if name.startswith("--"))
            name = re.compile(rf"  (-\w, )?{first}(?![\w-])")
            assert sum(bool(name.match(line)) for line in shown.splitlines()) == 1
    titles = [shown.index(title) for title in ("Inputs:", "Runtime:", "Other options:")]
    assert titles == sorted(titles)
    others = [line.split()[1] for line in shown[titles[-1] :].splitlines() if line.startswith("  -")]
    assert others == ["--quiet", "--verbose", "--help"]
    assert (shown.count("bnfuse optimize model") == 2) is (command == "optimize")


def test_a_shell_completes() -> None:
    """As the README says it: the script for bash, and what it asks for."""
    asked = {"COMP_WORDS": "bnfuse op", "COMP_CWORD": "1", "_BNFUSE_COMPLETE": "bash_complete"}
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from bnfuse.cli import main; main(prog_name='bnfuse')"],
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["plain,optimize"], done.stderr


def test_version() -> None:
    result = call("--version")
    assert result.exit_code == 0
    assert result.stdout.split()[-1] == bnfuse.__version__


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)])
def test_help_prints_in_any_encoding(command: tuple[str, ...]) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    line = [sys.executable, "-m", "bnfuse", *command, "--help"]
    subprocess.run(line, capture_output=True, check=True, cwd=ROOT, env=environment)


USAGE = [
    (),
    ("nonsense",),
    ("optimize",),
    ("inspect", "m.onnx", "--nonsense"),
    ("optimize", "m.onnx", "--batch", "0"),
    ("optimize", "m.onnx", "--batch", "1,2"),
    ("optimize", "m.onnx", "--device", "tpu"),
    ("optimize", "m.onnx", "--threads", "0"),
    ("optimize", "m.onnx", "--shape", "1,3,8,8"),
    ("optimize", "m.onnx", "--shape", "x=1,three"),
    ("optimize", "m.onnx", "--shape", "x=1,-3"),
    ("optimize", "m.onnx", "--verify-time", "0"),
    ("optimize", "m.onnx", "--runtime-timeout", "0"),
    ("optimize", "m.onnx", "--runtime-memory", "2"),
    ("verify", "a.onnx", "b.onnx", "--runtime-memory", "0GB"),
    ("optimize", "m.onnx", "--report", "report.txt"),
    ("inspect", "m.onnx", "--report", "report"),
    ("verify", "a.onnx"),
    ("bench", "a.onnx", "b.onnx", "--batch", "1,x"),
    ("bench", "a.onnx", "b.onnx", "--fail-if-slower", "much"),
    ("bench", "a.onnx", "b.onnx", "--fail-if-slower", "-1"),
    ("bench", "a.onnx", "--fail-if-slower", "3"),
]


@pytest.mark.parametrize("arguments", USAGE)
def test_wrong_usage_exits_2_before_any_work(arguments: tuple[str, ...]) -> None:
    result = call(*arguments)
    assert result.exit_code == 2
    assert result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x=1,3,8,8", {"x": (1, 3, 8, 8)}),
        ("a=b:0=2", {"a=b:0": (2,)}),
        ("scalar=", {"scalar": ()}),
        ("empty=0,4", {"empty": (0, 4)}),
    ],
)
def test_shapes(monkeypatch: pytest.MonkeyPatch, text: str, expected: dict[str, tuple[int, ...]]) -> None:
    seen = wanted_by_optimize(monkeypatch, "--shape", text)
    assert seen["verify"].shape == expected and seen["bench"].shape == expected


def wanted_by_optimize(monkeypatch: pytest.MonkeyPatch, *options: str) -> dict[str, Any]:
    """What the command hands to the use case."""
    seen: dict[str, Any] = {}

    def optimize(model: Path, output: Path | None, *, request: OptimizeRequest, **more: Any) -> None:
        seen.update(asdict(request), model=model, output=output, **more)
        raise UnreadableModel("enough")

    monkeypatch.setattr(use_case, "optimize", optimize)
    assert call("optimize", "m.onnx", *options).exit_code == 3
    return seen


def test_options_reach_the_use_case(monkeypatch: pytest.MonkeyPatch) -> None:
    options = (
        "-o out.onnx --force --batch 4 --threads 2 --device gpu --inputs x.npz --verify-time 3 --bench-time 4"
    )
    reading = "--freeze-inputs --activations move --keep a --keep b*"
    seen = wanted_by_optimize(monkeypatch, *options.split(), *reading.split())
    assert (seen["model"], seen["output"], seen["force"]) == (Path("m.onnx"), Path("out.onnx"), True)
    assert seen["read"] == ReadOptions(freeze_inputs=True, activations="move", keep=("a", "b*"))
    verify, bench = seen["verify"], seen["bench"]
    assert (verify.batch, verify.threads, verify.device, verify.verify_time) == (4, 2, "gpu", 3.0)
    assert (bench.batch, bench.threads, bench.device, bench.max_time) == ((4,), (2,), "gpu", 4.0)
    assert verify.inputs == bench.inputs == Path("x.npz")


def test_leaving_steps_out_reaches_the_use_case(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = wanted_by_optimize(monkeypatch, "--no-verify", "--no-bench", "--strict-inputs")
    assert (seen["verify"], seen["bench"], seen["read"].strict_inputs) == (None, None, True)
    assert seen["hashes"] is False  # nothing that is printed needs them
    assert wanted_by_optimize(monkeypatch, "--json")["hashes"] is True


def test_limits_of_the_runtime_hold_for_one_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BNFUSE_RUNTIME_TIMEOUT", "9")
    monkeypatch.delenv("BNFUSE_RUNTIME_MEMORY", raising=False)
    seen: list[str | None] = []

    def optimize(*_: object, **__: object) -> None:
        seen.extend(os.environ.get(f"BNFUSE_RUNTIME_{name}") for name in ("TIMEOUT", "MEMORY"))
        raise UnreadableModel("enough")

    monkeypatch.setattr(use_case, "optimize", optimize)
    for options in (
        ["--runtime-timeout", "2.5", "--runtime-memory", "500MB"],
        ["--runtime-memory", "1.5G"],
        [],
    ):
        assert call("optimize", "m.onnx", *options).exit_code == 3
    assert seen == ["2.5", "0.5", "9", "1.5", "9", None]


@pytest.mark.parametrize("command", ["verify", "bench", "diff"])
@pytest.mark.parametrize("at", [0, 1])
def test_an_address_where_files_are_read_is_told_as_one(command: str, at: int) -> None:
    """It is no file that does not exist; and ``optimize`` would take it."""
    models = ["model.onnx", "model.onnx"]
    models[at] = "s3://bucket/zoo/model.onnx"
    done = call(command, *models)
    assert done.exit_code == 2
    assert "'s3://bucket/zoo/model.onnx' is an address, which only inspect and optimize take" in done.stderr
    models[at] = ""  # a variable of the shell that is not set, and not the folder one is in
    done = call(command, *models)
    assert done.exit_code == 2 and "a path is empty" in done.stderr
