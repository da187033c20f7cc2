"""What would loading this file run? Looked up in its config before any Keras sees it.

Keras' safe mode is not enough: ``.h5`` files ignore it in most versions (CVE-2025-9905), and a config may
name functions to import (CVE-2025-1550, -8747, -9906), layers that unpickle or load other files
(CVE-2025-49655, 2026-1462) and vocabularies to read from the disk (CVE-2025-12058). HDF5 links out of the
file (CVE-2026-1669) are found by ``container``.

Allowed is what is known to be harmless: classes and functions out of the modules of Keras that hold
layers, operations and the like. Everything else is ``UnsafeModel``, unless the user allows it. Does not
judge a custom layer whose file names no module to import: Keras does not know it, and says so.
Compile settings are not looked at: models are loaded without them.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from msgspec import Struct

from bnfuse.errors import UnsafeModel
from bnfuse.files.stamps import Stamp, stamp_of
from bnfuse.formats.keras.file.opening import open_container

# Files whose facts are remembered: the original and its result.
_REMEMBERED = 2
# Some file systems count changes in steps of two seconds: what is younger may change and look the same.
_SETTLED_NS = 2_000_000_000
_SUFFIXES = {"archive": ".keras", "hdf5": ".h5"}

# Packages whose modules Keras configs name, and the modules in them that hold parts of models.
_PACKAGES = r"(?:keras|tf_keras|keras_hub|keras_nlp|keras_cv|tensorflow\.keras|tensorflow\.python\.keras)"
_PARTS = (
    r"activations|constraints|dtype_policies|engine|initializers|layers|losses|metrics|mixed_precision|models|"
    r"nn|ops|optimizers|quantizers|random|regularizers"
)
_MODULE = re.compile(
    rf"{_PACKAGES}(?:\.src)?(?:\.api(?:\._v[12])?(?:\.keras)?)?\.(?:{_PARTS})(?:\.[a-z0-9_.]+)?"
)
# Modules whose functions only compute: `keras.models`, for one, has `load_model`.
_COMPUTING = re.compile(
    rf"{_PACKAGES}(?:\.src)?\.(?:activations|constraints|initializers|losses|metrics|nn|ops|random|regularizers)"
    r"(?:\.[a-z0-9_.]+)?"
)
_CLASS_NAME = re.compile(r"_?[A-Z]\w*")
# What stands in a package's own namespace.
_TOP_LEVEL = frozenset(
    (
        "DTypePolicy",
        "FloatDTypePolicy",
        "QuantizedDTypePolicy",
        "Functional",
        "Model",
        "Sequential",
        "Variable",
    )
)
_TYPE_SPECS = "tensorflow.python.framework."
# Layers that load, unpickle or wrap foreign programs.
_FOREIGN = {
    "TorchModuleWrapper": "unpickles a PyTorch module",
    "TFSMLayer": "loads another saved model",
    "FlaxLayer": "wraps foreign code",
    "JaxLayer": "wraps foreign code",
}
# The parts of TensorFlow's API that a layer may name; `io`, `raw_ops`, `py_function` are not among them.
_TF_FUNCTION = re.compile(
    r"(?:compat\.v1\.)?(?:"
    r"(?:__operators__|bitwise|dtypes|image|linalg|math|nn|quantization|ragged|random|sets|signal|sparse|strings)"
    r"\.[\w.]+"
    r"|keras\.(?:activations|backend|losses|metrics)\.\w+"
    r"|(?!\w*file|py_func|numpy_function|load_|print|function|custom_gradient)[a-z][a-z0-9_]*)"
)
_TF_CLASS = re.compile(r"(?:sparse\.)?SparseTensor|RaggedTensor|TensorShape")
_RAW_OP = re.compile(r"File|PyFunc|Save|Restore|Reader|Print|Dataset|Library|Queue|Lookup|Remote|Summary|Xla")


class LoadFacts(Struct, frozen=True):
    """What loading needs to know of a file.

    ``suffix`` is the one by which Keras recognises its content; ``only_input`` names the input of a
    Sequential ("" for other models), since Keras makes up a name in each process where there is none;
    ``only_input_rank`` is its number of axes (0: the file does not say), since Keras 3 makes up one too
    many for some files of Keras 2.
    """

    suffix: str
    only_input: str
    only_input_rank: int


class _Looked(Struct, frozen=True):
    """What was found in a file; ``danger`` as the end of "the file …", "" if there is none."""

    facts: LoadFacts
    danger: str


_looked: dict[tuple[Path, Stamp], _Looked] = {}
_remembering = threading.Lock()


def refuse_unsafe(path: Path, allow_unsafe: bool) -> LoadFacts:
    """Look at the config, and refuse what would run code or read other files.

    Raises:
        UnsafeModel: it would, and ``allow_unsafe`` is off; or its weights reach out of the file.
        UnreadableModel: it is damaged, or no whole model.
    """
    found = _look_once(path)
    if found.danger and not allow_unsafe:
        raise UnsafeModel(
            f"'{path.name}' {found.danger}: --allow-unsafe runs it, "
            "--no-verify --no-bench folds without running"
        )
    return found.facts


def _look_once(path: Path) -> _Looked:
    """What is in a file, which a proof and a bench ask a dozen times; anew where it has changed."""
    begin = time.time_ns()
    try:
        known = path.resolve(), stamp_of(path.stat())
    except OSError:
        return _look(path)  # which tells what is wrong
    found = _looked.get(known)
    if found is not None:
        return found
    found = _look(path)
    if begin - max(known[1][1:]) > _SETTLED_NS:
        with _remembering:
            while len(_looked) >= _REMEMBERED:
                del _looked[next(iter(_looked))]
            _looked[known] = found
    return found


def _look(path: Path) -> _Looked:
    with closing(open_container(path)) as container:
        suffix, config = _SUFFIXES[container.kind], container.config
        container.tree  # noqa: B018  (opened, and so searched for links to other files and shape bombs)
    return _Looked(LoadFacts(suffix, *_only_input(config)), next(dangers(config), ""))


def dangers(config: Any) -> Iterator[str]:
    """What a model's config would run or read beyond layers, each as the end of "the file …"."""
    todo = [{**config, "compile_config": None} if isinstance(config, dict) else config]
    while todo:
        value = todo.pop()
        if isinstance(value, dict):
            todo.extend(value.values())
            if isinstance(value.get("class_name"), str):
                danger = _danger(value)
                if danger:
                    yield danger
        elif isinstance(value, list):
            todo.extend(value)


