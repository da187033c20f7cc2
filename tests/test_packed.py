"""Models that come packed, in gzip or in a zip archive: opened within bounds, folded, and packed again."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

import bnfuse
from bnfuse.packed import base, packing_of
from tests.cli_models import convnet
from tests.command import call
from tests.fake_format import names_in

ONNX = convnet().SerializeToString()
X = np.random.default_rng(3).standard_normal((2, 3, 9, 7)).astype(np.float32)
QUICK: dict[str, Any] = {"verify_time": 0.2, "bench": False}


def computed(model: bytes) -> np.ndarray:
    evaluator: Any = ReferenceEvaluator(onnx.load_from_string(model))
    return np.asarray(evaluator.run(None, {"x": X})[0])


def zip_of(**members: bytes) -> bytes:
    """Names are given with ``__`` for a slash and ``_`` for a dot; what has no suffix is stored as it is."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            how = zipfile.ZIP_DEFLATED if "_" in name else zipfile.ZIP_STORED
            archive.writestr(name.replace("__", "/").replace("_", "."), content, how)
    return file.getvalue()


def unzipped(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def tar_of(content: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        info = tarfile.TarInfo("m.onnx")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


ZIPPED = zip_of(LICENSE=b"free", net__m_onnx=ONNX, labels_txt=b"cat\n" * 50)
# name, content, name of the result, how the model is found in it
PACKED: list[tuple[str, bytes, str, Callable[[bytes], bytes]]] = [
    ("m.onnx.gz", gzip.compress(ONNX), "m.fused.onnx.gz", gzip.decompress),
    ("M.ONNX.GZ", gzip.compress(ONNX), "M.fused.ONNX.GZ", gzip.decompress),
    ("m.gz", gzip.compress(ONNX[:100]) + gzip.compress(ONNX[100:]), "m.fused.gz", gzip.decompress),
    ("m", gzip.compress(ONNX), "m.fused.gz", gzip.decompress),
    ("m.zip", ZIPPED, "m.fused.zip", lambda z: unzipped(z)["net/m.onnx"]),
]


@pytest.mark.parametrize(("name", "content", "result", "opened"), PACKED, ids=[row[0] for row in PACKED])
def test_a_packed_model_is_folded_and_packed_again(
    tmp_path: Path, name: str, content: bytes, result: str, opened: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    report = bnfuse.optimize(path, **QUICK)
    assert report.model == tmp_path / result and path.read_bytes() == content
    assert report.verification.status is bnfuse.Status.EQUAL
    made = opened(report.model.read_bytes())
    assert [node.op_type for node in onnx.load_from_string(made).graph.node] == ["Conv", "Softsign"]
    want = computed(ONNX)
    assert np.abs(want - computed(made)).max() <= 2e-6 and want.std() > 0.1
    document = json.loads(report.to_json())
    for side, file in (("input", path), ("output", report.model)):
        assert document[side]["path"] == str(file) and document[side]["bytes"] == file.stat().st_size
        assert document[side]["sha256"] == bnfuse.inspect(file).input.sha256
    assert "/bnfuse-" not in report.to_json() + report.to_html()
    first = report.model.read_bytes()
    bnfuse.optimize(path, force=True, verify=False, bench=False)
    assert report.model.read_bytes() == first, "two runs give the same bytes"
    assert names_in(tmp_path) == sorted([name, result])


def test_what_else_is_in_a_zip_archive_stays(tmp_path: Path) -> None:
    (tmp_path / "m.zip").write_bytes(ZIPPED)
    bnfuse.optimize(tmp_path / "m.zip", verify=False, bench=False)
    before, after = unzipped(ZIPPED), unzipped((tmp_path / "m.fused.zip").read_bytes())
    assert list(before) == list(after) and len(after["net/m.onnx"]) < len(before["net/m.onnx"])
    assert {name for name in before if before[name] != after[name]} == {"net/m.onnx"}


def test_a_result_without_the_suffix_is_a_plain_model(tmp_path: Path) -> None:
    (tmp_path / "m.onnx.gz").write_bytes(gzip.compress(ONNX))
    report = bnfuse.optimize(tmp_path / "m.onnx.gz", tmp_path / "out.onnx", **QUICK)
    assert report.model == tmp_path / "out.onnx" and len(onnx.load(report.model).graph.node) == 2
    assert report.input.path == tmp_path / "m.onnx.gz"
    with pytest.raises(bnfuse.UsageError, match="another format, but the result is an ONNX file"):
        bnfuse.optimize(tmp_path / "m.onnx.gz", tmp_path / "out.keras", **QUICK)


@pytest.mark.parametrize(
    ("name", "content", "output", "fits"),
    [
        ("m.onnx", ONNX, "out.onnx.gz", False),
        ("m.onnx", ONNX, "out.zip", False),
        ("m.onnx.gz", gzip.compress(ONNX), "out.ZIP", False),
        ("m.zip", ZIPPED, "out.onnx.gz", False),
        ("m.onnx.gz", gzip.compress(ONNX), "out.gz", True),
        ("m.zip", ZIPPED, "out.zip", True),
    ],
)
def test_nothing_is_called_packed_that_is_not(
    name: str, content: bytes, output: str, fits: bool, tmp_path: Path
) -> None:
    model, target = tmp_path / name, tmp_path / output
    model.write_bytes(content)
    ran = call("optimize", model, "-o", target, "--no-verify", "--no-bench")
    assert (ran.exit_code, target.exists()) == ((0, True) if fits else (2, False)), ran.output
    if fits:
        assert target.read_bytes()[:2] == content[:2]
    else:
        assert "name of a packed file" in ran.stderr and "end its name in .onnx" in ran.stderr


def test_every_command_opens_them(tmp_path: Path) -> None:
    packed, plain = tmp_path / "m.onnx.gz", tmp_path / "m.onnx"
    packed.write_bytes(gzip.compress(ONNX))
    plain.write_bytes(ONNX)
    found = call("inspect", packed, "--json")
    assert json.loads(found.stdout)["input"]["path"] == str(packed)
    assert "bn" in call("inspect", packed, "--explain", "bn").stdout
    assert call("optimize", packed, "--check").exit_code == 1
    found = call("verify", packed, plain, "--verify-time", "0.2", "--json")
    assert (found.exit_code, json.loads(found.stdout)["reference"]["path"]) == (0, str(packed))
    found = call("diff", plain, packed, "--exit-code", "--json")
    assert found.exit_code == 0 and json.loads(found.stdout)["after"]["file"]["path"] == str(packed)
    found = call("bench", packed, "--max-time", "0.2", "--json")
    assert json.loads(found.stdout)["before"]["bytes"] == packed.stat().st_size
    assert bnfuse.optimize(packed.read_bytes(), verify=False, bench=False).model is not None


def test_what_exists_is_not_overwritten(tmp_path: Path) -> None:
    path, target = tmp_path / "m.onnx.gz", tmp_path / "m.fused.onnx.gz"
    path.write_bytes(gzip.compress(ONNX))
    target.write_bytes(b"mine")
    with pytest.raises(bnfuse.OutputError, match="exists"):
        bnfuse.optimize(path, verify=False, bench=False)
    assert target.read_bytes() == b"mine"
    with pytest.raises(bnfuse.UsageError, match="the input itself"):
        bnfuse.optimize(path, path, force=True, verify=False, bench=False)


def test_a_failed_proof_tells_of_what_was_given(tmp_path: Path) -> None:
    """And leaves nothing behind."""
    proto = convnet()
    proto.graph.node.insert(2, onnx.helper.make_node("RandomNormalLike", ["n"], ["r"]))
    proto.graph.node[3].input[0] = "r"
    path = tmp_path / "m.onnx.gz"
    path.write_bytes(gzip.compress(proto.SerializeToString()))
    with pytest.raises(bnfuse.Unproved) as raised:
        bnfuse.optimize(path, **QUICK)
    told = raised.value.report.input
    assert (told.path, told.total_bytes) == (path, path.stat().st_size)
    assert raised.value.report.verification.status is bnfuse.Status.INCONCLUSIVE
    assert names_in(tmp_path) == ["m.onnx.gz"]


def damaged(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :]


REFUSED = {
    "cut off": ("m.onnx.gz", gzip.compress(ONNX)[:-20], "damaged or cut off"),
    "wrong checksum": ("m.onnx.gz", damaged(gzip.compress(ONNX), -6), "damaged or cut off"),
    "damaged": ("m.onnx.gz", damaged(gzip.compress(ONNX), 40), "damaged or cut off"),
    "rubbish behind": ("m.onnx.gz", gzip.compress(ONNX) + b"rubbish", "damaged or cut off"),
    "tar": ("m.tar.gz", gzip.compress(tar_of(ONNX)), "a tar archive; unpack it"),
    "twice": ("m.onnx.gz", gzip.compress(gzip.compress(ONNX)), "in another one; unpack it"),
    "no model": ("m.onnx.gz", gzip.compress(b"hello"), r"m.onnx.gz' is not a model"),
    "nothing": ("m.onnx.gz", gzip.compress(b""), r"m.onnx.gz' is empty"),
    "two models": ("m.zip", zip_of(a_onnx=ONNX, b_onnx=ONNX), r"holds 2 models \('a.onnx', 'b.onnx'\)"),
    "none": ("m.zip", zip_of(a_txt=b"x"), "no Keras model"),
    "a broken one": ("m.zip", zip_of(a_onnx=b"hello"), r"m.zip' is not a model"),
    "cut zip": ("m.zip", ZIPPED[:-30], "cut off or damaged"),
    "damaged zip": ("m.zip", damaged(ZIPPED, 120), "damaged"),
    "damaged beside it": ("m.zip", damaged(ZIPPED, ZIPPED.index(b"free")), "'LICENSE' in it is damaged"),
    "out of it": ("m.zip", zip_of(**{"..__x_onnx": ONNX}), "unsafe name"),
}


@pytest.mark.parametrize(("name", "content", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises((bnfuse.UnreadableModel, bnfuse.UnsafeModel), match=sentence) as raised:
        bnfuse.optimize(path, verify=False, bench=False)
    assert "/bnfuse-" not in str(raised.value) and name in str(raised.value)
    assert call("optimize", path, "--no-verify", "--no-bench").exit_code == 3
    assert names_in(tmp_path) == [name]


def test_no_bomb_fills_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copying stops at the bound, whatever the file says of its size."""
    zeros = bytes(3 << 20)
    for kind, content in (("gz", gzip.compress(zeros)), ("zip", zip_of(m_onnx=zeros))):
        path = tmp_path / f"m.onnx.{kind}"
        path.write_bytes(content)
        monkeypatch.setattr(base, "_FLOOR_BYTES", 1 << 20)
        written: list[int] = []
        opened = packing_of(path) if kind == "gz" else None
        if opened is not None:
            (tmp_path / "into").mkdir()
            with pytest.raises(bnfuse.UnsafeModel, match="would grow from"):
                opened.unpack(tmp_path / "into")
            written = [file.stat().st_size for file in (tmp_path / "into").iterdir()]
        assert all(size <= 1 << 20 for size in written)
        with pytest.raises(bnfuse.UnsafeModel, match="would grow"):
            bnfuse.inspect(path)


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.onnx.gz"
    path.write_bytes(gzip.compress(ONNX))

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    packing = packing_of(path)
    assert packing is not None
    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(bnfuse.OutputError, match=r"cannot be unpacked into .* \(No space left on device\)"):
        packing.unpack(tmp_path)
