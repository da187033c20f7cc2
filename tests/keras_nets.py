"""Keras models for the tests of folding: stirred, saved, folded, loaded by stock Keras and compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnfuse.core.apply import apply
from bnfuse.core.decisions import Fold, Keep, Plan
from bnfuse.core.planning.plan import plan
from bnfuse.core.reasons import Reason
from bnfuse.formats.base import ReadOptions
from bnfuse.formats.keras import FORMAT

Keras = Any  # the module, of either version
Make = Callable[[Any], Any]  # keras.layers -> a layer
both_containers = pytest.mark.parametrize("suffix", [".keras", ".h5"])

# Relative to the range of the output; what the arithmetic of the type leaves, with deep nets in mind.
TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "float16": 2e-2, "bfloat16": 1e-1}
_MEASURED = (
    "BatchNormalization",
    "BatchNormalizationV1",
    "BatchNormalizationV2",
    "SyncBatchNormalization",
)


@contextmanager
def computing_in(keras: Any, dtype: str) -> Iterator[None]:
    """Keras 3, or tf_keras, makes inputs and layers in this type."""
    if not hasattr(keras, "config"):
        floatx = keras.backend.floatx()
        keras.backend.set_floatx(dtype)
        try:
            yield
        finally:
            keras.backend.set_floatx(floatx)
        return
    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    try:
        yield
    finally:
        keras.config.set_floatx(before[0])
        keras.config.set_dtype_policy(before[1])


@dataclass(frozen=True)
class Folded:
    """One model before and after."""

    before: Path
    after: Path
    plan: Plan
    notes: tuple[str, ...]

    @property
    def kept(self) -> dict[str, set[Reason]]:
        """BatchNormalizations that stay, with every reason that was given."""
        return {
            d.node: {r.reason for r in d.refusals}
            for d in self.plan.decisions
            if isinstance(d, Keep) and d.is_batchnorm
        }

    @property
    def kept_affines(self) -> dict[str, set[Reason]]:
        """Rescaling and Normalization layers that stay."""
        return {
            d.node: {r.reason for r in d.refusals}
            for d in self.plan.decisions
            if isinstance(d, Keep) and not d.is_batchnorm
        }

    @property
    def gone(self) -> set[str]:
        """All that was folded, affines included."""
        return {d.node for d in self.plan.decisions if isinstance(d, Fold)}


def fold_file(before: Path, after: Path, options: ReadOptions = ReadOptions()) -> Folded:  # noqa: B008 - frozen
    """Read, plan, apply, write."""
    with closing(FORMAT.read(before, options)) as model:
        planned = plan(model.graph)
        decided = planned.plan
        patch = apply(model.graph, planned)
        model.write(patch, after)
        return Folded(before, after, decided, model.notes)


def fold(
    model: Any,
    folder: Path,
    suffix: str = ".keras",
    options: ReadOptions = ReadOptions(),  # noqa: B008
) -> Folded:
    """Save a model in ``folder`` and fold the file."""
    folder.mkdir(parents=True, exist_ok=True)
    before = folder / f"before{suffix}"
    model.save(before)
    return fold_file(before, folder / f"after{suffix}", options)


def stir(model: Any, *, gamma: str | Mapping[str, str] = "mixed", seed: int = 11) -> Any:
    """Random weights; a BN's statistics are badly scaled.

    Args:
        model: of Keras 3 or tf_keras; changed in place.
        gamma: "mixed" has both signs and an exact 0 where there are 3 channels or more, "signed" has both
            signs, "positive" one; "scale" is positive, "signed scale" has both signs, and neither has a
            shift (β = 0, μ = 0). Or one of these for each BN that is named here, "mixed" for others.
        seed: of the random numbers.
    """
    rng = np.random.default_rng(seed)
    values = []
    for variable, value in zip(model.weights, model.get_weights(), strict=True):
        array = np.asarray(value)
        layer, _, name = getattr(variable, "path", variable.name).split(":")[0].rpartition("/")
        kind = gamma if isinstance(gamma, str) else gamma.get(layer, "mixed")
        values.append(_drawn(rng, name, array, kind).astype(array.dtype))
    model.set_weights(values)
    return model


def chain(keras: Keras, shape: tuple[int | None, ...], *steps: Any, gamma: str = "mixed") -> Any:
    """Layers one after the other, with random weights."""
    x = y = keras.layers.Input(shape, name="x")
    for step in steps:
        y = step(y)
    return stir(keras.Model(x, y), gamma=gamma)


def _drawn(rng: np.random.Generator, name: str, old: np.ndarray, gamma: str) -> np.ndarray:
    if old.dtype.kind in "iub" or "seed" in name or name in ("mean", "variance"):
        return old  # a Normalization's statistics are what adapt() made them
    if name == "moving_variance":
        return rng.uniform(0.2, 3.0, old.shape)
    if name == "moving_mean":
        wide = rng.normal(0, 1, old.shape) * 10 ** rng.uniform(-1, 1, old.shape)
        return np.zeros(old.shape) if gamma.endswith("scale") else wide
    if name == "gamma":
        return _gammas(rng, old.shape, gamma)
    if name == "beta" and gamma.endswith("scale"):
        return np.zeros(old.shape)
    if name in ("beta", "bias", "alpha", "embeddings"):
        return rng.normal(0, 0.7, old.shape)
    fan_in = max(1, int(np.prod(old.shape[:-1])))
    return rng.normal(0, 1.0 / np.sqrt(fan_in), old.shape)


def _gammas(rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> np.ndarray:
    drawn = rng.uniform(0.4, 1.8, shape)
    if kind in ("positive", "scale"):
        return drawn
    flat = drawn.reshape(-1)
    flat *= rng.choice((-1.0, 1.0), flat.size)
    flat[:2] = np.abs(flat[:2]) * rng.permutation((1.0, -1.0))[: flat.size]
    if kind == "mixed" and flat.size >= 3:
        flat[2] = 0.0
    return drawn


def random_inputs(model: Any, batch: int = 3, seed: int = 3) -> list[np.ndarray]:
    """One array per input, in the order of ``model.inputs``; integers are below 7; free axes get 6."""
    rng = np.random.default_rng(seed)
    made = []
    for tensor in model.inputs:
        shape = (batch, *(6 if n is None else int(n) for n in tensor.shape[1:]))
        dtype = tensor.dtype if isinstance(tensor.dtype, str) else tensor.dtype.name
        drawn = rng.integers(0, 7, shape) if "int" in dtype else rng.normal(0, 1.5, shape)
        made.append(drawn.astype("float32" if dtype == "bfloat16" else dtype))
    return made


def outputs_of(model: Any, feeds: Sequence[np.ndarray], *, compiled: bool = False) -> list[np.ndarray]:
    """All outputs, flattened, in float64; ``compiled`` by XLA, which alone knows channels-first on a CPU."""
    given = feeds[0] if len(feeds) == 1 else list(feeds)
    if not compiled:
        return [as_float64(y) for y in _leaves(model(given, training=False))]
    import tensorflow as tf

    with (
        pytest.MonkeyPatch.context() as here
    ):  # what is called once need not be fast; not so in other processes
        here.setenv(
            "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
        )
        return [as_float64(y) for y in _leaves(tf.function(model, jit_compile=True)(given, training=False))]


def as_float64(value: Any) -> np.ndarray:
    """An output tensor of either library as numpy has it."""
    return np.asarray(value.numpy() if hasattr(value, "numpy") else value).astype(np.float64)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key in sorted(value):
            yield from _leaves(value[key])
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def assert_same(want: Sequence[np.ndarray], got: Sequence[np.ndarray], tolerance: float) -> None:
    """Outputs agree relative to their range, and the comparison means something."""
    assert len(want) == len(got)
    for a, b in zip(want, got, strict=True):
        assert a.shape == b.shape
        assert np.isfinite(a).all()
        size = float(np.abs(a).max())
        assert float(np.std(a)) > 1e-3 * size > 0.0, "an output that is all but constant proves nothing"
        error = float(np.abs(a - b).max())
        assert error <= tolerance * size, f"relative error {error / size:.1e}"


def check(
    library: Any,
    model: Any,
    folder: Path,
    *,
    suffix: str = ".keras",
    tolerance: float | None = None,
) -> tuple[Folded, Any]:
    """Fold a model and load the result with the library that made it: equal outputs, equal names.

    Returns:
        What was folded, and the loaded result.
    """
    folded = fold(model, folder, suffix)
    loaded = library.models.load_model(folded.after, compile=False)
    feeds = random_inputs(model)
    want = outputs_of(model, feeds)
    names = {str(np.asarray(t).dtype) for t in feeds} & set(TOLERANCE)
    allowed = max((TOLERANCE[n] for n in names), default=1e-5) if tolerance is None else tolerance
    assert_same(want, outputs_of(loaded, feeds), allowed)
    assert [tuple(t.shape) for t in loaded.inputs] == [tuple(t.shape) for t in model.inputs]
    assert [tuple(t.shape) for t in loaded.outputs] == [tuple(t.shape) for t in model.outputs]
    assert input_names(loaded) == input_names(model)
    assert output_names(loaded) == output_names(model)
    left = batchnorms(loaded)
    assert len(left) == len(folded.kept) or shared_or_wrapped(loaded)
    return folded, loaded


def input_names(model: Any) -> list[str]:
    """The names of the input layers, in order (Keras 3 names the tensors anew each time)."""
    if hasattr(model, "input_names"):
        return list(model.input_names)
    return [t._keras_history.operation.name for t in model.inputs]


def output_names(model: Any) -> list[str]:
    """The names of the layers that the outputs come from; for a Sequential of its last."""
    if hasattr(model, "output_names"):
        return list(model.output_names)
    return [t._keras_history.operation.name for t in model.outputs]


def batchnorms(model: Any) -> list[str]:
    """Names of the BatchNormalizations in a loaded model, nested and wrapped ones included, each once."""
    return [layer.name for layer in every_layer(model) if type(layer).__name__ in _MEASURED]


def shared_or_wrapped(model: Any) -> bool:
    """Whether a layer is reached by several ways, so that counts by layer and by call differ."""
    return any(len(getattr(layer, "_inbound_nodes", ())) > 1 for layer in every_layer(model))


def every_layer(model: Any) -> list[Any]:
    """All layers of a loaded model, each once."""
    found: dict[int, Any] = {}
    todo = [model]
    while todo:
        layer = todo.pop()
        if id(layer) in found:
            continue
        found[id(layer)] = layer
        todo += getattr(layer, "layers", None) or []
        todo += [
            inner
            for name in ("layer", "forward_layer", "backward_layer")
            if (inner := getattr(layer, name, None)) is not None and hasattr(inner, "weights")
        ]
    return list(found.values())[1:]
