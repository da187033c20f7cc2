"""Whatever a file calls its parts, an error about it is one line that names the file and can be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from bnfuse.formats.keras.file.wording import sentence, short
from tests.command import call
from tests.keras_configs import functional, layer, node, old, source, tensor
from tests.keras_damage import Damage, attribute, in_weights, linked, put, with_members, with_name
from tests.keras_handmade import BIAS, KERNEL, dense, make_archive

LONG = "x" * 3000
NASTY = "a\nb\x1b[31m\r\u202e"


def _config(make: Callable[[str], object]) -> Callable[[str], Damage]:
    return lambda name: with_members(config__json=json.dumps(make(name)).encode())


ARCHIVES: dict[str, Callable[[str], Damage]] = {
    "a layer that is read": _config(
        lambda n: functional([source(), layer("Dropout", "d", node(tensor(n)))], [["x", 0, 0]], [["d", 0, 0]])
    ),
    "a layer that is listed twice": _config(
        lambda n: {"class_name": "Sequential", "config": {"name": "m", "layers": [dense(n), dense(n)]}}
    ),
    "a model": _config(lambda n: functional([source()], [["x", 0, 0]], [], n)),
    "a class": _config(lambda n: {"class_name": n, "config": {}}),
    "a layer without weights": _config(
        lambda n: {"class_name": "Sequential", "config": {"name": "m", "layers": [dense("a"), dense(n)]}}
    ),
    "a cycle": _config(
        lambda n: functional([source(), layer("Dropout", n, old((n, 0, 0)))], [["x", 0, 0]], [[n, 0, 0]])
    ),
    "a member": lambda n: with_name(f"assets/../{n}"),
    "an array": lambda n: in_weights(lambda h5: put(h5, f"layers/dense/vars/{n}", np.ones(3))),
    "a link": lambda n: in_weights(lambda h5: put(h5, f"layers/{n}", h5py.SoftLink("/layers"))),
}
HDF5: dict[str, Callable[[str], Damage]] = {
    "a layer with weights": lambda n: attribute("layer_names", [n.encode()], "model_weights"),
    "a weight": lambda n: attribute("weight_names", [n.encode(), b"b"], "model_weights/a"),
    "a group": lambda n: linked("model_weights/a", h5py.SoftLink(f"/{n}")),
}


def _assert_sentence(path: Path) -> None:
    done = call("inspect", path)
    assert done.exit_code == 3, done.output
    (line,) = done.stderr.splitlines()
    assert str(path) in line
    assert len(line.replace(str(path), "")) <= 310, line
    assert line.isprintable()
    assert "x" * 81 not in line


@pytest.mark.parametrize("name", [LONG, NASTY], ids=["long", "nasty"])
@pytest.mark.parametrize("where", ARCHIVES)
def test_archives(where: str, name: str, archive: Path) -> None:
    ARCHIVES[where](name)(archive)
    _assert_sentence(archive)


@pytest.mark.parametrize("name", [LONG, NASTY], ids=["long", "nasty"])
@pytest.mark.parametrize("where", HDF5)
def test_hdf5(where: str, name: str, hdf5: Path) -> None:
    HDF5[where](name)(hdf5)
    _assert_sentence(hdf5)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/a/m.h5: 'n' is bad", "/a/m.h5: 'n' is bad"),
        ("The model's config isn't any model's", "/a/m.h5: the model's config isn't any model's"),
        ("m.h5 lacks it", "m.h5 lacks it"),
        (f"m.h5: layer '{'y' * 200}' is", f"m.h5: layer '{'y' * 39}…{'y' * 39}' is"),
        (f"m.h5: layer '{'y z' * 99}' is", f"m.h5: layer '{('y z' * 99)[:39]}…{('y z' * 99)[-39:]}' is"),
        ("m.h5: 'a\tb'", "m.h5: 'a\\tb'"),
    ],
)
def test_sentence(text: str, told: str) -> None:
    assert sentence(text, Path("/a/m.h5")) == told


def test_a_sentence_of_many_names_is_cut_in_the_middle() -> None:
    told = sentence(f"/a/m.h5: {'name, ' * 500}save it again", Path("/a/m.h5"))
    assert len(told) <= len("/a/m.h5") + 300
    assert told.endswith("save it again")
    assert len(short("z" * 81)) == 79
    assert short("z" * 80) == "z" * 80


@pytest.mark.parametrize("command", ["inspect", "optimize", "diff"])
def test_weights_are_held_against_the_checksum_before_anything_is_decided(
    command: str, tmp_path: Path
) -> None:
    """One flipped bit of a bias, which no other check could see."""
    bias = np.random.default_rng(0).normal(size=3)
    path = make_archive(tmp_path / "m.keras", [dense("a")], {KERNEL: np.ones((3, 3)), BIAS: bias})
    data = bytearray(path.read_bytes())
    data[bytes(data).index(bias.tobytes())] ^= 1
    path.write_bytes(data)
    done = call(command, path, *([path] if command == "diff" else []))
    assert done.exit_code == 3
    assert "'model.weights.h5' inside it is damaged" in done.stderr
