"""A loaded Keras model's inputs and outputs: tensors in nested lists and dicts, each with a name of its own.

Decides what they are called, so that the original and the folded model have the same names whatever
was loaded before them: an input by the key of its dict or by its InputLayer, an output by the key of
its dict, by the layer it comes from, or by its position. Knows no backend; used by the child process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from bnfuse.formats.child.messages import Head

KeyPath = tuple[Any, ...]  # the keys and indices that lead to one tensor of a structure


class NamedTensor(Struct):
    """One input or output: where it is in its structure, and what it is called."""

    path: KeyPath
    name: str
    dtype: str
    shape: list[int | None] | None

    def described(self) -> Head:
        """As an entry of a message."""
        return {"name": self.name, "dtype": self.dtype, "shape": self.shape}


def interface(model: Any) -> tuple[Any, Any, list[str]]:
    """Nested inputs and outputs of a model (a tensor, or lists and dicts of them), and the outputs' names.

    Raises:
        ValueError: the model does not declare its inputs.
    """
    for of in (model, getattr(model, "_functional", None)):  # a Keras 3 Sequential wraps a Functional
        for names in (("_inputs_struct", "_outputs_struct"), ("_nested_inputs", "_nested_outputs")):
            found = [getattr(of, name, None) for name in names]
            if all(part is not None for part in found):
                return found[0], found[1], list(getattr(of, "output_names", ()))
    if not getattr(model, "inputs", None):
        raise ValueError("it declares no inputs (it was never built, or is a subclassed model)")
    return _single(model.inputs), _single(model.outputs), list(getattr(model, "output_names", ()))


def _single(tensors: Sequence[Any]) -> Any:
    return tensors[0] if len(tensors) == 1 else list(tensors)


def leaves(structure: Any, name: Callable[[Any], str], path: KeyPath = ()) -> Iterator[NamedTensor]:
    """Every tensor of a structure; a dict's key is a name, else ``name`` gives it."""
    if isinstance(structure, Mapping):
        for key, part in structure.items():
            yield from leaves(part, lambda _, key=key: str(key), (*path, key))  # type: ignore[misc]
    elif isinstance(structure, list | tuple):
        for index, part in enumerate(structure):
            yield from leaves(part, name, (*path, index))
    elif structure is not None:
        dtype = structure.dtype
        yield NamedTensor(path, name(structure), str(getattr(dtype, "name", dtype)), _shape(structure.shape))


def _shape(shape: Any) -> list[int | None] | None:
    if getattr(shape, "rank", 0) is None:  # a TensorShape of unknown rank
        return None
    return [None if length is None else int(length) for length in shape]


def input_name(tensor: Any) -> str:
    """The name of its InputLayer: a tensor's own name may be numbered anew in each process."""
    history = getattr(tensor, "_keras_history", None)
    return str(history[0].name) if history else str(tensor.name)


def output_leaves(structure: Any, names: Sequence[str]) -> list[NamedTensor]:
    """Outputs by the keys of a dict, else by the names that the model gives them, else by position."""
    made = list(leaves(structure, lambda _: ""))
    for index, leaf in enumerate(made):
        if not leaf.name:
            leaf.name = str(names[index]) if len(names) == len(made) else f"output_{index}"
    return made


def distinct(named: list[NamedTensor]) -> list[NamedTensor]:
    """A second output of one layer has the layer's name, too: number it."""
    seen: dict[str, int] = {}
    for leaf in named:
        count = seen[leaf.name] = seen.get(leaf.name, -1) + 1
        if count:
            leaf.name = f"{leaf.name}:{count}"
    return named


def tensor_at(value: Any, path: KeyPath) -> Any:
    """The tensor at a path; a list of one output may come back as the output itself."""
    for key in path:
        if not isinstance(value, Mapping | list | tuple):
            break
        value = value[key]
    return value


def filled(structure: Any, tensors: Mapping[KeyPath, Any], path: KeyPath = ()) -> Any:
    """The structure with these tensors in place of the declared ones."""
    if isinstance(structure, Mapping):
        return {key: filled(part, tensors, (*path, key)) for key, part in structure.items()}
    if isinstance(structure, list | tuple):
        return [filled(part, tensors, (*path, index)) for index, part in enumerate(structure)]
    return tensors.get(path)
