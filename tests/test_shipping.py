"""What others install: the wheel, the image's lines, the hook. From the registry, or not at all."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from bnfuse import __version__
from tests.documented import ROOT

pytestmark = pytest.mark.slow
MODEL = ROOT / "fixtures/digits_cnn.onnx"


def shell(*command: object, folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run without anything of this process' Python."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "GIT_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    here = {**kept, "PATH": path, "PIP_NO_COMPILE": "1", **more}  # what pip compiles runs a few times here
    return subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env=here,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


def skip_without_registry(folder: Path) -> None:
    """Skips where packages cannot be had."""
    asked = shell(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "hatchling", folder=folder)
    if asked.returncode:
        pytest.skip("no registry of packages can be reached")


def lines_of_the_image() -> dict[str, list[list[str]]]:
    """Of the first stage of the Dockerfile, the words of its COPY and RUN lines."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").partition("\nFROM")[2].partition("\nFROM")[0]
    found: dict[str, list[list[str]]] = {"COPY": [], "RUN": []}
    for line in text.splitlines():
        word, _, rest = line.partition(" ")
        if word in found:
            found[word].append([rest] if word == "RUN" else shlex.split(rest))
    return found


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The environment that the image holds, made by its own lines out of the files that it copies."""
    folder = tmp_path_factory.mktemp("image")
    (folder / "src").mkdir()
    lines = lines_of_the_image()
    for *sources, _ in lines["COPY"]:
        for source in sources:
            copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
            copy(ROOT / source, folder / "src" / source)
    made, *then = (line.replace("/opt/bnfuse", str(folder / "opt")) for (line,) in lines["RUN"])
    for command in (made, *then):
        done = shell("sh", "-ec", command, folder=folder / "src", EXTRAS="")
        if done.returncode:
            skip_without_registry(folder)
        assert done.returncode == 0, done.stderr
        if command is made:
            link_what_is_needed(site_packages(folder / "opt"))
    return folder / "opt" / "bin"


def site_packages(environment: Path) -> Path:
    return next((environment / "lib").glob("python3*")) / "site-packages"


def link_what_is_needed(site: Path) -> None:
    """What bnfuse says that it depends on, directly and not, from here: pip looks whether that is enough.

    What is missing or too old pip fetches; the rest it need not download and unpack.
    """
    todo, seen = ["bnfuse"], set()
    while todo:
        name = todo.pop()
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        if name in seen:
            continue
        seen.add(name)
        wanted = [need for need in found.requires or () if "extra ==" not in need]
        todo += [re.split(r"[^\w.-]", need, maxsplit=1)[0] for need in wanted]
        for top in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            if name != "bnfuse" and not (site / top).exists():
                (site / top).symlink_to(str(found.locate_file(top)))


def folds(programs: Path, folder: Path) -> None:
    """The command there folds and proves a network; and in what it wrote, nothing is left."""
    shutil.copy(MODEL, folder / "model.onnx")
    options = ("--no-bench", "--verify-time", "0.5", "--json")
    done = shell(programs / "bnfuse", "optimize", "model.onnx", *options, folder=folder)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["batchnorms"] == {"found": 8, "folded": 8, "kept": 0}
    assert (report["verification"]["status"], report["versions"]["bnfuse"]) == ("equal", __version__)
    assert (
        shell(programs / "bnfuse", "optimize", "model.fused.onnx", "--check", folder=folder).returncode == 0
    )


def test_the_image_folds(bare: Path, tmp_path: Path) -> None:
    folds(bare, tmp_path)
    assert not (bare / "pip").exists()
    assert shell(bare / "python", "-c", "import pip", folder=tmp_path).returncode == 1
    # a Keras model folds there, and is not said to be proved
    shutil.copy(ROOT / "fixtures/digits_b.keras", tmp_path)
    assert shell(bare / "bnfuse", "inspect", "digits_b.keras", folder=tmp_path).returncode == 0
    done = shell(bare / "bnfuse", "optimize", "digits_b.keras", folder=tmp_path)
    assert done.returncode == 5 and "bnfuse[tensorflow]" in done.stderr, done.stderr
    done = shell(bare / "bnfuse", "optimize", "digits_b.keras", "--no-verify", "--no-bench", folder=tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_wheel_is_enough(bare: Path, tmp_path: Path) -> None:
    """It holds the package and nothing else; it takes the place of what the image had."""
    pytest.importorskip("hatchling")
    here = ("--no-deps", "--no-build-isolation")  # the image's lines let pip fetch what builds it
    built = shell(sys.executable, "-m", "pip", "wheel", "-q", *here, "-w", tmp_path, ROOT, folder=tmp_path)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == f"bnfuse-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (told,) = (archive.read(name).decode() for name in names if name.endswith("/METADATA"))
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "bnfuse").rglob("*") if path.is_file()}
    files = {name for name in files if "__pycache__" not in name}
    assert {name for name in names if not name.startswith(f"bnfuse-{__version__}.dist-info/")} == files
    assert "bnfuse/py.typed" in files and "License-Expression: Apache-2.0" in told
    assert set(re.findall(r"^Provides-Extra: (.+)$", told, re.MULTILINE)) >= {
        "tensorflow",
        "keras2",
        "gpu",
    }
    site = site_packages(bare.parent)
    shutil.rmtree(site / "bnfuse")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)  # as pip does, which the image has no more
    folds(bare, tmp_path)


def test_the_hook(tmp_path: Path) -> None:
    """In a repository of somebody else: pre-commit installs it, and it stops an unfolded model only.

    What it depends on is what the image has, too, and is not fetched again: it comes from here.
    """
    for needed in ("pre_commit", "hatchling"):
        pytest.importorskip(needed)
    hooks, theirs = tmp_path / "hooks", tmp_path / "theirs"
    shutil.copytree(ROOT / "bnfuse", hooks / "bnfuse", ignore=shutil.ignore_patterns("__pycache__"))
    for name in (".pre-commit-hooks.yaml", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, hooks)
    revision = commit(hooks)
    theirs.mkdir()
    (theirs / ".pre-commit-config.yaml").write_text(
        f"repos: [{{repo: '{hooks}', rev: {revision}, hooks: [{{id: bnfuse-check}}]}}]\n"
    )
    (theirs / "notes.txt").write_text("no model")
    shutil.copy(MODEL, theirs / "my model.onnx")
    commit(theirs)
    packages(tmp_path / "packages")
    stopped = pre_commit(theirs, tmp_path)
    assert stopped.returncode == 1, stopped.stdout + stopped.stderr
    assert "8 nodes of 'my model.onnx' can be folded (--check)" in stopped.stdout
    folded = ("optimize", "my model.onnx", "-o", "my model.onnx.new.onnx", "--no-verify", "--no-bench")
    assert shell(sys.executable, "-m", "bnfuse", *folded, folder=theirs, PYTHONPATH=str(ROOT)).returncode == 0
    (theirs / "my model.onnx.new.onnx").replace(theirs / "my model.onnx")
    commit(theirs)
    passed = pre_commit(theirs, tmp_path)
    assert passed.returncode == 0, passed.stdout + passed.stderr
    assert "Passed" in passed.stdout


def packages(folder: Path) -> None:
    """All packages of this environment but bnfuse, to a pip that takes them for modules of nobody."""
    folder.mkdir()
    for place in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for path in Path(place).iterdir():
            if not path.name.endswith((".dist-info", ".pth")) and "bnfuse" not in path.name:
                (folder / path.name).symlink_to(path)


def pre_commit(folder: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "pre_commit", "run", "--all-files", "--color", "never")
    here = {"PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0", "PYTHONPATH": str(cache / "packages")}
    return shell(*command, folder=folder, PRE_COMMIT_HOME=str(cache / "pre-commit"), **here)


def commit(folder: Path) -> str:
    who = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.org", "-c", "commit.gpgsign=false")
    for words in (("init", "-q"), ("add", "-A"), (*who, "commit", "-q", "--no-verify", "-m", "models")):
        done = shell("git", *words, folder=folder)
        assert done.returncode == 0, done.stderr
    return shell("git", "rev-parse", "HEAD", folder=folder).stdout.strip()
