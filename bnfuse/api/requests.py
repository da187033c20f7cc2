"""Keywords as the requests of the use cases: what was not given is left as the request has it."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec.structs import replace

from bnfuse.errors import UsageError
from bnfuse.formats.base import ReadOptions
from bnfuse.formats.child.limits import limited
from bnfuse.results.renamed import renamed_errors
from bnfuse.use_cases.speed_gate import SpeedGate

if TYPE_CHECKING:
    from bnfuse.use_cases.bench import BenchRequest
    from bnfuse.use_cases.verify import VerifyRequest

_READ = ("strict_inputs", "freeze_inputs", "equalize", "allow_growth", "round_bias", "weights")
_CHOICES = {"activations": ("keep", "move"), "target": ("any", "no-bn")}
_VERIFY = ("labels", "verify_time", "samples", "batch", "shape", "inputs", "device", "threads", "seed")
_BENCH = ("precision", "max_time", "profile", "cold", "batch", "shape", "inputs", "device", "threads")
_SEVERAL = ("batch", "threads")  # of which a bench takes more than one
_ABOVE_ZERO = ("verify_time", "max_time", "precision")
Asked = TypeVar("Asked", "VerifyRequest", "BenchRequest")


def check_known(call: str, given: Mapping[str, Any], known: type) -> None:
    """As Python itself refuses keywords.

    Raises:
        TypeError: one is none of these.
    """
    names: frozenset[str] = known.__optional_keys__  # type: ignore[attr-defined]
    for name in given:
        if name not in names:
            close = get_close_matches(name, names, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise TypeError(f"{call}() got an unexpected keyword argument '{name}'{hint}")


def read_options(given: Mapping[str, Any]) -> ReadOptions:
    """How a model is read.

    Raises:
        UsageError: ``activations`` or ``target`` is nothing that there is, or ``keep`` no names.
    """
    values = {name: given[name] for name in _READ if name in given}
    for name, known in _CHOICES.items():
        if given.get(name) not in (None, *known):
            raise UsageError(f"{name} can be '{known[0]}' or '{known[1]}', not '{given[name]}'")
        if given.get(name) is not None:
            values[name] = given[name]
    options, keep = given.get("read") or ReadOptions(), given.get("keep", ())
    one = isinstance(keep, str) or not isinstance(keep, Iterable)  # a name by itself is one name
    names = (keep,) if one else tuple(keep)
    if not all(isinstance(name, str) for name in names):
        raise UsageError(f"keep is {keep!r}: give a name, or a list of names")
    return replace(options, keep=(*options.keep, *names), **values)


def verify_request(given: Mapping[str, Any], base: VerifyRequest | None = None) -> VerifyRequest:
    """How to prove.

    Raises:
        UsageError: a value that no proof can have.
    """
    from bnfuse.use_cases.verify import VerifyRequest

    values = _values(given, (*_VERIFY, "allow_unsafe"))
    if "labels" in values and not isinstance(values["labels"], Mapping):
        values["labels"] = {"": values["labels"]}
    values["threads"] = values.get("threads") or (base.threads if base else 0)
    made = replace(base or VerifyRequest(), **values)
    if made.labels and made.inputs is None:
        raise UsageError("labels are for your own samples: give those as inputs")
    return made


def bench_request(given: Mapping[str, Any], base: BenchRequest | None = None) -> BenchRequest:
    """How to measure.

    Raises:
        UsageError: a value that no measurement can have.
    """
    from bnfuse.use_cases.bench import BenchRequest

    values = _values({"max_time": given["bench_time"], **given} if "bench_time" in given else given,
                     (*_BENCH, "seed", "allow_unsafe"))  # fmt: skip
    for name in _SEVERAL:
        if name in values:
            several = values[name]
            several = () if several is None else several if isinstance(several, Sequence) else (several,)
            values[name] = tuple(several)
    if given.get("fail_if_slower") is not None:  # a measurement ends later where the gate is near
        values["fail_if_slower"] = percentage(given["fail_if_slower"]) / 100
    return replace(base or BenchRequest(), **values)


def _values(given: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    values = {name: given[name] for name in names if name in given}
    if "precision" in values:
        values["precision"] = _fraction(values["precision"])
    for name in _ABOVE_ZERO:
        if name in values and not values[name] > 0:
            raise UsageError(f"{name} is {values[name]}: give a number above 0")
    if values.get("device", "cpu") not in ("cpu", "gpu"):
        raise UsageError(f"device can be 'cpu' or 'gpu', not '{values['device']}'")
    for name in (*_SEVERAL, "samples"):
        _check_counts(name, values.get(name))
    seed = values.get("seed", 0)
    if not isinstance(seed, int) or seed < 0:
        raise UsageError(f"seed is {seed!r}: give a whole number, 0 or above")
    if "shape" in values:
        values["shape"] = {name: tuple(sizes) for name, sizes in values["shape"].items()}
    return values


def _check_counts(name: str, given: Any) -> None:
    counts = given if isinstance(given, Sequence) else () if given is None else (given,)
    if not all(isinstance(count, int) and count > 0 for count in counts):
        raise UsageError(f"{name} is {given!r}: give a whole number above 0")


def _fraction(given: float | str) -> float:
    """``"1%"`` and 0.01 are the same; 1 might be meant as 1 %, and is nothing to measure by."""
    try:
        value = float(given.strip().removesuffix("%")) / 100 if isinstance(given, str) else float(given)
    except ValueError:
        raise UsageError(f"precision is {given!r}: give a percentage such as '1%', or a fraction") from None
    if not value < 1:
        raise UsageError(f"precision is {given}, which is 100 % or more: give '1%', or 0.01")
    return value


def percentage(given: float | str) -> float:
    """``3``, ``"3"`` and ``"3%"`` are the same, as on the command line.

    Raises:
        UsageError: it is none.
    """
    try:
        percent = float(given.strip().removesuffix("%") if isinstance(given, str) else given)
    except (TypeError, ValueError):
        percent = -1.0
    if not 0 <= percent < float("inf"):
        raise UsageError(f"fail_if_slower is {given!r}: give a percentage, such as 3 or '3%'")
    return percent


def speed_gate(given: Mapping[str, Any], *, alone: bool = False, measured: bool = True) -> SpeedGate:
    """What ``baseline`` and ``fail_if_slower`` ask for; it ends no program: the result tells its ``gates``.

    Raises:
        UsageError: it is no percentage, no report, or nothing is measured that could be compared.
    """
    path, asked = given.get("baseline"), given.get("fail_if_slower")
    if not measured and (path is not None or asked is not None):
        raise UsageError("fail_if_slower and baseline need the measurement: do not leave it out")
    if alone and asked is not None and path is None:
        raise UsageError("fail_if_slower compares two models: give another, or a baseline")
    # the report first: what is wrong with it is told before a wrong percentage
    gate = SpeedGate.of(None if path is None else Path(path), None)
    return gate if asked is None else SpeedGate(gate.earlier, percentage(asked))


@contextmanager
def inputs_as_files(given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The same keywords, with arrays that were given as ``inputs`` in a temporary file."""
    inputs = given.get("inputs")
    if inputs is None or isinstance(inputs, str | PathLike):
        yield dict(given)
        return
    with TemporaryDirectory(prefix="bnfuse-") as folder:
        stored = _stored(inputs, Path(folder))
        with renamed_errors({stored: "<inputs>"}):  # the caller knows no such file
            yield {**given, "inputs": stored}


