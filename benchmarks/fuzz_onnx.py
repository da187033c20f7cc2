"""Damaged ONNX files by the thousand through bnfuse: done, or one sentence (``benchmarks.fuzzing``).

    python -m benchmarks.fuzz_onnx [--mutants 20000] [--seed 0] [--every 10] [MODEL ...]

A mutant is one of some eighty models, or of those given, with one to four fields of its messages changed,
whatever they are: numbers, texts (also such as are not UTF-8), bytes, lists and messages, which are dropped,
doubled, exchanged or taken from elsewhere in the model; one in ten has bytes of the finished file changed.
Every other one is read as large files are. Where something was folded, onnxruntime runs the damaged original
and the result.
Not part of the tests: it takes minutes, and other mutants every time.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor as Kind
from google.protobuf.message import Message

from benchmarks.fuzzing import main, parser
from bnfuse.formats.onnx.file import nodes, parse, wire
from tests.onnx_graphs import Net
from tests.test_onnx_functions import ROWS as FUNCTIONS
from tests.test_onnx_malformed import MODELS
from tests.test_onnx_scopes import ROWS as SCOPES

_INTS = (0, 1, -1, 2, 7, 64, 255, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 62) + 1, (1 << 63) - 1, -(1 << 63))
_FLOATS = (0.0, -1.0, 1e-40, 1e30, 3e38, float("inf"), float("nan"))
_TEXTS = ("", "x", "ai.onnx.ml", "../x", "/etc/x", "\0", "a" * 5000, "[red]é'\"", "Conv", "Loop", "1_0", "-1")
_NO_TEXT = "NOT-UTF-8-TEXT"  # its bytes are exchanged in the finished file
# Files that are parsed whole, tensors that stay in the file, nodes that are read one by one: in bytes.
_SIZES = ((parse._WHOLE_BYTES, wire.LARGE_BYTES, nodes.LEAST_BYTES), (0, 64, 0))


def originals(folder: Path) -> list[onnx.ModelProto]:
    """Small models of all kinds, most of which fold; the data of some lies in files of the folder."""
    made = [build(Net(1)) for build in MODELS.values()]
    made += [row.build(Net(1)) for row in FUNCTIONS]
    made += [row.build(Net(1)) for row in SCOPES]
    return made + [_beside(model, folder, f"weights{number}.bin") for number, model in enumerate(made[::4])]


def _beside(model: onnx.ModelProto, folder: Path, name: str) -> onnx.ModelProto:
    """The model with all its data in a file of this name."""
    copy, path = onnx.ModelProto(), folder / "original.onnx"
    copy.CopyFrom(model)
    onnx.save_model(copy, path, save_as_external_data=True, location=name, size_threshold=0)
    return onnx.load(path, load_external_data=False)


def _messages(message: Message) -> Iterator[Message]:
    yield message
    for field, value in message.ListFields():
        if field.type == Kind.TYPE_MESSAGE:
            for one in value if field.is_repeated else (value,):
                yield from _messages(one)


def _scalar(rng: random.Random, field: Any, old: Any, donors: list[Message]) -> Any:
    """Another value for a field that is no message."""
    if field.type == Kind.TYPE_STRING:
        names = [o for d in donors if isinstance(d, onnx.NodeProto) for o in (*d.input, *d.output, d.op_type)]
        return rng.choice([*_TEXTS, _NO_TEXT, *rng.choices(names or ["y"], k=12)])
    if field.type == Kind.TYPE_BYTES:
        cut = rng.randrange(len(old) + 1)
        return rng.choice([b"", old[:cut], old + old[:8], bytes(b ^ 0xFF for b in old[:64]) + old[64:]])
    if field.type in (Kind.TYPE_FLOAT, Kind.TYPE_DOUBLE):
        return rng.choice([*_FLOATS, -old])
    if field.type == Kind.TYPE_ENUM:
        return rng.choice([v.number for v in field.enum_type.values])
    values = [v for v in (*_INTS, old + 1, old - 1, -old) if -(1 << 63) <= v < 1 << 63]
    if field.type == Kind.TYPE_INT32:
        values = [v for v in (*values, *range(30)) if -(1 << 31) <= v < 1 << 31]
    return rng.choice([abs(v) for v in values] if field.type == Kind.TYPE_UINT64 else values)


def _change(rng: random.Random, model: onnx.ModelProto) -> None:
    """One field of one message."""
    every = list(_messages(model))
    target = rng.choice(every)
    fields: Any = target.DESCRIPTOR.fields
    field = rng.choice(fields)
    like = [m for m in every if field.message_type and field.message_type is m.DESCRIPTOR and m is not target]
    if field.is_repeated:
        _change_list(rng, getattr(target, field.name), field, like, every)
    elif field.type == Kind.TYPE_MESSAGE:
        if like and rng.random() < 0.7:
            copy = type(like[0])()
            copy.CopyFrom(rng.choice(like))
            getattr(target, field.name).CopyFrom(copy)
        else:
            target.ClearField(field.name)
    elif rng.random() < 0.15:
        target.ClearField(field.name)
    else:
        setattr(target, field.name, _scalar(rng, field, getattr(target, field.name), every))


def _change_list(
    rng: random.Random, values: Any, field: Any, like: list[Message], every: list[Message]
) -> None:
    at = rng.randrange(len(values)) if values else 0
    what = rng.choice(("drop", "double", "change", "swap"))
    if what == "drop" and values:
        del values[at]
    elif field.type == Kind.TYPE_MESSAGE:
        if what == "swap" and len(values) > 1:
            other = rng.randrange(len(values))
            one, two = type(values[at])(), type(values[at])()
            one.CopyFrom(values[at])
            two.CopyFrom(values[other])
            values[at].CopyFrom(two)
            values[other].CopyFrom(one)
        elif like:
            copy = type(like[0])()
            copy.CopyFrom(rng.choice(like))
            values.add().CopyFrom(copy)
    elif values and what == "change":
        values[at] = _scalar(rng, field, values[at], every)
    elif values and what == "double":
        values.extend(list(values)[: rng.choice((1, 70))])
    else:
        zero: Any = {Kind.TYPE_STRING: "", Kind.TYPE_BYTES: b""}.get(field.type, 0)
        values.append(_scalar(rng, field, zero, every))


def mutant(models: list[onnx.ModelProto], seed: int) -> bytes:
    """A damaged file, the same for the same seed."""
    rng = random.Random(seed)
    copy = onnx.ModelProto()
    copy.CopyFrom(rng.choice(models))
    for _ in range(rng.choice((1, 1, 2, 3, 4))):
        with suppress(ValueError, TypeError):  # a value that protobuf itself does not take
            _change(rng, copy)
    data = bytearray(copy.SerializeToString().replace(_NO_TEXT.encode(), b"NOT\xff\xfe8\xc3TEXT\x80\x80"))
    if rng.random() < 0.1:
        for _ in range(rng.choice((1, 3))):
            data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


class Mutants:
    """Those of some files, else of the models above: the data of some lies in the folder, and stays."""

    judged, runtime_seconds, runtime_memory = True, 6.0, "1GB"

    def __init__(self, files: Iterable[Path] = ()) -> None:
        self._models = [onnx.load(path, load_external_data=False) for path in files]

    def write(self, folder: Path, seed: int) -> Path:
        """The mutant of a seed, and how it is to be read."""
        if not self._models:
            self._models = originals(folder)
        path = folder / "mutant.onnx"
        path.write_bytes(mutant(self._models, seed))
        parse._WHOLE_BYTES, wire.LARGE_BYTES, nodes.LEAST_BYTES = _SIZES[seed % 2]
        return path


if __name__ == "__main__":
    options = parser((__doc__ or "").partition("\n")[0])
    options.add_argument(
        "models", nargs="*", type=Path, metavar="MODEL", help="files: small models of all kinds"
    )
    asked = options.parse_args()
    files = [path.resolve() for path in asked.models]
    main(lambda: Mutants(files), asked, ["benchmarks.fuzz_onnx", *map(str, files)])
