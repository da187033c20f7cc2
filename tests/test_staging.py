"""Results are made in a folder of their own, which goes whatever happens, and never over the input."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from bnfuse.errors import (
    OutputError,
    UsageError,
)
from bnfuse.files import staging
from bnfuse.files.staging import check_target, default_output, staging_folder
from tests.fake_format import names_in


@pytest.mark.parametrize(
    ("model", "suffix", "expected"),
    [
        ("a.onnx", ".onnx", "a.fused.onnx"),
        ("a.b.ONNX", ".onnx", "a.b.fused.onnx"),
        ("model", ".onnx", "model.fused.onnx"),
        ("model.bin", ".onnx", "model.fused.onnx"),
        (".onnx", ".onnx", ".onnx.fused.onnx"),
    ],
)
def test_default_output(model: str, suffix: str, expected: str) -> None:
    assert default_output(Path("dir") / model, suffix) == Path("dir") / expected


def test_the_staging_folder_goes_whatever_happens(tmp_path: Path) -> None:
    for error in (KeyboardInterrupt(), SystemExit(143), OSError(errno.ENOSPC, "full"), MemoryError()):
        with pytest.raises(type(error)), staging_folder(tmp_path / "out.onnx") as folder:
            assert folder.parent == tmp_path and folder.name.startswith(".")
            (folder / "deep").mkdir()
            (folder / "deep" / "part").write_bytes(b"half")
            raise error
        assert names_in(tmp_path) == []


_LIVING = """
import sys, time
from pathlib import Path
from bnfuse.files.staging import staging_folder
with staging_folder(Path(sys.argv[1])) as folder:
    (folder / "half").write_bytes(b"half")
    print(folder.name, flush=True)
    sys.stdin.read()
"""


@pytest.mark.usefixtures("locks")
@pytest.mark.skipif(os.name != "posix", reason="locks are not to be had")
def test_what_a_killed_process_left_goes_with_the_next_run_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    strangers = [tmp_path / ".bnfuse-old", tmp_path / ".bnfuse-elsewhere"]
    for folder in strangers:
        folder.mkdir()
        (folder / "weights").write_bytes(b"weights")
    (strangers[1] / "lock").write_text("another system")
    children = [
        subprocess.Popen(
            [sys.executable, "-c", _LIVING, target], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    try:
        killed, living = (child.stdout.readline().strip() for child in children if child.stdout)
        children[0].kill()
        children[0].wait()
        assert {killed, living} < set(names_in(tmp_path))
        with staging_folder(target) as mine:
            assert names_in(tmp_path) == sorted([living, mine.name, *(folder.name for folder in strangers)])
            assert (tmp_path / living / "half").read_bytes() == b"half"
    finally:
        for child in children:
            child.kill()
            child.communicate()


@pytest.mark.parametrize("alias", ["same", "dotted", "symlink", "hard link", "through a linked folder"])
def test_the_input_is_never_the_output(tmp_path: Path, alias: str) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(b"model")
    (tmp_path / "sub").mkdir()
    target = {
        "same": model,
        "dotted": tmp_path / "sub" / ".." / "model.onnx",
        "symlink": tmp_path / "link.onnx",
        "hard link": tmp_path / "hard.onnx",
        "through a linked folder": tmp_path / "linked" / "model.onnx",
    }[alias]
    (tmp_path / "link.onnx").symlink_to(model)
    os.link(model, tmp_path / "hard.onnx")
    (tmp_path / "linked").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(UsageError, match="input itself"):
        check_target(target, model, force=True)


def test_targets_that_cannot_be(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "old.onnx").write_bytes(b"old")
    dangling = tmp_path / "dangling.onnx"
    dangling.symlink_to(tmp_path / "nowhere")
    cases = [
        ("missing/out.onnx", True, "does not exist"),
        ("folder.onnx", True, "is a folder"),
        ("old.onnx", False, "--force"),
        ("dangling.onnx", False, "--force"),
        ("old.onnx/out.onnx", True, "does not exist"),
    ]
    for name, force, expected in cases:
        with pytest.raises(OutputError, match=expected):
            check_target(tmp_path / name, model, force=force)
    check_target(tmp_path / "old.onnx", model, force=True)
    with pytest.raises(OutputError, match="not a regular file"):
        check_target(Path(os.devnull), model, force=True)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions do not bind root")
def test_a_folder_without_write_permission_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    with pytest.raises(OutputError, match="cannot be written"):
        check_target(folder / "out.onnx", tmp_path / "model.onnx", force=False)


@pytest.mark.usefixtures("locks")
@pytest.mark.skipif(os.name != "posix", reason="locks are not to be had")
def test_what_was_left_before_it_was_locked_goes_too(tmp_path: Path) -> None:
    """Nothing but an empty lock was in it yet; more than that may be somebody else's."""
    for name in ("empty", "locked", "more"):
        (tmp_path / f".bnfuse-{name}").mkdir()
    (tmp_path / ".bnfuse-locked" / "lock").touch()
    (tmp_path / ".bnfuse-more" / "lock").touch()
    (tmp_path / ".bnfuse-more" / "weights").touch()
    with staging_folder(tmp_path / "out.onnx") as mine:
        assert names_in(tmp_path) == sorted([".bnfuse-more", mine.name])


@pytest.mark.usefixtures("locks")
@pytest.mark.skipif(os.name != "posix", reason="locks are not to be had")
@pytest.mark.parametrize("step", ["mkdtemp", "_lock"])
def test_a_folder_that_another_run_sweeps_before_it_is_locked_is_made_anew(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = tempfile if step == "mkdtemp" else staging
    real, swept = getattr(where, step), list[bool]()

    def meanwhile(*given: Any, **named: Any) -> Any:
        made = real(*given, **named) if step == "mkdtemp" else None
        if not swept:
            swept.append(True)
            staging.sweep(tmp_path)
        return made if step == "mkdtemp" else real(*given, **named)

    monkeypatch.setattr(where, step, meanwhile)
    with staging_folder(tmp_path / "out.onnx") as mine:
        assert names_in(tmp_path) == [mine.name] and (mine / "lock").read_text()
    assert swept and names_in(tmp_path) == []


@pytest.mark.parametrize("inside", ["a", "z"])
def test_the_lock_goes_last(inside: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill while it is removed leaves what the next run knows to be left, whatever is listed first."""
    gone: list[str] = []
    unlink, rmdir = os.unlink, os.rmdir

    def told(real: Any) -> Any:
        def call(path: Any, **more: Any) -> None:
            gone.append(Path(path).name)
            real(path, **more)

        return call

    with staging_folder(tmp_path / "out.onnx") as folder:
        (folder / inside).mkdir()
        (folder / f"{inside}.bin").touch()
        monkeypatch.setattr(os, "unlink", told(unlink))
        monkeypatch.setattr(os, "rmdir", told(rmdir))
    assert gone.index("lock") > max(gone.index(inside), gone.index(f"{inside}.bin"))
    assert names_in(tmp_path) == []