def _stored(inputs: Any, folder: Path) -> Path:
    import numpy as np

    if not isinstance(inputs, Mapping):
        path = folder / "inputs.npy"
        np.save(path, np.asarray(inputs), allow_pickle=False)
        return path
    path = folder / "inputs.npz"
    with zipfile.ZipFile(path, "w") as archive:  # np.savez takes no array called "file"
        for name, array in inputs.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
    return path


@contextmanager
def prepared(call: str, options: Mapping[str, Any], kinds: Any) -> Iterator[dict[str, Any]]:
    """The options, checked; arrays among them lie in files meanwhile, and a runtime's limits hold."""
    check_known(call, options, kinds)
    limits = limited(options.get("runtime_timeout"), options.get("runtime_memory"))
    with limits, inputs_as_files(options) as asked:
        yield asked


def arguments(asked: Mapping[str, Any], *, plan_only: bool = False) -> dict[str, Any]:
    """What the use cases are called with; a step is False where it is left out."""
    common = {"read": read_options(asked), "details": asked.get("details", True), **as_given(asked, "hashes")}
    if plan_only:
        return common
    steps: dict[str, Any] = {}
    for name, request in (("verify", verify_request), ("bench", bench_request)):
        chosen = asked.get(name, True)
        steps[name] = chosen if chosen is False else request(asked, None if chosen is True else chosen)
    return {**common, **steps, **as_given(asked, "force", "merge_affines", "only_if_faster")}


def several_weights(given: Mapping[str, Any]) -> Sequence[Any]:
    """The files of ``weights``, of which there may be one for each of two models."""
    weights = given.get("weights")
    return () if weights is None else (weights,) if isinstance(weights, str | PathLike) else tuple(weights)


def as_given(asked: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The keywords of these names that were given, as they are."""
    return {name: asked[name] for name in names if name in asked}
