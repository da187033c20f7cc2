"""Results are put into place whole or not at all, wherever that is cut off, and never over the input."""

from __future__ import annotations

import errno
import itertools
import os
import stat
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bnfuse.errors import OutputError
from bnfuse.files.placing import place
from bnfuse.files.side_files import side_file_name, superseded
from bnfuse.files.staging import staging_folder
from tests.fake_format import names_in

Staged = list[Path]


def staged_in(folder: Path, what: str) -> Staged:
    """A side file and a model that refers to it."""
    unnamed, model = folder / "unnamed", folder / "out.onnx"
    unnamed.write_text(f"weights of {what}")
    side = unnamed.rename(folder / side_file_name(model.name, unnamed))
    model.write_text(f"{what}: {side.name}")
    return [side, model]


@pytest.fixture
def two_files(tmp_path: Path) -> Iterator[tuple[Staged, Path]]:
    """A side file and a model, staged; and where the model is to go."""
    target = tmp_path / "out.onnx"
    with staging_folder(target) as folder:
        yield staged_in(folder, "new"), target


def placed(target: Path, what: str) -> Staged:
    """What an earlier run put there."""
    with staging_folder(target) as folder:
        staged = staged_in(folder, what)
        place(staged, target, (), force=True)
    return [target.with_name(path.name) for path in staged]


def read(target: Path) -> str:
    """What a reader finds: nothing, or a model that refers to its own weights."""
    if not target.exists():
        return "nothing"
    what, side = target.read_text().split(": ")
    assert target.with_name(side).read_text() == f"weights of {what}", "a mixture"
    return what


def shown(folder: Path) -> list[str]:
    return [name for name in names_in(folder) if not name.startswith(".")]


def test_placing_both(two_files: tuple[Staged, Path]) -> None:
    staged, target = two_files
    place(staged, target, (), force=False)
    assert read(target) == "new"
    assert shown(target.parent) == ["out.onnx", staged[0].name]
    assert target.stat().st_nlink == 1


@pytest.mark.usefixtures("locks")
def test_the_old_weights_go_last(two_files: tuple[Staged, Path]) -> None:
    staged, target = two_files
    placed(target, "old")
    place(staged, target, (), force=True)
    assert read(target) == "new"
    assert shown(target.parent) == ["out.onnx", staged[0].name]


def test_weights_that_a_model_means_or_that_another_wrote_stay(two_files: tuple[Staged, Path]) -> None:
    staged, target = two_files
    old, model = placed(target, "old")
    others = {"out.onnx.0123456789ab.data": "not what its name says", "out.onnx.data": "of another tool"}
    for name, text in others.items():
        target.with_name(name).write_text(text)
    target.with_name("copy.onnx").write_bytes(model.read_bytes())
    place(staged, target, (), force=True)
    assert read(target) == "new" and read(target.with_name("copy.onnx")) == "old"
    assert set(shown(target.parent)) == {"out.onnx", "copy.onnx", old.name, staged[0].name, *others}
    target.with_name("copy.onnx").unlink()
    assert list(superseded(target)) == [old]


@pytest.mark.parametrize("occupied", [0, 1])
def test_nothing_is_placed_where_one_name_is_taken(two_files: tuple[Staged, Path], occupied: int) -> None:
    staged, target = two_files
    name = staged[occupied].name
    target.with_name(name).write_text("old")
    with pytest.raises(OutputError, match=f"{name}' exists"):
        place(staged, target, (), force=False)
    assert shown(target.parent) == [name]
    assert target.with_name(name).read_text() == "old"


