"""The other tools, each as the shortest program that folds BN with it: ``python -c SOURCE INPUT OUTPUT``.

Each is run the way its own documentation says, with its BN fusion on and its optional checks off, as
bnfuse's are here. ``{external}`` is true where the model keeps its weights in a side file.
"""

from __future__ import annotations

SOURCES = {
    "onnxsim": """
import sys, onnxsim
onnxsim.simplify(sys.argv[1], output_path=sys.argv[2], certify=False)
""",
    "onnxslim": """
import sys, onnxslim
onnxslim.slim(sys.argv[1], sys.argv[2], save_as_external_data={external})
""",
    "onnxoptimizer": """
import sys, onnx, onnxoptimizer
model = onnxoptimizer.optimize(onnx.load(sys.argv[1]), ["fuse_bn_into_conv"])
assert len(model.graph.node), "the result is empty"
onnx.save(model, sys.argv[2], save_as_external_data={external})
""",
    "onnxscript": """
import sys, onnx_ir
from onnxscript.rewriter import rewrite
from onnxscript.rewriter.rules import common
rules = [
    common.fuse_batchnorm_into_conv_rule,
    common.fuse_batchnorm_into_conv_transpose_rule,
    common.fuse_batchnorm_into_gemm_rule,
]
model = rewrite(onnx_ir.load(sys.argv[1]), rules)
side = sys.argv[2].rsplit("/", 1)[-1] + ".data"
onnx_ir.save(model, sys.argv[2], external_data=side if {external} else None)
""",
}


def command(python: str, tool: str, source: str, target: str, *, external: bool) -> list[str]:
    """The process that folds ``source`` into ``target`` with ``tool``."""
    return [python, "-c", SOURCES[tool].replace("{external}", str(external)), source, target]


def version_command(python: str, tool: str) -> list[str]:
    """A process that prints the tool's version, or fails where the tool is missing."""
    return [python, "-c", f"import importlib.metadata as m, {tool}; print(m.version({tool!r}))"]
