"""A disk that is full while a Keras file is written: one sentence, nothing left, and the process lives.

HDF5 by itself ends the process where writing fails as it closes a file. So this runs in a process of its own,
with a limit on the size of files that stands for a full disk, at every place of the file in turn.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest

from bnfuse.formats.keras.file.written_file import WrittenFile
from tests.command import PATIENCE_S, call
from tests.keras_damage import members, repack
from tests.keras_handmade import dense, legacy, make_archive
from tests.keras_nets import both_containers

_SWEEP = """
import resource, signal, sys
from pathlib import Path
from bnfuse.errors import OutputError
from tests.keras_files import opened, rewritten
source, target = Path(sys.argv[1]), Path(sys.argv[2])
whole, outcomes = source.stat().st_size, set()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
rewritten(source, target)
target.unlink()
for limit in range(0, whole + 4096, max(1, whole // 25)):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        rewritten(source, target)
        opened(target)[0].close()
        outcomes.add("written")
    except OutputError as error:
        outcomes.add(str(error))
    target.unlink(missing_ok=True)
    assert not list(target.parent.glob(f"{target.name}*"))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(*sorted(outcomes), sep="\\n")
"""


@both_containers
def test_the_disk_is_full_at_every_place(suffix: str, tmp_path: Path) -> None:
    """Many small layers: HDF5's own records are spread over the file and written as it closes."""
    source, names = tmp_path / f"m{suffix}", [f"d{k}" for k in range(12)]
    rng = np.random.default_rng(0)
    layers = [dense(name) for name in names]
    if suffix == ".keras":
        groups = ["dense", *(f"dense_{k}" for k in range(1, 12))]
        shapes = {"0": (3, 3), "1": (3,)}
        arrays = {f"layers/{g}/vars/{v}": rng.normal(size=s) for g in groups for v, s in shapes.items()}
        make_archive(source, layers, arrays)
    else:
        stored = {n: {f"{n}/k:0": rng.normal(size=(3, 3)), f"{n}/b:0": rng.normal(size=3)} for n in names}
        legacy(source, layers, stored)
    done = subprocess.run(
        [sys.executable, "-B", "-c", _SWEEP, source, tmp_path / f"out{suffix}"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    full = f"'out{suffix}' cannot be written: the disk is full: free some space and try again"
    assert done.stdout.splitlines() == [full, "written"], done.stderr[-2000:]


def test_what_is_written_is_what_hdf5_would_have_written(tmp_path: Path) -> None:
    arrays = {f"g{k}/a": np.random.default_rng(k).normal(size=(k + 1, 50)) for k in range(40)}
    file = WrittenFile(tmp_path / "a.h5")
    with h5py.File(file, "w") as h5:
        for name, array in arrays.items():
            h5[name] = array
    file.close()
    file.check()
    with h5py.File(tmp_path / "a.h5") as h5:
        for name, array in arrays.items():
            np.testing.assert_array_equal(h5[name][()], array)


def test_after_a_failure_records_are_read_back_and_arrays_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = WrittenFile(tmp_path / "a")
    assert file.write(b"before") == 6
    monkeypatch.setattr(WrittenFile, "_put", _no_space)
    file.seek(4)
    assert file.write(b"record") == 6
    assert file.write(bytes(1 << 20)) == 1 << 20
    file.seek(0)
    seen = bytearray(12)
    assert file.readinto(seen) == 12
    assert bytes(seen) == b"beforecord\0\0"
    assert sum(map(len, file._late.values())) == 6
    file.close()
    with pytest.raises(OSError, match="No space left"):
        file.check()


def test_a_file_that_could_not_be_made_is_let_go_without_a_word(tmp_path: Path) -> None:
    """Python 3.13 tells of what goes wrong when an object of io goes; before, it did not."""
    with pytest.raises(FileNotFoundError):
        WrittenFile(tmp_path / "none" / "a.h5")
    unmade = WrittenFile.__new__(WrittenFile)
    unmade.close()
    assert unmade.closed


def _no_space(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_no_room_to_unpack_compressed_weights(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is not blamed."""
    repack(archive, list(members(archive).items()), zipfile.ZIP_DEFLATED)
    full = tmp_path / "full"
    full.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(full))
    monkeypatch.setattr(tempfile, "TemporaryFile", partial(Path("/dev/full").open, "w+b"))
    done = call("inspect", archive)
    assert done.exit_code == 2
    assert "No space left on device" in done.stderr
    assert str(full) in done.stderr
    assert "set TMPDIR" in done.stderr
