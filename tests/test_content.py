"""Which file is what, and the exit codes of what is none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bnfuse import formats
from bnfuse.errors import (
    BnfuseError,
    ExitCode,
    NotEqual,
    OutputError,
    RuntimeMissing,
    UnreadableModel,
    UnsafeModel,
    UsageError,
)
from bnfuse.use_cases.unwritten import Unproved

NOT_MODELS = [
    (b"", "is empty"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:aa", "git lfs pull"),
    (b"<!DOCTYPE html><html><body>404", "web page"),
    (b"\xef\xbb\xbf\n  <HTML>", "web page"),
    (b"<?xml version='1.0'?>", "XML"),
    (b"\x93NUMPY\x01\x00", "NumPy array"),
    (b"\x80\x02}q\x00", "pickle"),
    (b'{"class_name": "Sequential"}', "JSON"),
    (b"\x1c\x00\x00\x00TFL3" + bytes(30), "TensorFlow Lite"),
    (b"\x1f\x8b\x08\x00" + bytes(30), "unpack it"),
    (b"hello, this is no model at all", "is not a model bnfuse can read"),
]


@pytest.mark.parametrize(("content", "expected"), NOT_MODELS)
@pytest.mark.parametrize("suffix", [".onnx", ".keras", ""])
def test_what_is_no_model_is_named_by_its_content(
    tmp_path: Path, content: bytes, expected: str, suffix: str
) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    with pytest.raises(UnreadableModel, match=expected) as caught:
        formats.detect(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(UnreadableModel, match="does not exist"):
        formats.detect(tmp_path / "missing.onnx")
    with pytest.raises(UnreadableModel, match="is a folder"):
        formats.detect(tmp_path)
    with pytest.raises(UnreadableModel, match="cannot be read"):
        formats.detect(Path("nul\0.onnx"))
    loop = tmp_path / "loop.onnx"
    loop.symlink_to(loop)
    with pytest.raises(UnreadableModel):
        formats.detect(loop)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(UnreadableModel, match="not a regular file"):
        formats.detect(tmp_path / "pipe.onnx")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions do not bind root")
def test_a_file_without_read_permission_is_said(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"x")
    path.chmod(0)
    with pytest.raises(UnreadableModel, match="Permission denied"):
        formats.detect(path)


CODES: list[tuple[type[BnfuseError], int]] = [
    (UsageError, 2),
    (OutputError, 2),
    (UnreadableModel, 3),
    (UnsafeModel, 3),
    (BnfuseError, 3),
    (NotEqual, 4),
    (Unproved, 4),
    (RuntimeMissing, 5),
]


@pytest.mark.parametrize(("kind", "code"), CODES)
def test_every_error_has_the_exit_code_of_the_contract(kind: type[BnfuseError], code: int) -> None:
    assert kind.exit_code == code


def test_the_contract_is_documented() -> None:
    documented = (Path(__file__).parents[1] / "docs" / "exit-codes.md").read_text(encoding="utf-8")
    for code in ExitCode:
        assert f"\n| {int(code)} |" in documented
