"""``RunSettings`` as JSON, for a process that is to load a model with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import to_builtins

from bnfuse.formats.base import Probe, RunSettings


def settings_to_json(settings: RunSettings) -> dict[str, Any]:
    """What ``settings_from_json`` makes these settings of."""
    document: dict[str, Any] = to_builtins(settings)
    return document


def settings_from_json(document: Mapping[str, Any]) -> RunSettings:
    """The settings that ``settings_to_json`` told."""
    return RunSettings(**{**document, "probe": probe_from_json(document["probe"])})


def probe_from_json(document: Mapping[str, Any] | None) -> Probe | None:
    """The probe of such a document, where there is one."""
    if document is None:
        return None
    names = {key: tuple(document[key]) for key in ("seams", "dtypes", "shaken", "wanted")}
    return Probe(**{**document, **names})
