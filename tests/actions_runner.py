"""The shell steps of a composite action, run as the runner of GitHub Actions runs them.

What is taken over: ``${{ inputs.NAME }}`` and ``${{ steps.ID.outputs.NAME }}`` in ``env``, files for outputs
and for the summary, bash with ``-eo pipefail``, a step that fails ends the run. Steps that use another action
(Python, artifacts) are left out.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.documented import ROOT

_EXPRESSION = re.compile(r"\$\{\{ (inputs|steps)\.([\w.-]+) \}\}")


def action() -> dict[str, Any]:
    """``action.yml`` as YAML has it."""
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
    return loaded


@dataclass(slots=True)
class Ran:
    """What came of it: exit code of the last step, what all printed, outputs by name, the summary."""

    code: int = 0
    printed: str = ""
    outputs: dict[str, str] = field(default_factory=dict)
    summary: str = ""

    def annotations(self) -> list[str]:
        """Lines that the runner takes as commands: none while it was told to stop looking for them."""
        found, stopped = [], ""
        for line in self.printed.splitlines():
            if stopped:
                stopped = "" if line == f"::{stopped}::" else stopped
            elif line.startswith("::stop-commands::"):
                stopped = line.removeprefix("::stop-commands::")
            elif line.startswith("::"):
                found.append(line)
        return found


def run(folder: Path, temp: Path, *, skip: tuple[str, ...] = (), **inputs: str) -> Ran:
    """All shell steps but those in ``skip``, in the repository at ``folder``; ``temp`` is the runner's."""
    made, ran = action(), Ran()
    unknown = inputs.keys() - {name.replace("-", "_") for name in made["inputs"]}
    assert not unknown
    given = {
        name: inputs.get(name.replace("-", "_"), one.get("default", ""))
        for name, one in made["inputs"].items()
    }
    steps = [step for step in made["runs"]["steps"] if "run" in step and step["name"] not in skip]
    for step in steps:
        _step(step, given, folder, temp, ran)
        if ran.code:
            break
    return ran


def _step(step: Mapping[str, Any], given: Mapping[str, str], folder: Path, temp: Path, ran: Ran) -> None:
    output, summary = temp / "output", temp / "summary"
    output.write_text("")
    summary.touch()

    def value(found: re.Match[str]) -> str:
        if found[1] == "inputs":
            return given[found[2]]
        return ran.outputs.get(found[2].rpartition(".")[2], "")

    env = {name: _EXPRESSION.sub(value, text) for name, text in step.get("env", {}).items()}
    assert not any("${{" in text for text in (*env.values(), step["run"])), (
        "an expression that is not known here"
    )
    script = temp / "step.sh"
    script.write_text(step["run"], encoding="utf-8")
    here = {name: text for name, text in os.environ.items() if not name.startswith(("PYTHON", "GITHUB_"))}
    here |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "CI": "true",
        "GITHUB_ACTIONS": "true",
        "GITHUB_ACTION_PATH": str(ROOT),
        "GITHUB_OUTPUT": str(output),
        "GITHUB_STEP_SUMMARY": str(summary),
        "RUNNER_TEMP": str(temp),
    }
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
        cwd=folder,
        env=here | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        check=False,
    )
    ran.code, ran.printed = done.returncode, ran.printed + done.stdout
    pairs = (line.partition("=") for line in output.read_text(encoding="utf-8").splitlines())
    ran.outputs |= {name: text for name, _, text in pairs}
    ran.summary = summary.read_text(encoding="utf-8")
