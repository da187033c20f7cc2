"""An architecture, ``model.to_json()``, and weights, ``model.save_weights(…)``: two files, a whole model.

Weights come in two layouts. That of Keras 3, and of Keras 2 for names in ``.weights.h5``, is the one inside
an archive: with the architecture beside them they are a ``.keras`` archive. That of Keras 2 for other names
has a list of layers in its root: as ``model_weights``, with the architecture as ``model_config``, they are a
whole ``.h5`` file. So the pair is put together, read, folded and proved as such, and taken apart again.

An architecture of Keras 2 beside weights of the first layout is told by its outermost object: in an archive
that names a module, so for as long as it is one it has another, of the same content.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import h5py
from msgspec import Struct

from bnfuse.errors import UnreadableModel
from bnfuse.formats.keras.file.archive import CONFIG, METADATA, WEIGHTS
from bnfuse.formats.keras.file.hdf5_copy import copy_array, copy_attributes, output_errors
from bnfuse.formats.keras.file.hdf5_tree import Hdf5Tree
from bnfuse.formats.keras.file.json_documents import check_size, parse_json
from bnfuse.formats.keras.file.written_file import new_hdf5

_EPOCH = (1980, 1, 1, 0, 0, 0)
_JSON, _ROOT = ".json", "model_weights"
_ENDINGS = (".weights.h5", "_weights.h5", ".h5", ".hdf5")  # of weights, the likeliest first


class KerasParts(Struct, frozen=True):
    """An architecture in JSON and its weights."""

    path: Path
    weights: Path
    form: str = "an architecture and weights of Keras"

    @property
    def files(self) -> Sequence[Path]:
        """Both."""
        return (self.path, self.weights)

    def unpack(self, folder: Path) -> Path:
        """See ``Packing.unpack``."""
        text = _read_text(self.path)
        config = parse_json(text, self.path, "it")
        try:
            file = self.weights.open("rb")
        except OSError as error:
            raise UnreadableModel(f"the weights '{self.weights}' cannot be read: {error.strerror}") from error
        with file, closing(Hdf5Tree.open(self.weights, file, 0, self.weights.stat().st_size)) as tree:
            attributes = tree.attributes()
            if "model_config" in attributes:
                raise UnreadableModel(f"'{self.weights}' is a whole model by itself: give it alone")
            name = self.path.stem or "model"
            if "layer_names" in attributes or "layer_names0" in attributes:
                return self._as_hdf5(tree, text, folder / f"{name}.h5")
        return self._as_archive(text, config, folder / f"{name}.keras")

    def _as_archive(self, text: bytes, config: Any, plain: Path) -> Path:
        version = config.get("keras_version", "")
        metadata = json.dumps({"keras_version": version if isinstance(version, str) else ""})
        with output_errors(plain), zipfile.ZipFile(plain, "w", zipfile.ZIP_STORED) as archive:
            told = text if "module" in config else json.dumps(_of_an_archive(config)).encode()
            for name, content in ((METADATA, metadata.encode()), (CONFIG, told)):
                archive.writestr(zipfile.ZipInfo(name, _EPOCH), content)
            info = zipfile.ZipInfo(WEIGHTS, _EPOCH)
            with archive.open(info, "w", force_zip64=True) as member, self.weights.open("rb") as source:
                shutil.copyfileobj(source, member)
        return plain

    def _as_hdf5(self, tree: Hdf5Tree, text: bytes, plain: Path) -> Path:
        tree.scan(tree.children())
        with output_errors(plain), new_hdf5(plain) as (made, file):
            made.attrs["model_config"] = text.decode()
            copy_attributes(tree, "", made.require_group(_ROOT))
            _copy(tree, "", made, f"{_ROOT}/", file.check)
        return plain

    def _as_it_was(self, text: bytes) -> bytes:
        """The architecture of the result in the outermost object that the original has."""
        original = parse_json(_read_text(self.path), self.path, "it")
        if "module" in original:
            return text
        return json.dumps({**original, "config": json.loads(text)["config"]}).encode()

    def default_output(self) -> Path:
        """``net.json`` → ``net.fused.json``, and beside it ``net.fused.weights.h5``."""
        return self.path.with_name(f"{self.path.stem}.fused{_JSON}")

    def packs(self, target: Path) -> bool:
        """By the suffix."""
        return target.suffix.lower() == _JSON

    def beside(self, target: Path) -> Sequence[Path]:
        """The weights, under a name of the ending that the original's have."""
        return (target.with_name(f"{target.stem}{_ending(self.weights.name)}"),)

    def pack(self, plain: Path, target: Path, folder: Path) -> Sequence[Path]:
        """Taken apart again, the weights in the layout that they had, under a name of the same ending."""
        model, weights = folder / target.name, folder / self.beside(target)[0].name
        with output_errors(target):
            if zipfile.is_zipfile(plain):
                with zipfile.ZipFile(plain) as archive:
                    model.write_bytes(self._as_it_was(archive.read(CONFIG)))
                    with archive.open(WEIGHTS) as source, weights.open("wb") as member:
                        shutil.copyfileobj(source, member)
            else:
                _take_apart(plain, model, weights)
        return (weights, model)


