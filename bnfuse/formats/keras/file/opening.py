"""Which kind of Keras file is this, and is it whole? Opens the container."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from bnfuse.errors import UnreadableModel
from bnfuse.formats.keras.file.archive import (
    CONFIG,
    FULL_FILE,
    METADATA,
    WEIGHTS,
    ZIP,
    ZIP_DAMAGE,
    check_members,
    require_model,
    small_member,
)
from bnfuse.formats.keras.file.container import OPTIMIZER_GROUPS, Container, is_hdf5
from bnfuse.formats.keras.file.hdf5_tree import Hdf5Tree
from bnfuse.formats.keras.file.json_documents import parse_json

if TYPE_CHECKING:
    pass


def open_container(path: Path) -> Container:
    """Open a saved Keras model. Nothing of it is run.

    Raises:
        UnreadableModel: not a whole model with its config and its weights.
        UnsafeModel: it reaches out of the file, or would fill memory or disk.
    """
    try:
        raw: BinaryIO = path.open("rb", buffering=0)
    except OSError as e:
        raise UnreadableModel(f"{path}: {e.strerror or 'cannot be opened'}") from e
    try:
        head = raw.read(64)
        if head.startswith(ZIP):
            return _open_archive(path, raw)
        if is_hdf5(raw):
            return _open_hdf5(path, raw)
        raise UnreadableModel(f"{path} {_not_a_model(head)}")
    except BaseException:
        raw.close()
        raise


def _not_a_model(head: bytes) -> str:
    """What a file is that is neither zip nor HDF5, and what to do."""
    if not head:
        return "is empty; fetch or save it again"
    if head.startswith(b"version https://git-lfs"):
        return "is only a Git LFS pointer to the model; run 'git lfs pull' to fetch the model itself"
    if head.startswith(b"PK"):
        return "is a zip file without content or its first part is missing; fetch or save it again"
    return "is neither a Keras archive (zip) nor HDF5; save the model as .keras or .h5"


def _open_archive(path: Path, raw: BinaryIO) -> Container:
    try:
        archive = zipfile.ZipFile(path)
        infos = archive.infolist()
    except ZIP_DAMAGE as e:
        raise UnreadableModel(
            f"{path} is cut off or damaged: its table of contents cannot be read; fetch or save it again"
        ) from e
    try:
        check_members(path, infos)
        names = [info.filename for info in infos]
        require_model(path, names)
        config = parse_json(small_member(path, archive, CONFIG), path, CONFIG)
        metadata: Any = {}
        if METADATA in names:
            metadata = parse_json(small_member(path, archive, METADATA), path, METADATA)
        config = _require_config(config, path, CONFIG)
        if not isinstance(metadata, dict):
            raise UnreadableModel(f"{path}: {METADATA} is not a JSON object; save the model again")
        own = (CONFIG, METADATA, WEIGHTS)
        return Container(
            path=path,
            kind="archive",
            config=config,
            metadata=metadata,
            keras_version=_text(metadata.get("keras_version")),
            backend="",
            training_config=config.get("compile_config"),
            side=tuple(name for name in names if name not in own),
            zip=archive,
            _raw=raw,
        )
    except BaseException:
        archive.close()
        raise


def _open_hdf5(path: Path, raw: BinaryIO) -> Container:
    tree = Hdf5Tree.open(path, raw, 0, raw.seek(0, 2))
    try:
        attributes = tree.attributes()
        names = tree.children()
        if "model_config" not in attributes:
            raise UnreadableModel(f"{path} {_no_config(names, attributes)}")
        if "model_weights" not in names:
            raise UnreadableModel(
                f"{path} holds a model's config but no weights; "
                "save the whole model: model.save('model.keras')"
            )
        config = parse_json(_bytes(attributes["model_config"]), path, "its model_config")
        training = attributes.get("training_config")
        tree.scan(name for name in names if name not in OPTIMIZER_GROUPS)
        weights = tree.attributes("model_weights")
        container = Container(
            path=path,
            kind="hdf5",
            config=_require_config(config, path, "its model_config"),
            metadata={},
            keras_version=_text(attributes.get("keras_version", weights.get("keras_version"))),
            backend=_text(attributes.get("backend", weights.get("backend"))),
            training_config=None
            if training is None
            else parse_json(_bytes(training), path, "its training_config"),
            side=(),
            zip=None,
            _raw=raw,
            _tree=tree,
        )
    except BaseException:
        tree.close()
        raise
    return container


def _no_config(names: list[str], attributes: dict[str, Any]) -> str:
    """What an HDF5 file without a model config is, and what to do."""
    if "layer_names" in attributes or {"layers", "vars", "_layer_checkpoint_dependencies"} & set(names):
        return (
            "holds only weights, not the model's architecture: give that as JSON (model.to_json()), with "
            f"these as --weights, or {FULL_FILE}"
        )
    return "is HDF5, but no Keras model: it has no model_config; save the model as .keras or .h5"


def _require_config(config: Any, path: Path, what: str) -> dict[str, Any]:
    if (
        not isinstance(config, dict)
        or not isinstance(config.get("class_name"), str)
        or "config" not in config
    ):
        raise UnreadableModel(f"{path}: {what} does not describe a model; save the model again")
    return config


def _text(value: Any) -> str:
    """A string attribute as str; "" for anything else."""
    if isinstance(value, np.ndarray) and value.shape == ():
        value = value.item()
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value) if isinstance(value, str) else ""


def _bytes(value: Any) -> bytes:
    """A text attribute as it is stored, for the JSON parser to judge."""
    return value if isinstance(value, bytes) else _text(value).encode("utf-8", "surrogateescape")
