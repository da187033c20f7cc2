"""Random damage to whole files: a result or a sentence, always, and soon.

In a process of its own, since HDF5's C library might crash on some and that must be seen as a failure."""

from __future__ import annotations

import io
import re
import resource
import struct
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import h5py
import pytest

from bnfuse.errors import UnreadableModel, UnsafeModel
from bnfuse.formats.keras.edit.write import write
from bnfuse.formats.keras.file.opening import open_container
from tests.command import PATIENCE_S
from tests.keras_damage import members
from tests.keras_files import edited, opened
from tests.keras_handmade import KERNEL


def test_undamaged_files_open(archive: Path, hdf5: Path) -> None:
    """Otherwise the tables above would prove nothing."""
    for path in (archive, hdf5):
        container, network = opened(path)
        with closing(container):
            assert [v.name for v in network.layer("a").variables] == ["kernel", "bias"]


def test_missing_and_folder(tmp_path: Path) -> None:
    """No such file; a SavedModel's folder."""
    for path in (tmp_path / "none.keras", tmp_path):
        with pytest.raises(UnreadableModel, match=re.escape(str(path))):
            open_container(path)


def test_a_damaged_archive_is_noticed_before_it_is_written(archive: Path, tmp_path: Path) -> None:
    """One flipped bit in the weights: the checksum tells, and nothing is left behind."""

    data = bytearray(archive.read_bytes())
    kernel = h5py.File(io.BytesIO(members(archive)["model.weights.h5"]))[KERNEL][()].tobytes()
    data[bytes(data).index(kernel) + 3] ^= 1
    archive.write_bytes(data)
    container, network = opened(archive)
    with closing(container), pytest.raises(UnreadableModel, match=r"'model.weights.h5' inside it is damaged"):
        write(container, container.config, edited(network, container.config), tmp_path / "out.keras")
    assert not list(tmp_path.glob("out*"))


FUZZ = """
from contextlib import closing
import random, resource, sys, time
from pathlib import Path
from bnfuse.errors import BnfuseError
from bnfuse.formats.keras.edit.write import write
from bnfuse.formats.keras.graph.network import walk
from tests.keras_damage import damaged
from tests.keras_files import edited, opened
whole, rounds, target = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
for seed in sys.argv[4:]:
    rng, ok, refused, slowest = random.Random(int(seed)), 0, 0, 0.0
    for _ in range(rounds):
        target.write_bytes(damaged(whole.read_bytes(), rng))
        start = time.process_time()
        try:
            container, network = opened(target)
            with closing(container):
                for _, layer in walk(network):
                    for variable in layer.variables:
                        variable.read()
                write(container, container.config, edited(network, container.config), target.with_name("out"))
            ok += 1
        except BnfuseError as error:
            assert "\\n" not in str(error), error
            refused += 1
        slowest = max(slowest, time.process_time() - start)
    print(ok, refused, slowest)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["archive", "hdf5"])
def test_random_damage(kind: str, archive: Path, hdf5: Path, tmp_path: Path) -> None:
    """A result or a sentence, always, and soon; a crash of HDF5 would end the process."""
    whole = archive if kind == "archive" else hdf5
    done = subprocess.run(
        [
            sys.executable,
            "-X",
            "faulthandler",
            "-c",
            FUZZ,
            whole,
            "250",
            tmp_path / f"x{whole.suffix}",
            "1",
            "2",
        ],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE_S,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30)),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = done.stdout.splitlines()
    assert len(told) == 2
    for line in told:
        ok, refused, slowest = (float(text) for text in line.split())
        assert ok > 10, "every damage was noticed: the fuzz is too coarse"
        assert refused > 50
        assert slowest < 20


def test_truncation_anywhere_is_noticed(archive: Path, hdf5: Path) -> None:
    """No prefix of a file passes for the whole."""
    for path in (archive, hdf5):
        data = path.read_bytes()
        for length in [*range(0, len(data), 97), len(data) - 1]:
            path.write_bytes(data[:length])
            with pytest.raises(UnreadableModel):
                opened(path)


def test_directory_that_points_elsewhere(archive: Path) -> None:
    """The central directory may claim any offset."""
    data = bytearray(archive.read_bytes())
    at = bytes(data).rindex(b"PK\x01\x02")
    for offset in (0, 7, len(data) - 10, 0xFFFFFFF0):
        data[at + 42 : at + 46] = struct.pack("<I", offset)
        archive.write_bytes(data)
        with pytest.raises((UnreadableModel, UnsafeModel)):
            opened(archive)
