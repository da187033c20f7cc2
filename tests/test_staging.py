"""Results are put into place whole or not at all, and never over the input."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from bnfuse.errors import (
    OutputError,
    UsageError,
)
from bnfuse.staging import check_target, default_output, place, staging_folder
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


@pytest.fixture
def two_files(tmp_path: Path) -> Iterator[tuple[list[Path], Path]]:
    """A side file and a model, staged; and where the model is to go."""
    target = tmp_path / "out.onnx"
    with staging_folder(target) as folder:
        staged = [folder / "out.onnx.data", folder / "out.onnx"]
        for path in staged:
            path.write_text(f"new {path.name}")
        yield staged, target


def test_placing_both(two_files: tuple[list[Path], Path]) -> None:
    staged, target = two_files
    place(staged, target, (), force=False)
    assert target.read_text() == "new out.onnx"
    assert target.with_name("out.onnx.data").read_text() == "new out.onnx.data"


@pytest.mark.parametrize("occupied", ["out.onnx", "out.onnx.data"])
def test_nothing_is_placed_where_one_name_is_taken(two_files: tuple[list[Path], Path], occupied: str) -> None:
    staged, target = two_files
    target.with_name(occupied).write_text("old")
    with pytest.raises(OutputError, match=f"{occupied}' exists"):
        place(staged, target, (), force=False)
    assert [n for n in names_in(target.parent) if not n.startswith(".")] == [occupied]
    assert target.with_name(occupied).read_text() == "old"


@pytest.mark.parametrize("old", [(), ("out.onnx",), ("out.onnx.data",), ("out.onnx", "out.onnx.data")])
@pytest.mark.parametrize("failing", ["out.onnx.data", "out.onnx"])
@pytest.mark.parametrize("links", [True, False])
def test_a_failed_rename_brings_the_old_state_back(
    two_files: tuple[list[Path], Path],
    monkeypatch: pytest.MonkeyPatch,
    old: Sequence[str],
    failing: str,
    links: bool,
) -> None:
    staged, target = two_files
    for name in old:
        target.with_name(name).write_text(f"old {name}")
    replace = Path.replace

    def failing_replace(self: Path, to: Path) -> Path:
        if self.name == failing and to.parent == target.parent:
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(self, to)

    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "replace", failing_replace)
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(OutputError, match="disk is full"):
        place(staged, target, (), force=True)
    left = {n: target.with_name(n).read_text() for n in names_in(target.parent) if not n.startswith(".")}
    assert left == {name: f"old {name}" for name in old}


def test_force_replaces_a_link_and_not_what_it_points_to(
    two_files: tuple[list[Path], Path], tmp_path: Path
) -> None:
    staged, target = two_files
    precious = tmp_path / "precious"
    precious.write_text("precious")
    target.symlink_to(precious)
    place(staged, target, (), force=True)
    assert not target.is_symlink() and target.read_text() == "new out.onnx"
    assert precious.read_text() == "precious"


@pytest.mark.parametrize("force", [False, True])
def test_the_inputs_side_file_is_never_replaced(two_files: tuple[list[Path], Path], force: bool) -> None:
    staged, target = two_files
    own = target.with_name("out.onnx.data")
    own.write_text("weights of the input")
    with pytest.raises(OutputError, match="belongs to the input"):
        place(staged, target, (own,), force=force)
    assert own.read_text() == "weights of the input"
    assert not target.exists()


def test_outputs_get_the_mode_of_any_new_file(two_files: tuple[list[Path], Path]) -> None:
    staged, target = two_files
    for path in staged:
        path.chmod(0o600)
    before = os.umask(0o027)
    try:
        place(staged, target, (), force=False)
    finally:
        os.umask(before)
    for path in (target, target.with_name("out.onnx.data")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_the_staging_folder_goes_whatever_happens(tmp_path: Path) -> None:
    for error in (KeyboardInterrupt(), SystemExit(143), OSError(errno.ENOSPC, "full"), MemoryError()):
        with pytest.raises(type(error)), staging_folder(tmp_path / "out.onnx") as folder:
            assert folder.parent == tmp_path and folder.name.startswith(".")
            (folder / "deep").mkdir()
            (folder / "deep" / "part").write_bytes(b"half")
            raise error
        assert names_in(tmp_path) == []


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
