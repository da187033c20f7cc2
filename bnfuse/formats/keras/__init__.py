"""Keras: ``.keras`` archives and HDF5 files as one folder of the format boundary (``formats.base``)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bnfuse.core.apply import Patch, check_fit
from bnfuse.core.graph import Node
from bnfuse.formats.base import ReadOptions, Runner, RunSettings, Written

if TYPE_CHECKING:
    from bnfuse.formats.contents import Contents
    from bnfuse.formats.hints import Hints
    from bnfuse.formats.keras.edit.apply_patch import EditedConfig
    from bnfuse.formats.keras.file.container import Container
    from bnfuse.formats.keras.graph.network import Network
    from bnfuse.formats.keras.runtime.seams import Seams

_ZIP, _HDF5 = b"PK\x03\x04", b"\x89HDF\r\n\x1a\n"


class KerasModel:
    """An opened Keras file."""

    def __init__(self, path: Path, container: Container, options: ReadOptions) -> None:
        from bnfuse.formats.keras.graph.binding import bind
        from bnfuse.formats.keras.graph.config import parse
        from bnfuse.formats.keras.graph.flow import read_flow
        from bnfuse.formats.keras.graph.network import walk
        from bnfuse.formats.keras.graph.order import check_order
        from bnfuse.formats.keras.graph.shapes import infer

        self.path = path
        self.side_files: tuple[Path, ...] = ()
        self._container = container
        self._network = parse(container.config, container.keras_version)
        check_order(self._network)
        container.check_sum()  # what is decided on must be what was saved
        bind(container, self._network)
        self.graph, self._inside = read_flow(
            self._network, infer(self._network), archive=container.kind == "archive"
        )
        self.graph.stored_bytes = self.total_bytes()
        # Layers hand on tensors, one call after the other; one that keeps a state hands on others next time.
        self.exact_seams = not any(layer.config.get("stateful") for _, layer in walk(self._network))
        self._freed(options)
        self.notes = self._notes(options)
        self._edited: tuple[Patch, EditedConfig] | None = None

    def _freed(self, options: ReadOptions) -> None:
        """What the options let become of layers that stay.

        Nodes of ``keras.ops`` stand for activations in archives alone: of HDF5 files Keras loads no node with
        an array. They hand on no masks.
        """
        from bnfuse.formats.keras.file.weight_groups import version_of
        from bnfuse.formats.keras.graph.call_nodes import spelled
        from bnfuse.formats.keras.graph.masks import makes_mask
        from bnfuse.formats.keras.graph.network import walk

        old = version_of(self._container.keras_version)[0] < 3
        masked = any(makes_mask(layer) for _, layer in walk(self._network))
        self._moves = self._container.kind == "archive" and not masked and not old
        self.graph.no_batchnorms = options.target == "no-bn"
        wanted = options.activations == "move" or self.graph.no_batchnorms
        self.graph.moves_bounds = self._moves and wanted
        self.graph.arithmetic = partial(spelled, masked=old and masked)

    def _notes(self, options: ReadOptions) -> tuple[str, ...]:
        notes = []
        if options.activations == "move" and not self._moves:
            notes.append(
                "activations of this file stay: only archives of Keras 3 without masks can hold others"
            )
        if self._container.has_optimizer:
            notes.append("the optimiser's state no longer fits a folded model: it is left out of the result")
        if self._network.registered:
            notes.append(
                f"the model is of the custom class '{self._network.registered}': its graph of layers is "
                "what is folded, which is right unless the class computes something else"
            )
        return tuple(notes)

    def operators(self) -> dict[str, int]:
        """Layers by class, over all nested networks."""
        return _classes(self._network)

    def operators_after(self, patch: Patch) -> dict[str, int]:
        """Layers by class as ``write`` would leave them."""
        return _classes(self._edit(patch).network) if patch.changes else self.operators()

    def check_fit(self, patch: Patch) -> None:
        """Looks at each weight; see ``Model.check_fit``."""
        check_fit(patch.new_weights)

    def constants_of(self, nodes: Iterable[Node], patch: Patch | None = None) -> tuple[str, ...]:
        """The nodes' layers, by the way to each, which stays as it is; see ``Model.constants_of``."""
        gone = patch.removed if patch is not None else frozenset()
        return self._seams().layers(node for node in nodes if node not in gone)

    def probe_points(self, values: Iterable[str], patch: Patch) -> dict[str, tuple[str, str]]:
        """What layers put out, by the way to each; see ``Model.probe_points``."""
        return self._seams().points(values, patch)

    def total_bytes(self) -> int:
        """Size of the file."""
        return self.path.stat().st_size

    def write(self, patch: Patch, path: Path) -> Written:
        """Write the patched model; see ``Model.write``."""
        from bnfuse.formats.keras.edit.write import write
        from bnfuse.formats.keras.file.hdf5_copy import output_errors

        if not patch.changes:  # so not one byte does
            with output_errors(path):
                from shutil import copyfile

                copyfile(self.path, path)
            return Written(path, (), 0)
        edited = self._edit(patch)
        write(self._container, edited.config, edited.network, path)
        return Written(path, (), edited.flushed)

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def _seams(self) -> Seams:
        from bnfuse.formats.keras.runtime.seams import Seams, named_layers

        return Seams(self.graph, self._inside, named_layers(self._network))

    def _edit(self, patch: Patch) -> EditedConfig:
        from bnfuse.formats.keras.edit.apply_patch import edit

        if self._edited is None or self._edited[0] is not patch:
            container = self._container
            version = container.keras_version
            self._edited = patch, edit(container.config, self._network, version, patch, self._inside)
        return self._edited[1]


