"""What a command imports: of other packages only what it has work for, and of its own what it runs.

Modules are counted, not seconds: they are the same on every machine.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from tests.command import ROOT

RUNTIMES = {"onnxruntime", "tensorflow", "keras", "torch", "jax"}
# What of onnx parses a model, checks its nodes and infers shapes.
ONNX_PARTS = {"onnx.defs", "onnx.onnx_cpp2py_export", "onnx.onnx_ml_pb2", "onnx.onnx_pb"}
# Who folds nothing of theirs, reads no terminal and writes no file has no work for these.
IDLE = {
    "difflib",
    "google.protobuf.json_format",
    "importlib.metadata",
    "ml_dtypes",
    "numpy.ma",
    "rich",
    "tempfile",
}
MOST_OF_OURS = 180
ENDS = "\nexcept SystemExit as end:\n    assert not end.code, end.code\n"


def run(script: str, *arguments: object) -> str:
    """The last line that a process of its own prints."""
    line = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout.splitlines()[-1]


def modules_after(*arguments: object) -> set[str]:
    """All modules, and the packages they are in, that ``bnfuse`` with these arguments leaves loaded."""
    script = (
        f"import sys\nfrom bnfuse.cli import main\ntry:\n    main(sys.argv[1:], prog_name='bnfuse'){ENDS}"
        "print('\\n' + ' '.join(sys.modules))"
    )
    return set(run(script, *arguments).split())


@pytest.mark.parametrize("arguments", [["--help"], ["optimize", "--help"], ["bench", "-h"], ["--version"]])
def test_help_imports_click_and_nothing_heavy(arguments: list[str]) -> None:
    loaded = modules_after(*arguments)
    assert not loaded & (RUNTIMES | {"rich", "numpy", "msgspec", "onnx", "h5py", "google"})


def test_dry_run_and_check_import_no_runtime(model: Path, plain_model: Path) -> None:
    assert not modules_after("optimize", model, "--dry-run") & RUNTIMES
    assert not modules_after("optimize", plain_model, "--check") & RUNTIMES


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_only_a_terminal_needs_rich(model: Path, options: tuple[str, ...]) -> None:
    assert "rich" not in modules_after("inspect", model, *options)


def test_a_line_that_moves_is_drawn_for_who_waits(model: Path) -> None:
    script = (
        "import sys\nfrom bnfuse.cli import main, waiting\nwaiting.PATIENCE_S = float(sys.argv.pop(1))\n"
        f"sys.stderr.isatty = lambda: True\ntry:\n    main(sys.argv[1:], prog_name='bnfuse'){ENDS}"
        "print('\\n' + str('rich.progress' in sys.modules))"
    )
    assert run(script, 60, "inspect", model) == "False"
    assert run(script, 0, "inspect", model) == "True"


@pytest.mark.parametrize("name", ["digits_cnn.onnx", "digits_mlp.onnx", "digits_separable.onnx"])
def test_inspect_of_onnx_imports_the_parts_of_onnx_that_read(name: str) -> None:
    loaded = modules_after("inspect", ROOT / "fixtures" / name)
    parts = {".".join(module.split(".")[:2]) for module in loaded if module.startswith("onnx.")}
    assert parts <= ONNX_PARTS
    assert not loaded & (RUNTIMES | IDLE | {"h5py"})
    assert sum(module.startswith("bnfuse.") for module in loaded) <= MOST_OF_OURS


@pytest.mark.parametrize("name", ["digits_a.h5", "digits_a.keras"])
def test_inspect_of_keras_imports_what_reads_hdf5(name: str) -> None:
    loaded = modules_after("inspect", ROOT / "fixtures" / name)
    assert "onnx.onnx_ml_pb2" not in loaded
    assert not loaded & (RUNTIMES | IDLE - {"tempfile"} | {"google"})
    assert sum(module.startswith("bnfuse.") for module in loaded) <= MOST_OF_OURS


@pytest.mark.parametrize(
    "first",
    [
        "onnx.ModelProto",
        "onnx.helper",
        "onnx.compose",
        "onnx.load",
        "onnx.__version__",
        "__import__('onnx.numpy_helper')",
        "__import__('onnx', fromlist=['checker', 'TensorProto'])",
    ],
)
def test_onnx_in_parts_becomes_the_whole_package_whatever_is_asked_for_first(first: str) -> None:
    script = (
        "from bnfuse.packages import defer_onnx\ndefer_onnx()\nimport sys, types, onnx\n"
        f"def whole():\n    return type(onnx) is types.ModuleType\n"
        f"assert not whole()\n{first}\n"
        "messages, model = sys.modules['onnx.onnx_ml_pb2'], onnx.ModelProto\n"
        "onnx.load, onnx.helper\n"
        "assert whole() and sys.modules['onnx'] is onnx\n"
        "assert model is onnx.ModelProto is messages.ModelProto is onnx.onnx_ml_pb2.ModelProto\n"
        "assert type(onnx.helper.make_node('Relu', ['x'], ['y'])) is onnx.NodeProto\n"
        "assert not hasattr(onnx, 'of_no_version')\n"
        "print(*sorted(name for name in onnx.__all__ if name in vars(onnx)))"
    )
    assert run(script).split() == sorted(onnx.__all__)


def test_onnx_in_parts_is_asked_for_by_commands_alone(model: Path) -> None:
    script = "import sys, bnfuse\nbnfuse.inspect(sys.argv[1])\nprint(type(sys.modules['onnx']))"
    assert run(script, model) == "<class 'module'>"
