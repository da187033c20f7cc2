"""Workflows, recipes and forms: they parse, and what they call is there."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from bnfuse import __version__
from tests.actions_runner import action
from tests.documented import ROOT, blocks

GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
ACTION = action()


def steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def loaded(path: Path) -> dict[str, Any]:
    made: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return made


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows(path: Path) -> None:
    workflow = loaded(path)
    assert workflow["permissions"] == {"contents": "read"}, "what a job may do beyond, it says itself"
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] and job["runs-on"]
        needs = job.get("needs", [])
        assert {needs} if isinstance(needs, str) else set(needs) <= workflow["jobs"].keys()
    for step in steps(workflow):
        assert ("run" in step) is not ("uses" in step)
        assert re.fullmatch(r"\./|[\w.-]+/[\w./-]+@[\w./-]+", step.get("uses", "./"))
        assert step.get("uses") != "./" or step["with"].keys() <= ACTION["inputs"].keys()
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"secrets\.|password|api-token", text)


def test_what_workflows_run_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    run = "\n".join(step["run"] for path in WORKFLOWS for step in steps(loaded(path)) if "run" in step)
    matrix = loaded(GITHUB / "workflows/ci.yml")["jobs"]["bounds"]["strategy"]["matrix"]["include"]
    targets = {*re.findall(r"^make ([\w-]+)", run, re.MULTILINE), *(entry["target"] for entry in matrix)}
    assert targets == {"dist", "test-oldest", "test-newest"}
    assert all(
        re.search(rf"^(?:[\w-]+ )*{target}(?: [\w-]+)*:", makefile, re.MULTILINE) for target in targets
    )
    assert ".ci/run" in run and (ROOT / ".ci/run").stat().st_mode & 0o111
    for name in re.findall(r"fixtures/[\w.]+", run):
        assert (ROOT / name).exists()


@pytest.mark.parametrize(
    ("tag", "code"), [(f"v{__version__}", 0), (__version__, 1), (f"v{__version__}.1", 1)]
)
def test_a_release_is_tagged_with_its_version(tag: str, code: int) -> None:
    (step,) = [s for s in steps(loaded(GITHUB / "workflows/release.yml")) if "tag" in s.get("name", "")]
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", step["run"]],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "GITHUB_REF_NAME": tag},
        check=False,
    )
    assert done.returncode == code


def test_only_a_tag_publishes_and_by_trust_alone() -> None:
    workflow = loaded(GITHUB / "workflows/release.yml")
    publish = workflow["jobs"]["publish"]
    assert publish["if"] == "github.event_name == 'push'" and publish["needs"] == "install"
    assert dict[Any, Any](workflow)[True]["push"] == {"tags": ["v*"]}  # so YAML 1.1 reads the key `on`
    assert publish["permissions"] == {"id-token": "write"} and publish["environment"]["name"] == "pypi"


@pytest.mark.parametrize(
    "path", sorted((GITHUB / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.name
)
def test_forms_ask_for_the_plan_and_never_for_the_model(path: Path) -> None:
    form = loaded(path)
    if path.name == "config.yml":
        return
    assert form["name"] and form["description"]
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields)
    assert all(field["attributes"]["label"] for field in fields)
    text = re.sub(r"\s+", " ", path.read_text(encoding="utf-8"))
    assert "bnfuse inspect" in text and "--json" in text
    assert re.search(r"not\W+attach the model", text)


def test_the_hook_is_one_command_for_each_file() -> None:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
    words = shlex.split(hook["entry"])
    assert words[:2] == ["sh", "-c"] and hook["language"] == "python" and hook["require_serial"]
    matches = {
        name: bool(re.search(hook["files"], name)) for name in ("a.onnx", "d/b.keras", "x.h5", "onnx.py")
    }
    assert matches == {"a.onnx": True, "d/b.keras": True, "x.h5": False, "onnx.py": False}
    stub = 'bnfuse() { case "$*" in "optimize --check --quiet -- b"*) return 3;; esac; echo "$*"; }; '
    for files, code in ((["a c", "b"], 1), (["b", "a c"], 1), (["a c", "$x"], 0)):
        done = subprocess.run(
            ["sh", "-c", stub + words[2], *words[3:], *files], capture_output=True, text=True, check=False
        )
        assert done.returncode == code
        assert [line for line in done.stdout.splitlines() if "a c" in line] == [
            "optimize --check --quiet -- a c"
        ]


def test_recipes_parse() -> None:
    pages = [ROOT / "README.md", ROOT / "docs/ci.md"]
    recipes = [yaml.safe_load(text) for page in pages for text in blocks(page, "yaml")]
    assert len(recipes) == 5
    used = [
        step for recipe in recipes for step in _all_steps(recipe) if "OWNER/bnfuse" in step.get("uses", "")
    ]
    assert len(used) == 3
    for step in used:
        assert step["with"].keys() <= ACTION["inputs"].keys()
    named = re.findall(r"steps\.fold\.outputs\.([\w-]+)", (ROOT / "docs/ci.md").read_text(encoding="utf-8"))
    assert named and set(named) <= ACTION["outputs"].keys()
    (jenkins,) = blocks(ROOT / "docs/ci.md", "groovy")
    assert jenkins.count("{") == jenkins.count("}") and jenkins.count("'") % 2 == 0


def _all_steps(recipe: Any) -> list[dict[str, Any]]:
    if isinstance(recipe, list):
        return [step for step in recipe if isinstance(step, dict)]
    return steps(recipe) if "jobs" in recipe else []


def test_the_image_copies_what_is_there_and_is_nobody() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY") and "--from" not in line]
    sources = {name for words in copied for name in words}
    assert all((ROOT / name).exists() for name in sources)
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert let_in == sources
    last = lines[max(at for at, line in enumerate(lines) if line.startswith("FROM")) :]
    assert "USER 10001:10001" in last and 'ENTRYPOINT ["bnfuse"]' in last
    assert not any(line.startswith(("ADD", "RUN curl", "RUN apt")) for line in lines)


@pytest.mark.parametrize("suffix", ["", "-dark"])
def test_the_picture_is_the_one_that_is_drawn(suffix: str) -> None:
    from docs.picture import IMAGES, PICTURES, picture

    path = IMAGES / f"what-it-does{suffix}.svg"
    assert path.read_text(encoding="utf-8") == picture(PICTURES[path])
