"""Guards of convolutions, pools and what samples: borders, groups, axes and modes at which they change."""

from __future__ import annotations

from typing import Any

from bnfuse.core.reasons import Reason
from tests.guard_rows import Guards, before, behind, w

GUARDS = Guards()
stays, folds = GUARDS.stays, GUARDS.folds
_X = (2, 4, 6, 7)

# --- convolutions --------------------------------------------------------------------------------------

stays(
    "Conv, groups that do not divide",
    Reason.BAD_PARAMETERS,
    behind("Conv", "x", w(5, 4, 1, 1), x=_X, group=3),
    says="weight of shape (5, 4, 1, 1), 3 groups",
    runs=False,
)
_ALONE: list[tuple[str, tuple[int, int], dict[str, Any], bool]] = [
    ("two steps", (1, 1), {"strides": [1, 2]}, True),
    ("a wide window", (1, 2), {}, True),
    ("a high window", (2, 1), {}, True),
    ("something behind", (1, 1), {"output_padding": [0, 1]}, False),
    ("a size of its own", (1, 1), {"output_shape": [6, 7]}, True),
]
for _name, _kernel, _how, _runs in _ALONE:
    stays(
        f"ConvTranspose, {_name}",
        Reason.SHIFT_REFUSED,
        before("ConvTranspose", "x", w(4, 5, *_kernel), x=_X, **_how),
        runs=_runs,
    )
folds("ConvTranspose, 1×1 in steps of one", before("ConvTranspose", "x", w(4, 5, 1, 1), x=_X, strides=[1, 1]))
_FUSED = "com.microsoft.FusedConv"
stays(
    "FusedConv, a weight of run time and a sum",
    Reason.WEIGHT_NOT_CONSTANT,
    behind(_FUSED, "x", "k", "", "z", x=_X, more={"k": (5, 4, 1, 1), "z": (2, 5, 6, 7)}, activation="Relu"),
)
