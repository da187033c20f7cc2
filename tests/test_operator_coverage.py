"""Every operator of onnx, and those of onnxruntime, has a row or a reason why it has none."""

from __future__ import annotations

from collections import Counter

from onnx import defs
from onnxruntime.capi import onnxruntime_pybind11_state as runtime

from bnfuse.formats.onnx.rows.ops import ROWS
from tests.refused_operators import OF_ONNXRUNTIME, REFUSED
from tests.runtime_versions import ONNX

_RULED = {op for op, kind in ROWS.items() if kind.rule is not None}
_STANDARD = {f"{s.domain}.{s.name}" if s.domain else s.name for s in defs.get_all_schemas()}
_MICROSOFT = "com.microsoft"


def _refused(table: dict[str, tuple[str, ...]]) -> set[str]:
    """All names, each of which stands in it once."""
    count = Counter(op for group in table.values() for op in group)
    assert not {op: n for op, n in count.items() if n > 1}
    return set(count)


def test_every_operator_of_onnx_has_a_row_or_a_reason() -> None:
    """Also those of ai.onnx.ml and the previews. Both tables are left by what onnx does not know."""
    assert len(_STANDARD) > 200
    assert _STANDARD - _RULED - _refused(REFUSED) == set()
    assert _refused(REFUSED) & _RULED == set()
    if ONNX >= (1, 23):  # the tables are of its operators
        assert _refused(REFUSED) - _STANDARD == set()


def test_every_operator_of_onnxruntime_has_a_row_or_a_reason() -> None:
    """Those of the version that is here; another one may have fewer, or more of them."""
    listed = {s.name for s in runtime.get_all_operator_schema() if s.domain == _MICROSOFT}
    ruled = {op.rpartition(".")[2] for op in _RULED if op.startswith(f"{_MICROSOFT}.")}
    assert len(listed) > 100 and ruled <= listed
    assert _refused(OF_ONNXRUNTIME) & ruled == set()
    assert listed - ruled - _refused(OF_ONNXRUNTIME) == set()


def test_a_row_names_an_operator_that_there_is() -> None:
    """Of some version: Upsample left the set."""
    every = {f"{s.domain}.{s.name}" if s.domain else s.name for s in defs.get_all_schemas_with_history()}
    assert {op for op in _RULED if not op.startswith(_MICROSOFT)} <= every
