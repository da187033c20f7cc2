"""A system without what only POSIX has, as far as Python shows it: the paths of the code that Windows takes.

``BNFUSE_PORTABLE=1 python -m pytest tests/test_external_data.py …`` runs any tests so; ``make test-portable``
those of files.
"""

from __future__ import annotations

import os
import shutil
import sys

import pytest

from bnfuse.files import exchanging, placing
from bnfuse.formats.onnx.file import positioned


def take_away(patch: pytest.MonkeyPatch) -> None:
    """No reading at positions, copying in the kernel, locks, limits, folders by descriptor, exchange."""
    for name in ("_pread", "_preadv", "_pwrite"):
        patch.setattr(positioned, name, None)
    for name in ("pread", "preadv", "pwrite", "copy_file_range", "sendfile"):
        patch.delattr(os, name, raising=False)
    patch.setattr(shutil, "_USE_CP_SENDFILE", False)
    for name in ("fcntl", "resource"):
        patch.setitem(sys.modules, name, None)
    patch.setattr(os, "supports_dir_fd", frozenset())
    patch.setattr(exchanging, "exchange", lambda *_: False)
    patch.setattr(placing, "exchange", lambda *_: False)
