"""Which onnxruntime is here: what some tests compare with was mended in it later than what bnfuse needs."""

from __future__ import annotations

import onnxruntime
import pytest

ORT = tuple(int(number) for number in onnxruntime.__version__.split(".")[:2])

# Before, it took one function for all of a name (findings/onnxruntime-function-overloads.sh), and
# ended the process over functions that call each other.
tells_functions_apart = pytest.mark.skipif(ORT < (1, 27), reason="onnxruntime before 1.27")
