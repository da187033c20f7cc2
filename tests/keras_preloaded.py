"""Imported by what ``forked_runtimes`` forks: Keras, before there are threads, which no fork survives."""

from __future__ import annotations

import importlib
import os
from contextlib import suppress

from tests.keras_quick import settled

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
for _name in ("tests.keras_child", "bnfuse.formats.keras.runtime.child"):
    importlib.import_module(_name)
with suppress(ImportError):  # whoever asks for it is told
    for _name in ("tensorflow", "keras", "tf_keras"):
        importlib.import_module(_name)
    settled(importlib.import_module("keras"))
    settled(importlib.import_module("tf_keras"))
