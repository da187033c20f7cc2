"""A BatchNormalization behind or before every function: it passes, or it stays as told."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from bnfuse.core.reasons import Reason
from tests.keras_functions import Function, of_keras
from tests.keras_movers import gammas
from tests.keras_nets import Keras, stir
from tests.keras_together import Network, Outcome, joined, outcomes

pytestmark = pytest.mark.slow

Outcomes = Callable[[str], dict[str, Outcome]]  # by γ: what became of each function's network
OF_KERAS = {function.name: function for function in of_keras()}
ARRIVING = {name: function for name, function in OF_KERAS.items() if function.axis is not None}


def _behind(library: Any, function: Function) -> Network:
    """Two kernels → function → BN."""

    def steps(layers: Any, name: str) -> list[Any]:
        def called(x: Any) -> Any:
            a, b = (layers.Dense(function.shape[-1], use_bias=False)(x) for _ in range(2))
            y = function.call(library, a, b)
            return layers.BatchNormalization(axis=function.axis, name=name)(y)

        return [called]

    return Network(function.shape, steps, function.floatx)


def _before(library: Any, function: Function) -> Network:
    """tanh → BN → function, beside a kernel → Dense."""

    def steps(layers: Any, name: str) -> list[Any]:
        def called(x: Any) -> Any:
            norm = layers.BatchNormalization(name=name)(layers.Activation("tanh")(x))
            return function.call(library, norm, layers.Dense(function.shape[-1])(x))

        return [called, layers.Flatten(), layers.Dense(3)]

    return Network(function.shape, steps, function.floatx)


@pytest.fixture(scope="module")
def behind(keras3: Keras, tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    networks = {name: _behind(keras3.ops, function) for name, function in ARRIVING.items()}
    return _by_gamma(keras3, networks, tmp_path_factory.mktemp("behind"))


@pytest.fixture(scope="module")
def before(keras3: Keras, tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    networks = {name: _before(keras3.ops, function) for name, function in OF_KERAS.items()}
    return _by_gamma(keras3, networks, tmp_path_factory.mktemp("before"))


def _by_gamma(keras: Keras, networks: dict[str, Network], folder: Path) -> Outcomes:
    """One model, with other weights for each γ."""
    model = joined(keras, networks)
    return cache(lambda gamma: outcomes(keras, networks, stir(model, gamma=gamma), folder / gamma))


@gammas
@pytest.mark.parametrize("name", ARRIVING)
def test_bn_behind_a_function(behind: Outcomes, name: str, gamma: str) -> None:
    """kernels → function → BN: up through the function, or not, and then for the reason in the table."""
    _as_told(behind(gamma)[name], ARRIVING[name].why(gamma))


@gammas
@pytest.mark.parametrize("name", OF_KERAS)
def test_bn_before_a_function(before: Outcomes, name: str, gamma: str) -> None:
    """tanh → BN → function → Dense: down through the function."""
    _as_told(before(gamma)[name], OF_KERAS[name].why_before(gamma))


def _as_told(found: Outcome, why: Reason | None) -> None:
    found.assert_equal()
    if why is None:
        assert found.kept is None
    else:
        assert found.kept is not None
        assert why in found.kept
