"""Where outputs may go: folders are made, names of other formats and streams are refused, pipes may close."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bnfuse.report import FORMS
from tests.command import ROOT, call

FIXTURES = ROOT / "fixtures"
QUICK = ("--no-verify", "--no-bench")

NAMES = [  # model, output, what the sentence says ("" for done)
    ("digits_cnn.onnx", "-", "give --output a file name"),
    ("digits_cnn.onnx", "out.h5", "end its name in .onnx"),
    ("digits_cnn.onnx", "out.keras", "end its name in .onnx"),
    ("digits_b.keras", "out.onnx", "end its name in .keras"),
    ("digits_b.keras", "out.h5", "end its name in .keras"),
    ("digits_b.h5", "out.keras", "end its name in .h5 or .hdf5"),
    ("digits_b.h5", "out.hdf5", ""),
    ("digits_cnn.onnx", "out.bin", ""),
    ("digits_cnn.onnx", "out", ""),
]


@pytest.mark.parametrize(("model", "output", "says"), NAMES)
def test_a_name_of_another_format_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, output: str, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = call("optimize", FIXTURES / model, "-o", output, *QUICK)
    assert done.exit_code == (2 if says else 0), done.output
    assert says in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ([] if says else [output])


def test_an_hdf5_file_that_is_called_keras_keeps_its_name(tmp_path: Path) -> None:
    path = tmp_path / "old.keras"
    path.write_bytes((FIXTURES / "digits_b.h5").read_bytes())
    assert call("optimize", path, "-o", tmp_path / "new.keras", *QUICK).exit_code == 0


def test_missing_folders_are_made(model: Path, tmp_path: Path) -> None:
    report = tmp_path / "reports" / "today" / "r.md"
    done = call("optimize", model, "-o", tmp_path / "new" / "deep" / "out.onnx", *QUICK, "--report", report)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "new" / "deep" / "out.onnx").is_file() and report.is_file()


def test_a_folder_that_was_made_for_nothing_goes_again(model: Path, tmp_path: Path) -> None:
    model.write_bytes(model.read_bytes()[:200])  # the beginning of a model: it is refused when it is read
    assert call("optimize", model, "-o", tmp_path / "new" / "deep" / "out.onnx").exit_code == 3
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_a_file_on_the_way_is_told(model: Path, tmp_path: Path) -> None:
    for option in ("-o", "--report"):
        done = call(
            "optimize", model, option, model / "out.onnx" if option == "-o" else model / "r.md", *QUICK
        )
        assert done.exit_code == 2 and done.stderr.count("\n") == 1, done.output


CLOSED = [
    ("--help",),
    ("--version",),
    ("optimize", "--help"),
    ("inspect", "MODEL"),
    ("inspect", "MODEL", "--json"),
    ("inspect", "MODEL", "--explain", "*"),
    ("diff", "MODEL", "MODEL"),
    ("optimize", "MODEL", "--check"),
    ("optimize", "MISSING", "--json"),
]


# Each in a fork of one process, for it is the end of a process that is looked at, not its beginning.
_FORKS = """
import json, os, runpy, sys
import bnfuse.cli, bnfuse.formats.onnx, bnfuse.use_cases.diff, bnfuse.use_cases.optimize
for number, arguments in json.loads(sys.argv[1]).items():
    child = os.fork()
    if not child:
        sys.argv[1:] = arguments
        runpy.run_module("bnfuse", run_name="__main__", alter_sys=True)
        os._exit(99)  # nor does it come here
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.write(2, f"{number} ended with {code}\\n".encode())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="os.fork")
def test_a_reader_that_went_away_is_never_a_gate(model: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    named = {n: [str(model) if word == "MODEL" else word for word in words] for n, words in enumerate(CLOSED)}
    done = subprocess.run(
        [sys.executable, "-c", _FORKS, json.dumps(named)],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        check=False,
    )
    os.close(write)
    ends = [line for line in done.stderr.splitlines() if " ended with " in line]
    assert ends == [f"{number} ended with 141" for number in range(len(CLOSED))], done.stderr
    assert "Traceback" not in done.stderr


def test_all_forms_of_report_are_known_by_their_suffix() -> None:
    assert FORMS == (".json", ".md", ".html", ".xml", ".sarif")
