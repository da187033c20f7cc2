"""Which models are meant by paths, folders and patterns, and where their results go. Nothing is run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bnfuse.errors import UsageError
from bnfuse.use_cases.many.discovery import Found, discover, is_model_folder, means_one
from bnfuse.use_cases.many.targets import placed
from tests.many_models import grown, save


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder ``zoo`` of models, in the current one."""
    monkeypatch.chdir(tmp_path)
    grown(tmp_path / "zoo")
    return tmp_path


def found(*names: str, recursive: bool = False, without: Path | None = None) -> list[str]:
    return [each.model for each in discover(names, recursive=recursive, without=without)]


CASES: list[tuple[tuple[str, ...], bool, list[str]]] = [
    (("zoo",), False, ["zoo/a.onnx"]),
    (("zoo",), True, ["zoo/a.onnx", "zoo/deep/broken.onnx", "zoo/deep/er/b.ONNX"]),
    (("zoo/a.fused.onnx",), False, ["zoo/a.fused.onnx"]),
    (("zoo/*.onnx",), False, ["zoo/a.onnx"]),
    (("zoo/**/*.ONNX",), False, ["zoo/deep/er/b.ONNX"]),
    (("zoo/deep/er/b.ONNX", "zoo"), False, ["zoo/deep/er/b.ONNX", "zoo/a.onnx"]),
    (("zoo/a.onnx", "zoo", "./zoo/../zoo/a.onnx"), False, ["zoo/a.onnx"]),
    (("missing.onnx", "zoo"), False, ["missing.onnx", "zoo/a.onnx"]),
    (("no*match.onnx",), False, ["no*match.onnx"]),
    (("zoo/deep/*",), False, ["zoo/deep/broken.onnx", "zoo/deep/m.weights.h5"]),
]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("names", "recursive", "wanted"), CASES)
def test_what_is_meant(names: tuple[str, ...], recursive: bool, wanted: list[str]) -> None:
    assert found(*names, recursive=recursive) == wanted


def test_a_file_stands_for_itself_before_it_is_a_pattern(here: Path) -> None:
    save(here / "m[1].onnx")
    save(here / "m1.onnx")
    assert found("m[1].onnx") == ["m[1].onnx"]
    assert found("m[12].onnx") == ["m1.onnx"]


def test_a_link_is_the_model_it_leads_to_and_a_circle_has_an_end(here: Path) -> None:
    (here / "zoo" / "deep" / "up").symlink_to(here / "zoo")
    (here / "zoo" / "z.onnx").symlink_to(here / "zoo" / "a.onnx")
    assert found("zoo", recursive=True) == ["zoo/a.onnx", "zoo/deep/broken.onnx", "zoo/deep/er/b.ONNX"]


def test_the_folder_of_results_is_left_out(here: Path) -> None:
    save(here / "zoo" / "build" / "deep" / "x.onnx")
    assert "zoo/build/deep/x.onnx" in found("zoo", recursive=True)
    assert "zoo/build/deep/x.onnx" not in found("zoo", recursive=True, without=here / "zoo" / "build")


@pytest.mark.parametrize("part", ["model.weights.h5", "metadata.json", None])
def test_a_folder_that_is_a_model_is_one(here: Path, part: str | None) -> None:
    """What Keras saves with ``zipped=False``."""
    folder = here / "zoo" / "net"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    save(folder / "inside.onnx")
    if part is not None:
        (folder / part).write_bytes(b"")
    assert is_model_folder(folder) is means_one("zoo/net") is (part is not None)
    inside = [model for model in found("zoo", recursive=True) if "net" in model]
    assert inside == (["zoo/net/inside.onnx"] if part is None else ["zoo/net"])


@pytest.mark.usefixtures("here")
def test_a_folder_without_models_says_so() -> None:
    (Path("empty") / "inner").mkdir(parents=True)
    (each,) = discover(["empty"], recursive=False)
    assert each.problem == (
        "'empty' holds no model (.onnx, .keras, .h5, .hdf5); "
        "--recursive looks into the folders within it, too"
    )
    (each,) = discover(["empty"], recursive=True)
    assert "--recursive" not in each.problem


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("name", "one"),
    [("zoo", False), ("zoo/*.onnx", False), ("zoo/a.onnx", True), ("gone.onnx", True), ("g*.onnx", True)],
)
def test_what_means_one_model_alone(name: str, one: bool) -> None:
    assert means_one(name) is one


def targets(*names: str, into: str | None, recursive: bool = True) -> list[str | None]:
    return placed(discover(names, recursive=recursive), into)


@pytest.mark.usefixtures("here")
def test_results_go_beside_their_model_or_below_a_folder() -> None:
    beside = targets("zoo", into=None)
    assert beside == ["zoo/a.fused.onnx", None, "zoo/deep/er/b.fused.ONNX"]  # the second is no model
    assert targets("zoo", into="build") == ["build/a.fused.onnx", None, "build/deep/er/b.fused.ONNX"]
    assert targets("zoo/deep/er/b.ONNX", into="build") == ["build/b.fused.ONNX"]


@pytest.mark.usefixtures("here")
def test_no_two_results_go_to_one_place() -> None:
    save(Path("other/a.onnx"))
    with pytest.raises(
        UsageError, match=r"'zoo/a.onnx' and 'other/a.onnx' would both be written to 'build/a"
    ):
        targets("zoo", "other", into="build")
    assert len(targets("zoo", "other", into=None)) == 4


@pytest.mark.usefixtures("here")
def test_no_result_goes_where_a_model_is() -> None:
    with pytest.raises(
        UsageError, match=r"'zoo/a.onnx' would be written to 'zoo/a.fused.onnx', which is one"
    ):
        targets("zoo/a.onnx", "zoo/a.fused.onnx", into=None)


def test_spellings_of_one_place_are_one(here: Path) -> None:
    save(here / "other" / "a.onnx")
    (here / "link").symlink_to(here / "build")
    (here / "build").mkdir()
    every = [
        Found(str(here / "zoo" / "a.onnx"), "a.onnx"),
        Found(str(here / "other" / "a.onnx"), os.path.join("x", "..", "a.onnx")),  # noqa: PTH118
    ]
    with pytest.raises(UsageError, match="would both be written"):
        placed(every, str(here / "link"))
