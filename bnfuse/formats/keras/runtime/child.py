"""The process that runs Keras models for bnfuse: loads, calls and times what it is asked to.

Started by ``bnfuse.formats.child.pool``; requests and answers are those of ``bnfuse.formats.child.server``.
An error is an answer, of kind "missing", "broken", "no-gpu", "unknown-class", "load", "run" or "memory".

A file is loaded by Keras 3 where that is installed, else, or where Keras 3 refuses the file, by
tf_keras. Decides nothing about safety beyond Keras' own safe mode: what may be loaded at all is
decided before, by ``bnfuse.formats.keras.runtime.safety``.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from msgspec import Struct

from bnfuse.formats.base import Probe
from bnfuse.formats.child.messages import Arrays, Head
from bnfuse.formats.child.server import Engine, LoadRefused, serve_engine
from bnfuse.formats.child.settings import probe_from_json
from bnfuse.formats.child.spare_models import FileIdentity
from bnfuse.formats.keras.runtime.backends import Backend, Call, NoGpu, make_backend
from bnfuse.formats.keras.runtime.keras_errors import is_out_of_memory, load_refusal, reason
from bnfuse.formats.keras.runtime.nested_tensors import (
    NamedTensor,
    distinct,
    filled,
    input_name,
    interface,
    leaves,
    output_leaves,
    tensor_at,
)
from bnfuse.formats.keras.runtime.probe import OpenSeams, shake


class LoadedModel(Struct):
    """One model, ready to be called; ``seams`` are what a probe sees, ``undo`` moves weights back."""

    model: Any
    call: Call
    optimise: bool
    inputs: list[NamedTensor]
    outputs: list[NamedTensor]
    structure: Any
    runtime: str
    versions: dict[str, str]
    file: FileIdentity
    how: tuple[Any, ...]
    load_s: float
    seams: OpenSeams | None = None
    undo: Callable[[], None] | None = None


class KerasEngine(Engine[LoadedModel]):
    """Holds the backend; one method per request."""

    def __init__(self) -> None:
        self._loaded_any = False
        self._backend: Backend | None = None
        self._flavours: list[str] = []
        self._settled: set[str] = set()
        self._unsettled = False
        self._allow_unsafe = False
        self._served_by: dict[FileIdentity, str] = {}

    def prepare(self) -> None:
        """Import the backend, which takes most of the time; what fails, and what else, is for ``start``."""
        with contextlib.suppress(Exception):
            importlib.import_module(os.environ["KERAS_BACKEND"])

    def start(self, setup: Head) -> Head:
        """Import the library, and the Keras that is tried first, or is asked for: what follows is quick."""
        flavour = setup.get("flavour", "")
        try:
            self._backend = make_backend(setup["backend"], setup["device"], setup["threads"])
            self._flavours = _flavours(setup["backend"])
            if self._flavours:
                self._imported(flavour if flavour in self._flavours else self._flavours[0])
        except NoGpu as error:
            raise LoadRefused("no-gpu", str(error)) from error
        except ModuleNotFoundError as error:
            raise LoadRefused("missing", reason(error)) from error
        except MemoryError:
            raise
        except Exception as error:  # (imports of broken packages raise anything)
            if is_out_of_memory(error):
                raise MemoryError from error
            raise LoadRefused("broken", reason(error)) from error
        if not self._flavours:
            raise LoadRefused("missing", "neither keras nor tf_keras is installed")
        self._allow_unsafe = setup["allow_unsafe"]
        return {"version": self._backend.version}

    def _imported(self, name: str) -> ModuleType:
        """A Keras package. What it brought with it is kept out of later garbage collections (0.3 s each)."""
        keras = importlib.import_module(name)
        if name not in self._settled and not self._loaded_any:
            gc.collect()
            gc.freeze()
        elif name not in self._settled:
            self._unsettled = True  # until no model is there, which would be kept for ever
        self._settled.add(name)  # not by sys.modules: TensorFlow imports Keras of its own accord
        return keras

    def load(self, head: Head) -> tuple[LoadedModel, Head]:
        """Try each flavour of Keras in turn, or the one asked for: the first that loads it serves it."""
        failures: list[tuple[str, Exception]] = []
        for flavour in self._to_try(head["path"], head["flavour"]):
            try:
                loaded = self._loaded(self._imported(flavour), head)
            except MemoryError:
                raise
            except Exception as error:  # noqa: BLE001  (Keras' loaders raise anything; all of it is reported)
                version = getattr(sys.modules.get(flavour), "__version__", "")
                failures.append((f"{flavour} {version}".rstrip(), error))
                continue
            self._loaded_any = True
            self._probe(loaded, probe_from_json(head.get("probe")))
            if not head["flavour"]:
                self._served_by[loaded.file] = flavour
            assert self._backend is not None
            return loaded, {
                "runtime": loaded.runtime,
                "versions": loaded.versions,
                "providers": list(self._backend.devices),
                "inputs": [leaf.described() for leaf in loaded.inputs],
                "outputs": [leaf.described() for leaf in loaded.outputs],
                "load_s": loaded.load_s,
            }
        raise load_refusal(failures)

    def _to_try(self, path: str, wanted: str) -> Sequence[str]:
        """The flavours to try, in turn."""
        if wanted and wanted not in self._flavours:
            raise LoadRefused("load", f"{wanted}, which is not installed")
        # What Keras 3 refused once need not be tried again: it would count as the model's cold start.
        only = wanted or self._served_by.get(FileIdentity.of(path))
        return [only] if only else self._flavours

    def _loaded(self, keras: ModuleType, head: Head) -> LoadedModel:
        """One that is spare, or what Keras loads."""
        assert self._backend is not None
        file, how = FileIdentity.of(head["path"]), (keras.__name__, head["input_name"], head["input_rank"])
        loaded = self.spares.take(file, how) or self._read(keras, head, file, how)
        loaded.optimise = bool(head["optimise"])
        loaded.call = (self._backend.compiled if loaded.optimise else self._backend.exact)(loaded.model)
        return loaded

    def _read(self, keras: ModuleType, head: Head, file: FileIdentity, how: tuple[Any, ...]) -> LoadedModel:
        assert self._backend is not None
        begin = time.perf_counter()
        if self._allow_unsafe and hasattr(getattr(keras, "config", None), "enable_unsafe_deserialization"):
            keras.config.enable_unsafe_deserialization()  # for .h5, where some versions ignore safe_mode
        _count_names_anew(keras)
        model = keras.models.load_model(head["path"], compile=False, safe_mode=not self._allow_unsafe)
        structure, made, names = interface(model)
        inputs = list(leaves(structure, input_name))
        if len(inputs) == 1 and head["input_name"]:
            inputs[0].name = head["input_name"]
            if head["input_rank"] and len(inputs[0].shape or ()) != head["input_rank"]:
                text = f"it takes the input for {inputs[0].shape}, which is not what the file says"
                raise LoadRefused("load", text)
        outputs = output_leaves(made, names)
        return LoadedModel(
            model=model,
            call=self._backend.exact(model),
            optimise=False,
            inputs=distinct(inputs),
            outputs=distinct(outputs),
            structure=structure,
            runtime=f"{keras.__name__} {keras.__version__} ({self._backend.version})",
            versions={keras.__name__: keras.__version__, **dict([self._backend.version.split(" ", 1)])},
            file=file,
            how=how,
            load_s=time.perf_counter() - begin,
        )

    def _probe(self, loaded: LoadedModel, probe: Probe | None) -> None:
        """Open the model up."""
        assert self._backend is not None
        if probe is not None:
            loaded.undo = shake(loaded.model, probe, self._backend)
            loaded.seams = OpenSeams(loaded.model, probe, self._backend)

    def run(self, model: LoadedModel, arrays: Arrays) -> Arrays:
        """All outputs, and seams, by name."""
        assert self._backend is not None
        inputs = self._inputs(model, arrays)
        seen: Arrays = {}
        with self._backend.mode(model.optimise):
            if model.seams is None:
                result = model.call(inputs)
            else:
                result, seen = model.seams.called(lambda: model.call(inputs), arrays)
            found = [tensor_at(result, leaf.path) for leaf in model.outputs]
            self._backend.wait(found)
        named = zip(model.outputs, found, strict=True)
        return {leaf.name: self._backend.array(tensor) for leaf, tensor in named} | seen

    def time(self, model: LoadedModel, arrays: Arrays, calls: int) -> list[int]:
        """Nanoseconds of each call, the inputs being on the device already."""
        assert self._backend is not None
        inputs, call, wait = self._inputs(model, arrays), model.call, self._backend.wait
        paths = [leaf.path for leaf in model.outputs]
        clock, times = time.perf_counter_ns, []
        with self._backend.mode(model.optimise):
            for _ in range(calls):
                begin = clock()
                result = call(inputs)
                wait([tensor_at(result, path) for path in paths])
                times.append(clock() - begin)
        return times

    def _inputs(self, model: LoadedModel, arrays: Arrays) -> Any:
        """The call's argument: the structure that the model declares, filled with tensors."""
        assert self._backend is not None
        tensors = {leaf.path: self._backend.tensor(arrays[leaf.name]) for leaf in model.inputs}
        return filled(model.structure, tensors)

    def spare(self, model: LoadedModel) -> tuple[FileIdentity, tuple[Any, ...]] | None:
        """Close its seams, move its weights back. What calls leave in stateful layers cannot be undone."""
        if any(getattr(layer, "stateful", False) for layer in model.model._flatten_layers()):
            return None
        if model.seams is not None:
            model.seams.close()
        if model.undo is not None:
            model.undo()
        model.seams = model.undo = None
        return model.file, model.how

    def closed(self, left: int) -> None:
        """Free its memory, whatever references Keras keeps of its own."""
        if not left:
            for keras in (sys.modules.get(flavour) for flavour in self._flavours):
                if keras is not None:
                    _forget_models(keras)
        gc.collect()
        if not left and self._unsettled:
            gc.freeze()
            self._unsettled = False

    def told(self, error: Exception) -> Head:
        """Keras raises anything; all of it is reported."""
        kind = "memory" if is_out_of_memory(error) else "run"
        return {"error": kind, "text": reason(error)}


def _forget_models(keras: ModuleType) -> None:
    """Let go of what Keras holds of all models; who calls this collects the garbage, once for every Keras."""
    try:
        keras.backend.clear_session(free_memory=False)
    except TypeError:  # tf_keras, which collects nothing
        keras.backend.clear_session()


def _count_names_anew(keras: ModuleType) -> None:
    """Name layers that have no name as in a process of the model's own: Keras counts all layers that it made.

    Not ``clear_session``, which lets go of what other models have compiled.
    """
    with contextlib.suppress(ImportError, AttributeError):
        importlib.import_module(f"{keras.__name__}.src.utils.naming").reset_uids()
    with contextlib.suppress(AttributeError):
        keras.backend.reset_uids()


def _flavours(backend: str) -> list[str]:
    """The Keras packages to try, in turn, of those that are installed."""
    names = {"tensorflow": ("keras", "tf_keras"), "tf_keras": ("tf_keras",)}.get(backend, ("keras",))
    return [name for name in names if importlib.util.find_spec(name) is not None]


def main(token: str) -> None:
    """Answer requests until they end."""
    serve_engine(token, KerasEngine())