def _of_an_archive(config: dict[str, Any]) -> dict[str, Any]:
    """The outermost object as archives have it; what Keras 2 calls Functional is no name of its API."""
    name = "Model" if config["class_name"] == "Functional" else config["class_name"]
    return {"module": "keras", "class_name": name, "config": config["config"], "registered_name": None}


def _take_apart(plain: Path, model: Path, weights: Path) -> None:
    with plain.open("rb") as file, closing(Hdf5Tree.open(plain, file, 0, plain.stat().st_size)) as tree:
        text = tree.attributes()["model_config"]
        model.write_bytes(text if isinstance(text, bytes) else str(text).encode())
        tree.scan([_ROOT])
        with new_hdf5(weights) as (made, out):
            copy_attributes(tree, _ROOT, made)
            _copy(tree, f"{_ROOT}/", made, "", out.check)


def _copy(tree: Hdf5Tree, source: str, made: h5py.File, target: str, check: Any) -> None:
    """All below ``source``, in ``target`` (both with a slash at the end, or "" for the root)."""
    for group in sorted(tree.groups):
        if group.startswith(source) and group != source.rstrip("/"):
            copy_attributes(tree, group, made.require_group(target + group[len(source) :]))
    for path, stored in sorted(tree.datasets.items()):
        if path.startswith(source):
            check()
            copy_array(stored, made, target + path[len(source) :])


def _ending(name: str) -> str:
    """What a name of weights ends in: Keras tells the layouts apart by it, ``.weights.h5`` or ``.h5``."""
    return next((end for end in _ENDINGS if name.lower().endswith(end)), Path(name).suffix)


def _read_text(path: Path) -> bytes:
    check_size(path.stat().st_size, path, "it")
    return path.read_bytes().removeprefix(b"\xef\xbb\xbf")


def opened(path: Path, weights: Path | None) -> KerasParts | None:
    """An architecture with its weights; None for other JSON.

    Raises:
        UnreadableModel: it is an architecture, and there are none.
        UnsafeModel: it is larger than any architecture.
    """
    if not _is_architecture(path):
        if weights is None:
            return None
        raise UnreadableModel(f"'{path}' is JSON, but no architecture of a Keras model (model.to_json())")
    found = weights or _of_like_name(path)
    if found is None:
        raise UnreadableModel(
            f"'{path}' is the architecture of a Keras model without its weights: give those with "
            "--weights FILE.weights.h5"
        )
    return KerasParts(path, found)


def lacks_weights(path: Path) -> bool:
    """Whether the JSON at ``path`` is an architecture, and no weights of a like name are beside it.

    Raises:
        UnreadableModel, UnsafeModel: as ``opened``.
    """
    return _is_architecture(path) and _of_like_name(path) is None


def _is_architecture(path: Path) -> bool:
    config = parse_json(_read_text(path), path, "it")
    return isinstance(config, dict) and isinstance(config.get("class_name"), str) and "config" in config


def _of_like_name(path: Path) -> Path | None:
    named = (path.with_name(f"{path.stem}{end}") for end in _ENDINGS)
    return next((each for each in named if each.is_file()), None)
