"""Tell GitHub what the reports of one run say: the job's summary, annotations, outputs of the step.

Decides nothing. What a model calls its nodes is escaped as the runner asks for it (actions/toolkit,
packages/core/src/command.ts), and an output is one line.

    python tell.py FOLDER    FOLDER holds bnfuse.json, bnfuse.md and bnfuse.sarif, where they were written
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MOST_ANNOTATIONS = 10  # of one level and step are shown
MOST_SUMMARY_BYTES = 1_000_000  # of a step; beyond 1 MiB the runner takes none of it
_TOO_LONG = "The report is too long for this page: see the artifact.\n"


def main(folder: Path) -> None:
    """Everything that was written; a command that was called wrongly has written nothing, which is told."""
    if (report := folder / "bnfuse.md").exists():
        text = report.read_text(encoding="utf-8")
        _append("GITHUB_STEP_SUMMARY", text if len(text.encode()) <= MOST_SUMMARY_BYTES else _TOO_LONG)
    if (report := folder / "bnfuse.sarif").exists():
        for line in annotated(json.loads(report.read_text(encoding="utf-8"))):
            print(line)
    else:
        print("::error title=bnfuse::bnfuse was called wrongly: its log says how")
    if (report := folder / "bnfuse.json").exists():
        for name, value in outputs(json.loads(report.read_text(encoding="utf-8"))).items():
            _append("GITHUB_OUTPUT", f"{name}={value}\n")


def annotated(log: dict[str, Any]) -> Iterator[str]:
    """One workflow command for each result, and for each error that a command ended in."""
    shown = dict.fromkeys(("error", "warning", "notice"), 0)
    for run in log["runs"]:
        told = [note for call in run["invocations"] for note in call.get("toolExecutionNotifications", ())]
        for each in (*told, *run["results"]):
            level = each["level"] if each["level"] in shown else "notice"
            shown[level] += 1
            if shown[level] <= MOST_ANNOTATIONS:
                file = "".join(f"file={_escaped(uri, ':,')}," for uri in _files(each))
                yield f"::{level} {file}title=bnfuse::{_escaped(each['message']['text'])}"


def outputs(document: dict[str, Any]) -> dict[str, object]:
    """What later steps may read; of a run that ended in an error, nothing."""
    counts = document.get("batchnorms")
    if counts is None:
        return {}
    written = (document["output"] or {}).get("path", "")
    return {**{name: int(counts[name]) for name in ("found", "folded", "kept")}, "output": _line(written)}


def _files(each: dict[str, Any]) -> Iterator[str]:
    for location in each.get("locations", ())[:1]:
        yield location["physicalLocation"]["artifactLocation"]["uri"]


def _escaped(text: str, more: str = "") -> str:
    for sign in f"%\r\n{more}":
        text = text.replace(sign, f"%{ord(sign):02X}")
    return text


def _line(text: str) -> str:
    return text if text.isprintable() else ""


def _append(variable: str, text: str) -> None:
    with Path(os.environ[variable]).open("a", encoding="utf-8") as file:
        file.write(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
