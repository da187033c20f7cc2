"""Damaged ONNX files led by which lines of bnfuse they reach, where atheris is installed (no dependency).

    python -m benchmarks.fuzz_guided [-max_total_time=300] [-rss_limit_mb=2048]

Bytes of small models are changed by libFuzzer, whose options it takes; each file goes through ``inspect``.
Anything but a result or a ``BnfuseError`` ends it with a traceback. What it finds lies in a temporary folder.
"""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from pathlib import Path

import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]

with atheris.instrument_imports(include=["bnfuse"]):
    from bnfuse.errors import BnfuseError
    from bnfuse.use_cases.optimize import inspect

from benchmarks.fuzz_onnx import originals

_FOLDER = Path(tempfile.mkdtemp(prefix="bnfuse-guided-"))
_MUTANT = _FOLDER / "mutant.onnx"


def _tried(data: bytes) -> None:
    _MUTANT.write_bytes(data)
    try:
        inspect(_MUTANT, hashes=False)
    except BnfuseError:
        return


def main() -> None:
    """Run until libFuzzer's options end it."""
    warnings.simplefilter("ignore")
    corpus = _FOLDER / "corpus"
    corpus.mkdir()
    for number, model in enumerate(originals(_FOLDER)):
        (corpus / f"{number}").write_bytes(model.SerializeToString())
    os.chdir(_FOLDER)
    atheris.Setup([*sys.argv, "-timeout=10", str(corpus)], _tried)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