def _danger(entry: dict[str, Any]) -> str:
    """What this one object would do, else ""."""
    name = entry["class_name"]
    config = entry.get("config")
    settings = config if isinstance(config, dict) else {}
    label = f"'{settings['name']}'" if isinstance(settings.get("name"), str) else f"of class {name}"
    if name == "__lambda__":
        return "has Python code in it, which running would execute"
    if name == "Lambda" and _holds_code(settings):
        return f"has a Lambda layer {label} with code in it, which running would execute"
    if name in _FOREIGN:
        return f"has a layer {label} that {_FOREIGN[name]}, which running would do"
    call = _forbidden_call(name, settings)
    if call:
        return f"has a layer {label} that calls TensorFlow's {call}"
    if isinstance(settings.get("vocabulary"), str):
        return f"has a layer {label} that reads a file of this machine, {settings['vocabulary']}"
    return _foreign_module(entry, name, config)


def _forbidden_call(name: str, settings: dict[str, Any]) -> str:
    """What of TensorFlow this layer of Keras 2 calls, if that does more than compute, else ""."""
    match name:
        case "TFOpLambda" | "SlicingOpLambda":
            called, harmless = str(settings.get("function")), _TF_FUNCTION
        case "ClassMethod":
            called, harmless = str(settings.get("cls_symbol")), _TF_CLASS
        case "TensorFlowOpLayer":
            called = _raw_op(settings.get("node_def"))
            return called if _RAW_OP.search(called) else ""
        case _:
            return ""
    return "" if harmless.fullmatch(called) else called


def _holds_code(settings: dict[str, Any]) -> bool:
    """Whether a Lambda layer is more than a named function (which is judged like every other)."""
    kinds = [settings.get(f"{part}_type") for part in ("function", "output_shape", "mask")]
    return not isinstance(settings.get("function"), dict) or "lambda" in kinds or "function" in kinds


def _foreign_module(entry: dict[str, Any], name: str, config: Any) -> str:
    """What would be imported to make this object, if it is not a part of Keras."""
    module = entry.get("module")
    if module is None or module == "builtins":  # looked up among Keras' own, nothing is imported
        return ""
    wanted = config if name == "function" else entry.get("spec_name", name)
    text = str(module)
    if name == "__typespec__" and text.startswith(_TYPE_SPECS):
        return ""
    if name == "function" and _COMPUTING.fullmatch(text):
        return ""
    if name != "function" and _MODULE.fullmatch(text) and _CLASS_NAME.fullmatch(name):
        return ""
    if name in _TOP_LEVEL and text in ("keras", "tf_keras"):
        return ""
    kind = "function" if name == "function" else "class"
    return (
        f"needs the {kind} {text}.{wanted}, which is no part of Keras' layers and would run code of its own"
    )


def _raw_op(node_def: Any) -> str:
    """The operation of a Keras 2 TensorFlowOpLayer; one that cannot be told counts as dangerous."""
    text = node_def if isinstance(node_def, str) else json.dumps(node_def)
    found = re.search(r'"op": *"(\w+)"', text) or re.search(r'op: *"(\w+)"', text)
    return found[1] if found else "ReadFile"


def _only_input(config: Any) -> tuple[str, int]:
    """A Sequential's input: its name (its InputLayer's, or "input"), and its rank where the file says it."""
    if not isinstance(config, dict) or config.get("class_name") != "Sequential":
        return "", 0
    inner = config.get("config")
    layers = inner.get("layers") if isinstance(inner, dict) else inner  # old ones are a bare list
    first = layers[0] if isinstance(layers, list) and layers else None
    settings = first.get("config") if isinstance(first, dict) else None
    if not isinstance(first, dict) or not isinstance(settings, dict):
        return "input", 0
    shape = settings.get("batch_shape") or settings.get("batch_input_shape")
    name = settings.get("name") if first.get("class_name") == "InputLayer" else None
    return name if isinstance(name, str) else "input", len(shape) if isinstance(shape, list) else 0