def _classes(network: Network) -> dict[str, int]:
    from bnfuse.formats.keras.graph.network import walk

    layers = (layer for _, layer in walk(network) if layer.inner is None)
    return dict(Counter(layer.class_name for layer in layers if layer.class_name != "InputLayer"))


class KerasFormat:
    """Reads, writes and runs ``.keras``, ``.h5`` and ``.hdf5`` files."""

    name = "keras"

    def accepts(self, head: bytes, path: Path) -> bool:
        """A zip archive or an HDF5 file, whatever its name."""
        return head.startswith((_ZIP, _HDF5))

    def read(self, path: Path, options: ReadOptions) -> KerasModel:
        """Open a model; see ``Format.read``."""
        from bnfuse.formats.keras.file.opening import open_container
        from bnfuse.formats.keras.file.wording import one_sentence

        with one_sentence(path), ExitStack() as damaged:
            container = open_container(path)
            damaged.callback(container.close)
            model = KerasModel(path, container, options)
            damaged.pop_all()
        return model

    def contents(self, path: Path) -> Contents:
        """What is in a file; see ``Format.contents``."""
        from bnfuse.formats.keras.file.wording import one_sentence
        from bnfuse.formats.keras.graph.contents import read_contents

        with one_sentence(path):
            return read_contents(path)

    def hints(self, path: Path) -> Hints:
        """What the file tells of its inputs; see ``Format.hints``."""
        from bnfuse.formats.keras.graph.hints import read_hints

        return read_hints(path)

    def suffix(self, path: Path) -> str:
        """The suffix the input has."""
        return path.suffix or ".keras"

    def prepare(self, settings: RunSettings) -> None:
        """Start the child process that Keras runs in, which imports its backend at once."""
        from bnfuse.formats.keras.runtime.run import prepare

        prepare(settings)

    def load(self, path: Path, settings: RunSettings) -> Runner:
        """Load into Keras, in a process of its own."""
        from bnfuse.formats.keras.file.wording import one_sentence
        from bnfuse.formats.keras.runtime.run import load

        with one_sentence(path):
            return load(path, settings)

    def here(self, settings: RunSettings) -> Callable[[Path], Runner]:
        """Import Keras into this process; see ``Format.here``."""
        from bnfuse.formats.keras.runtime.in_process import here

        return here(settings)


FORMAT = KerasFormat()
