"""The commands as functions: what is given becomes files, the use case runs, the result becomes the caller's.

A model is a path, bytes, a file object, an ``onnx.ModelProto`` or a live Keras model; the new model is of the
same kind. What is given is never changed. Errors are ``BnfuseError``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, TypeVar, overload

from bnfuse.api import options as known
from bnfuse.api import requests, results
from bnfuse.api.given import Given, as_file
from bnfuse.api.options import AnyPath
from bnfuse.api.results import Agreement, Difference, Latency, Report, written_down
from bnfuse.results.renamed import renamed, renamed_errors

if TYPE_CHECKING:
    from onnx import ModelProto
    from typing_extensions import Unpack

    from bnfuse.api.options import (
        BenchOptions,
        DiffOptions,
        InspectOptions,
        OptimizeOptions,
        VerifyOptions,
    )

Bytes = bytes | bytearray | memoryview


class KerasModel(Protocol):
    """A live model of Keras 3 or of tf_keras."""

    name: str

    def save(self, filepath: Any, /, *given: Any, **options: Any) -> Any:
        """Write a file."""

    def predict(self, x: Any, /, *given: Any, **options: Any) -> Any:
        """Run it."""


K = TypeVar("K", bound=KerasModel)
AnyModel = str | PathLike[str] | Bytes | BinaryIO | KerasModel


@overload
def optimize(
    model: str | PathLike[str], output: AnyPath | None = None, **options: Unpack[OptimizeOptions]
) -> Report[Path]: ...
@overload
def optimize(
    model: Bytes | BinaryIO, output: AnyPath | None = None, **options: Unpack[OptimizeOptions]
) -> Report[bytes]: ...
@overload
def optimize(
    model: ModelProto, output: AnyPath | None = None, **options: Unpack[OptimizeOptions]
) -> Report[ModelProto]: ...
@overload
def optimize(model: K, output: AnyPath | None = None, **options: Unpack[OptimizeOptions]) -> Report[K]: ...
def optimize(model: Any, output: AnyPath | None = None, **options: Any) -> Report[Any]:
    """Fold what can be folded exactly, write the result, prove it equal, measure it.

    Args:
        model: what to read; it is never changed.
        output: the file to write. Without it a file's result is ``NAME.fused.EXT`` beside it, and that of any
            other model is a model of its kind alone.
        **options: those of ``bnfuse optimize``, see ``api.options.OptimizeOptions``.

    Returns:
        The report, whose ``model`` is the new one.

    Raises:
        UnreadableModel: not a whole, valid model of a known format.
        UnsafeModel: it reaches outside its own folder.
        UsageError: a value that makes no sense; inputs that do not fit the model.
        OutputError: the output exists, or cannot be written.
        Unproved: different, or not proved equal; nothing was written. ``error.report`` tells what was found.
        BatchNormsLeft: the target is "no-bn", and some must stay; nothing was written.
        RuntimeMissing: the runtime or the device is not there; nothing was written.
        TypeError: a keyword that there is not.
    """
    from bnfuse.use_cases.optimize import optimize as run
    from bnfuse.use_cases.requests import requested

    with requests.prepared("optimize", options, known.OptimizeOptions) as asked, as_file(model) as given:
        gate = requests.speed_gate(asked, measured=asked.get("bench", True) is not False)
        target = None if output is None else Path(output)
        if given.name and target is None:
            target = given.path.with_name(f"result{given.path.suffix}")
        names = _names(given) | ({} if output is not None or target is None else {target: given.name})
        with renamed_errors(names):
            arguments, more = requests.arguments(asked), requests.as_given(asked, "progress")
            force = arguments.pop("force", False)
            found = run(given.path, target, request=requested(**arguments), force=force, **more)
            made = None if found.output is None else given.loaded(found.output.path)
    return written_down(Report, renamed(gate.report(found), names), model=made)


def inspect(model: AnyModel | ModelProto, **options: Unpack[InspectOptions]) -> Report[Any]:
    """Plan only: every BatchNormalization, its decision, its reason. Needs no runtime, writes nothing.

    Args:
        model: what to read.
        **options: those of ``bnfuse inspect``, see ``api.options.InspectOptions``.

    Raises:
        UnreadableModel: not a whole, valid model of a known format.
        UnsafeModel: it reaches outside its own folder.
        UsageError: a value that makes no sense; no BatchNormalization has a name that is to stay.
        TypeError: a keyword that there is not.
    """
    from bnfuse.use_cases.optimize import inspect as run

    requests.check_known("inspect", options, known.InspectOptions)
    with as_file(model) as given:
        more = requests.as_given(options, "progress")
        found = run(given.path, **requests.arguments(options, plan_only=True), **more)
    return written_down(Report, renamed(found, _names(given)))


def verify(
    reference: AnyModel | ModelProto, candidate: AnyModel | ModelProto, **options: Unpack[VerifyOptions]
) -> Agreement:
    """Are these two models equal, and on what evidence?

    Args:
        reference: the one that is right.
        candidate: the other; it may be of another format.
        **options: those of ``bnfuse verify``, see ``api.options.VerifyOptions``.

    Raises:
        UnreadableModel, UnsafeModel: one of them is not a whole, valid model, or would run code it carries.
        UsageError: a value that makes no sense; inputs that do not fit the model.
        RuntimeMissing: the runtime or the device is not there.
        TypeError: a keyword that there is not.
    """
    from bnfuse.use_cases.comparing import verified

    with (
        requests.prepared("verify", options, known.VerifyOptions) as asked,
        _both(reference, candidate) as (a, b),
    ):
        request = requests.verify_request(asked, asked.get("request"))
        more = requests.as_given(asked, "hashes", "progress")
        found = verified(a.path, b.path, request, weights=requests.several_weights(asked), **more)
    return results.agreement(renamed(found, _names(a, b)))


def bench(
    before: AnyModel | ModelProto,
    after: AnyModel | ModelProto | None = None,
    **options: Unpack[BenchOptions],
) -> Latency:
    """How long does a model take, or which of two is faster?

    Args:
        before: the one model.
        after: the other, if any.
        **options: those of ``bnfuse bench``, see ``api.options.BenchOptions``.

    Raises:
        UnreadableModel, UnsafeModel: one of them is not a whole, valid model, or would run code it carries.
        UsageError: a value that makes no sense; inputs that do not fit the model.
        RuntimeLost: the runtime crashes, hangs or takes too much memory in every setting.
        RuntimeMissing: the runtime or the device is not there.
        TypeError: a keyword that there is not.
    """
    from bnfuse.use_cases.comparing import benched

    with requests.prepared("bench", options, known.BenchOptions) as asked, _both(before, after) as given:
        gate = requests.speed_gate(asked, alone=after is None)
        request = requests.bench_request(asked, asked.get("request"))
        paths = [one.path for one in given]
        second = paths[1] if len(paths) > 1 else None
        more = requests.as_given(asked, "hashes", "progress")
        found = benched(paths[0], second, request, weights=requests.several_weights(asked), **more)
    return results.latency(renamed(gate.comparison(found), _names(*given)))


def diff(a: AnyModel | ModelProto, b: AnyModel | ModelProto, **options: Unpack[DiffOptions]) -> Difference:
    """What differs between two models: interface, operators, nodes, weights. Needs no runtime.

    Args:
        a: the one model.
        b: the other.
        **options: those of ``bnfuse diff``, see ``api.options.DiffOptions``.

    Raises:
        UnreadableModel, UnsafeModel: one of them is not a whole, valid model, or reaches outside its folder.
        UsageError: ``ignore_below`` is negative or not a number.
        TypeError: a keyword that there is not.
    """
    from bnfuse.use_cases.diff import diff as run

    requests.check_known("diff", options, known.DiffOptions)
    with _both(a, b) as given:
        more = requests.as_given(options, "ignore_below", "ranges", "hashes", "progress")
        found = run(given[0].path, given[1].path, weights=requests.several_weights(options), **more)
    return written_down(Difference, renamed(found, _names(*given)))


@contextmanager
def _both(*models: Any) -> Iterator[tuple[Given, ...]]:
    with ExitStack() as stack:
        yield tuple(stack.enter_context(as_file(model)) for model in models if model is not None)


def _names(*given: Given) -> dict[Path, str]:
    return {one.path: one.name for one in given if one.name}
