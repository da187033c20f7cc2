"""Published holes of onnx's own loader: a harmless file for each is refused, nothing outside is touched.

Two witnesses: ``tests.witness``, and, as onnxruntime opens files without Python, a named pipe outside, at
which whoever opens it waits. Of what a hard link leads to nobody can tell that it lies outside:
what the file says would show in what is written or said.
"""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from tests.traps.table import plain
from tests.witness import Witnessed, watched

pytestmark = pytest.mark.slow
COMMANDS = ("inspect", "optimize --no-verify --no-bench", "optimize", "verify", "bench", "diff")
_SECRET = b"SECRET-OF-THE-HOST" * 200

Attack = Callable[[Path, Path], Path]  # (folder of the model, folder outside) -> what is opened


def _model(folder: Path, **entries: str) -> Path:
    """All weights outside, the first one with these entries."""
    path = folder / "model.onnx"
    onnx.save_model(plain(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (folder / "weights.bin").chmod(0o644)
    made = onnx.load(path, load_external_data=False)
    first = made.graph.initializer[0]
    kept = {entry.key: entry.value for entry in first.external_data} | entries
    del first.external_data[:]
    for key, value in kept.items():
        first.external_data.add(key=key, value=value)
    path.write_bytes(made.SerializeToString())
    return path


def _at(place: str) -> Attack:
    return lambda folder, outside: _model(folder, location=place.format(outside=outside))


def _with_folder(place: str) -> Attack:
    def made(folder: Path, outside: Path) -> Path:
        (folder / "sub").mkdir()
        return _model(folder, location=place)

    return made


def _link(folder: Path, outside: Path) -> Path:
    path = _model(folder)
    (folder / "weights.bin").unlink()
    (folder / "weights.bin").symlink_to(outside / "pipe")
    return path


def _linked_folder(folder: Path, outside: Path) -> Path:
    (folder / "link").symlink_to(outside)
    return _model(folder, location="link/pipe")


def _hard_link(folder: Path, outside: Path) -> Path:
    path = _model(folder)
    (folder / "weights.bin").unlink()
    os.link(outside / "secret", folder / "weights.bin")
    return path


def _tar(folder: Path, outside: Path) -> Path:
    """As onnx.hub unpacks: the model, and a member that lies elsewhere."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in (
            ("model.onnx", plain().SerializeToString()),
            ("../../outside/planted", b"x"),
            (f"{outside}/planted", b"x"),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    path = folder / "model.tar.gz"
    path.write_bytes(gzip.compress(packed.getvalue()))
    return path


def _zip(folder: Path, outside: Path) -> Path:
    path = folder / "model.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../outside/planted.onnx", plain().SerializeToString())
    return path


ATTACKS: dict[str, Attack] = {
    "2022-25882, one folder up": _at("../../outside/pipe"),
    "2024-27318, up behind a folder": _with_folder("sub/../../../outside/pipe"),
    "2024-27318, up behind a folder that is not there": _at("none/../../../outside/pipe"),
    "2025-51480, an absolute place, where a result's weights would go": _at("{outside}/pipe"),
    "2025-51480, a file outside that would be overwritten": _at("../../outside/secret"),
    "2026-27489, a folder that is a link": _linked_folder,
    "2026-34447, a link": _link,
    "2026-34446, a hard link": _hard_link,
    "2026-34445, a length that takes all memory": lambda folder, _: _model(folder, length=str(1 << 50)),
    "2026-34445, a length below zero": lambda folder, _: _model(folder, length="-1"),
    "2024-5187 and 2024-7776, a tar archive with members outside": _tar,
    "2024-7776, a zip archive with a member outside": _zip,
}
_KEYS = {"__class__": "x", "__dict__": "x", "basepath": "{outside}", "checksum": "x", "close": "x"}


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where nobody has anything to do."""
    found = tmp_path_factory.mktemp("cves") / "outside"
    found.mkdir()
    os.mkfifo(found / "pipe")
    (found / "secret").write_bytes(_SECRET)
    return found


@pytest.fixture(scope="module")
def witnessed(outside: Path) -> Witnessed:
    """What became of every file by command, and what was noted."""
    inside = outside.parent / "inside"
    (inside / "out").mkdir(parents=True)
    files: dict[str, str] = {}
    for name, attack in ATTACKS.items():
        folder = inside / f"{len(files)}"
        folder.mkdir()
        files[name] = str(attack(folder, outside))
    folder = inside / "keys"
    folder.mkdir()
    files["keys"] = str(_model(folder, **{k: v.format(outside=outside) for k, v in _KEYS.items()}))
    return watched(files, inside, COMMANDS)


@pytest.mark.parametrize("name", ATTACKS)
def test_a_file_that_reaches_outside_is_refused(name: str, witnessed: Witnessed, outside: Path) -> None:
    codes, noted = witnessed[0][name], [note for note in witnessed[1] if note[0].startswith(name)]
    assert {code for code, _, _ in codes.values()} == {3}, codes
    assert not any(left for _, left, _ in codes.values())
    for _, _, said in codes.values():
        (sentence,) = said.splitlines()
        assert sentence.startswith("bnfuse: ") and "SECRET" not in sentence
    assert noted == []
    assert {path.name for path in outside.iterdir()} == {"pipe", "secret"}
    assert (outside / "secret").read_bytes() == _SECRET


def test_keys_that_nobody_knows_say_nothing(witnessed: Witnessed) -> None:
    """CVE-2026-34445: they became attributes of an object. Here nobody reads them; onnxruntime refuses."""
    codes, noted = witnessed[0]["keys"], [note for note in witnessed[1] if note[0].startswith("keys")]
    assert [codes[c][0] for c in ("inspect", "optimize --no-verify --no-bench", "diff")] == [0, 0, 0], codes
    for command in ("optimize", "verify", "bench"):
        code, left, said = codes[command]
        assert (code, left) == (3 if command == "bench" else 4, [])
        assert "onnxruntime" in said and "Traceback" not in said
    assert noted == []


def test_the_witness_sees(witnessed: Witnessed) -> None:
    """A file beside the models' folder and a module of a runtime's kind are noted."""
    assert [event for now, event, _ in witnessed[1] if now == "control"] == ["open", "import"]