def test_a_name_that_is_taken_at_the_last_moment(
    two_files: tuple[Staged, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the first look and the switch: the switch itself fails where the name exists."""
    staged, target = two_files
    fsync = os.fsync

    def meanwhile(descriptor: int) -> None:
        fsync(descriptor)
        target.write_text("of another program")

    monkeypatch.setattr(os, "fsync", meanwhile)
    with pytest.raises(OutputError, match="exists"):
        place(staged, target, (), force=False)
    assert target.read_text() == "of another program" and shown(target.parent) == ["out.onnx"]


@pytest.mark.parametrize("force", [False, True])
def test_where_there_are_no_hard_links(
    two_files: tuple[Staged, Path], monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", no_links)
    staged, target = two_files
    place(staged, target, (), force=force)
    assert read(target) == "new"


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("failing", [0, 1])
def test_a_failed_rename_leaves_the_old_state(
    two_files: tuple[Staged, Path], monkeypatch: pytest.MonkeyPatch, old: bool, failing: int
) -> None:
    staged, target = two_files
    if old:
        placed(target, "old")
    before = shown(target.parent)
    replace = Path.replace

    def failing_replace(self: Path, to: Path) -> Path:
        if self.name == staged[failing].name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(self, to)

    monkeypatch.setattr(Path, "replace", failing_replace)
    with pytest.raises(OutputError, match="disk is full"):
        place(staged, target, (), force=True)
    assert shown(target.parent) == before
    assert read(target) == ("old" if old else "nothing")


def _die(target: Path, at: int, when: str, force: bool) -> int:
    """Place in a process that ends at a call that changes names; its exit code, 0 where it came through."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other threads, which the child does not need
        child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        with staging_folder(target) as folder:
            staged = staged_in(folder, "new")
            _make_deadly(at, when)
            place(staged, target, (), force=force)
        os._exit(0)
    finally:
        os._exit(1)


def _make_deadly(at: int, when: str) -> None:
    """Let this process end without a word before or after the call of a number."""
    calls = itertools.count(1)

    def deadly(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            number = next(calls)
            if number == at and when == "before":
                os._exit(9)
            answer = real(*given, **named)
            if number == at:
                os._exit(9)
            return answer

        return call

    for name in ("replace", "rename", "unlink", "hardlink_to", "chmod"):
        setattr(Path, name, deadly(getattr(Path, name)))


@pytest.mark.usefixtures("locks")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.parametrize("force", [False, True])
def test_a_kill_at_every_step_leaves_old_or_new_and_the_next_run_succeeds(
    tmp_path: Path, force: bool
) -> None:
    seen = []
    for at in range(1, 12):
        for when in ("before", "after"):
            folder = tmp_path / f"{at}{when}"
            folder.mkdir()
            target = folder / "out.onnx"
            if force:
                placed(target, "old")
            done = _die(target, at, when, force)
            found = read(target)
            seen.append(found)
            if done == 0:
                assert found == "new"
                assert seen[0] != "new" and seen.count("new") > 2 and at > 4
                return
            assert done == 9 and found in (("old", "new") if force else ("nothing", "new"))
            with staging_folder(target) as again:
                staged = staged_in(again, "new")
                place(staged, target, (), force=force or found == "new")
            assert read(target) == "new" and names_in(folder) == ["out.onnx", staged[0].name]
    raise AssertionError("it never came through")


def test_force_replaces_a_link_in_one_step_and_not_what_it_points_to(
    two_files: tuple[Staged, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged, target = two_files
    precious = tmp_path / "precious"
    precious.write_text("precious")
    target.symlink_to(precious)
    replace = Path.replace

    def watched(self: Path, to: Path) -> Path:
        assert os.path.lexists(target), "a moment without any output"
        return replace(self, to)

    monkeypatch.setattr(Path, "replace", watched)
    place(staged, target, (), force=True)
    assert not target.is_symlink() and read(target) == "new"
    assert precious.read_text() == "precious"


@pytest.mark.parametrize("force", [False, True])
def test_the_inputs_side_file_is_never_replaced(two_files: tuple[Staged, Path], force: bool) -> None:
    staged, target = two_files
    own = target.with_name(staged[0].name)
    own.write_text("weights of the input")
    with pytest.raises(OutputError, match="belongs to the input"):
        place(staged, target, (own,), force=force)
    assert own.read_text() == "weights of the input"
    assert not target.exists()


def test_outputs_get_the_mode_of_any_new_file(two_files: tuple[Staged, Path]) -> None:
    staged, target = two_files
    for path in staged:
        path.chmod(0o600)
    before = os.umask(0o027)
    try:
        place(staged, target, (), force=False)
    finally:
        os.umask(before)
    for path in (target, target.with_name(staged[0].name)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_all_is_on_the_disk_before_the_switch_and_the_switch_in_the_end(
    two_files: tuple[Staged, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    staged, target = two_files
    inodes = {path.stat().st_ino: path.name for path in staged} | {target.parent.stat().st_ino: "folder"}
    steps: list[str] = []
    fsync, link = os.fsync, Path.hardlink_to

    def flushed(descriptor: int) -> None:
        steps.append(inodes[os.fstat(descriptor).st_ino])
        fsync(descriptor)

    def switched(self: Path, to: Path) -> None:
        steps.append("switch")
        link(self, to)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(Path, "hardlink_to", switched)
    place(staged, target, (), force=False)
    assert steps == [staged[0].name, "out.onnx", "folder", "switch", "folder"]
