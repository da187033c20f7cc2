"""Which stored weight belongs to which layer, in files made by hand; what does not fit is refused."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from bnfuse.errors import UnreadableModel
from bnfuse.formats.keras.edit.write import write
from bnfuse.formats.keras.graph.network import Layer, walk
from bnfuse.formats.keras.rows.ops import slots
from bnfuse.formats.keras.rows.variables import snake_case
from tests.keras_files import edited, opened
from tests.keras_handmade import dense, legacy, make_archive, norm


def test_ten_layers_are_numbered_not_sorted(tmp_path: Path) -> None:
    """``dense_10`` comes after ``dense_9``; ``vars/10`` too."""
    rng = np.random.default_rng(0)
    arrays = {}
    for i in range(12):
        group = f"layers/dense_{i}" if i else "layers/dense"
        arrays[f"{group}/vars/0"], arrays[f"{group}/vars/1"] = rng.normal(size=(3, 3)), rng.normal(size=3)
    for i in range(11):
        arrays[f"layers/mystery/vars/{i}"] = np.full(2, i)
    mystery = {
        "module": "mine",
        "class_name": "Mystery",
        "config": {"name": "m"},
        "registered_name": "mine>Mystery",
    }
    path = make_archive(tmp_path / "m.keras", [*(dense(f"d{i}") for i in range(12)), mystery], arrays)
    container, network = opened(path)
    with closing(container):
        for i in range(12):
            group = f"layers/dense_{i}" if i else "layers/dense"
            kernel, bias = network.layer(f"d{i}").variables
            np.testing.assert_array_equal(kernel.read(), arrays[f"{group}/vars/0"])
            np.testing.assert_array_equal(bias.read(), arrays[f"{group}/vars/1"])
        assert [v.read()[0] for v in network.layer("m").variables] == list(range(11))
        assert {v.name for v in network.layer("m").variables} == {""}


@pytest.mark.parametrize(
    ("lacking", "more", "says"),
    [
        ("layers/dense_1/vars/1", "", "layer 'b' (Dense) has no 'bias'"),
        ("layers/dense", "", "layer 'a' (Dense) has no 'kernel'"),
        ("", "layers/dense_1/vars/2", "layer 'b' (Dense) has more weights"),
        ("", "layers/dense_2/vars/0", "for which its config has no layer"),
        ("", "layers/other/vars/0", "for which its config has no layer"),
    ],
)
def test_misfits_name_the_layer(tmp_path: Path, lacking: str, more: str, says: str) -> None:
    """What is missing or left over is refused, never guessed."""
    names = [f"layers/{g}/vars/{i}" for g in ("dense", "dense_1") for i in (0, 1)]
    arrays = {
        n: np.ones((3, 3) if n.endswith("0") else 3)
        for n in names
        if not (lacking and n.startswith(f"{lacking}"))
    }
    if lacking == "layers/dense":
        arrays = {n: a for n, a in arrays.items() if "dense_1" in n}
        arrays |= {n: np.ones(3) for n in names if "dense_1" in n}
    if more:
        arrays[more] = np.ones(3)
    with pytest.raises(UnreadableModel) as caught:
        opened(make_archive(tmp_path / "m.keras", [dense("a"), dense("b")], arrays))
    assert says in str(caught.value)


def test_hdf5_names_that_contradict_the_order_are_refused(tmp_path: Path) -> None:
    """gamma after moving_mean would load without an error, and compute garbage."""
    good = {"bn/gamma:0": 1, "bn/beta:0": 2, "bn/moving_mean:0": 3, "bn/moving_variance:0": 4}
    wrong = ("bn/moving_mean:0", "bn/gamma:0", "bn/beta:0", "bn/moving_variance:0")
    weights = {"bn": {name: np.full(3, good[name]) for name in good}}
    container, network = opened(legacy(tmp_path / "a.h5", [norm("bn")], weights))
    with closing(container):
        assert {v.name: v.read()[0] for v in network.layer("bn").variables} == {
            "gamma": 1,
            "beta": 2,
            "moving_mean": 3,
            "moving_variance": 4,
        }
    weights = {"bn": {name: np.full(3, good[name]) for name in wrong}}
    with pytest.raises(UnreadableModel, match="not in the order"):
        opened(legacy(tmp_path / "b.h5", [norm("bn")], weights))


def test_hdf5_layers_in_another_order_are_refused(tmp_path: Path) -> None:
    """The order of ``layer_names`` is the order of loading."""
    one = {"k": np.ones((3, 3)), "b": np.ones(3)}
    path = legacy(tmp_path / "a.h5", [dense("x"), dense("y")], {"y": one, "x": one})
    with pytest.raises(UnreadableModel, match="another order"):
        opened(path)


@pytest.mark.parametrize("count", [1, 3])
def test_hdf5_counts_are_checked(tmp_path: Path, count: int) -> None:
    """Too few, too many."""
    arrays = {f"x/w{i}:0": np.ones(3) for i in range(count)}
    with pytest.raises(UnreadableModel, match=f"'x' .* {count} weights where its config asks for 2"):
        opened(legacy(tmp_path / "a.h5", [dense("x")], {"x": arrays}))


def test_unknown_layer_inside_a_nested_network_is_bound_by_name(tmp_path: Path) -> None:
    """The order cannot tell how many it has; the names can, or the file is refused."""
    mine = {"class_name": "Mine", "config": {"name": "mine"}}
    inner = {"class_name": "Sequential", "config": {"name": "in", "layers": [dense("d"), mine, norm("bn")]}}
    order = ("d/kernel:0", "d/bias:0", "in/mine/w:0", "bn/gamma:0", "bn/beta:0", "in/mine/state:0")
    names = (*order, "bn/moving_mean:0", "bn/moving_variance:0")
    arrays = {name: np.full(3, float(i)) for i, name in enumerate(names)}
    path = legacy(tmp_path / "a.h5", [inner], {"in": arrays})
    container, network = opened(path)
    with closing(container):
        layers = {layer.name: layer for _, layer in walk(network)}
        assert [(v.name, v.read()[0]) for v in layers["mine"].variables] == [("w", 2.0), ("state", 5.0)]
        assert [v.read()[0] for v in layers["bn"].variables] == [3.0, 4.0, 6.0, 7.0]
        target = tmp_path / "b.h5"
        write(container, container.config, edited(network, container.config), target)
    with h5py.File(target) as h5:
        assert [
            n.decode() if isinstance(n, bytes) else n for n in h5["model_weights/in"].attrs["weight_names"]
        ] == list(names)
    arrays = {f"w{i}:0": np.ones(3) for i in range(8)}
    with pytest.raises(UnreadableModel, match="cannot be told"):
        opened(legacy(tmp_path / "c.h5", [inner], {"in": arrays}))


@pytest.mark.parametrize(
    ("class_name", "group"),
    [
        ("Dense", "dense"),
        ("Conv2DTranspose", "conv2d_transpose"),
        ("SeparableConv2D", "separable_conv2d"),
        ("PReLU", "p_re_lu"),
        ("TFOpLambda", "tf_op_lambda"),
        ("GRU", "gru"),
        ("Package>MyBlock2", "my_block2"),
        ("GroupQueryAttention", "grouped_query_attention"),
    ],
)
def test_group_names(class_name: str, group: str) -> None:
    assert snake_case(class_name) == group


def names_of(class_name: str, **config: Any) -> list[str] | None:
    found = slots(Layer("l", class_name, "", "", config, {}))
    return None if found is None else [slot.name for slot in found]


def test_slots() -> None:
    """What the switches of a config add and leave out."""
    assert names_of("BatchNormalization", scale=False) == ["beta", "moving_mean", "moving_variance"]
    assert names_of("Dense", use_bias=False) == ["kernel"]
    assert names_of("EinsumDense", bias_axes=None) == ["kernel"]
    assert names_of("Normalization", mean=[1.0]) == []
    assert names_of("MaxPooling2D") == []
    assert names_of("Mystery") is None
    for mode, names in (
        ("int8", ["kernel", "bias", "kernel_scale"]),
        ("int4/-1", ["kernel", "bias", "kernel_scale"]),
        ("int4/64", ["kernel", "bias", "kernel_scale", "kernel_zero", "g_idx"]),
        ("float8", None),
        ("gptq/4/128", None),
    ):
        policy = {"class_name": "QuantizedDTypePolicy", "config": {"mode": mode}}
        assert names_of("Dense", dtype=policy) == names, mode
    assert names_of("Embedding", dtype="int8_from_float32") is None
    assert (
        names_of("Dense", dtype={"class_name": "DTypePolicy", "config": {"name": "mixed_float16"}})
        is not None
    )
    assert names_of("Dense", lora_rank=4) is None


def test_kinds_are_told_by_content(tmp_path: Path) -> None:
    """TensorFlow 2.12 wrote HDF5 into files named ``.keras``; suffixes say nothing."""
    arrays = {"a/kernel:0": np.ones((3, 3)), "a/bias:0": np.arange(3.0)}
    path = legacy(tmp_path / "m.keras", [dense("a")], {"a": arrays})
    container, network = opened(path)
    with closing(container):
        assert container.kind == "hdf5"
        assert (container.keras_version, container.backend) == ("2.4.0", "tensorflow")
        np.testing.assert_array_equal(network.layer("a").variables[1].read(), np.arange(3.0))
    arrays = {"layers/dense/vars/0": np.ones((3, 3)), "layers/dense/vars/1": np.ones(3)}
    archive = make_archive(tmp_path / "m.h5", [dense("a")], arrays).rename(tmp_path / "n.h5")
    container, _ = opened(archive)
    with closing(container):
        assert container.kind == "archive"
        assert container.keras_version == "3.15.0"
