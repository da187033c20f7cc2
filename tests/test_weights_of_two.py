"""``--weights`` where two models are taken: whose they are, through the command line and in Python."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import pytest

import bnfuse
from tests.command import call
from tests.test_packed_keras import FIXTURES, parts

QUICK = ("--verify-time", "0.2")


def epochs(to: Path) -> tuple[Path, Path, Path]:
    """An architecture, and weights of two epochs under other names; in the second one bias moved by 0.5."""
    model, weights = parts(to)
    first = weights.rename(to / "epoch1.weights.h5")
    second = to / "epoch2.weights.h5"
    shutil.copyfile(first, second)
    with h5py.File(second, "r+") as file:
        file["layers/dense_2/vars/1"][0] += 0.5
    return model, first, second


def changed(found: Any) -> list[float]:
    """The largest change of every weight that ``diff --json`` lists."""
    return [each["max_abs"] for each in json.loads(found.stdout)["weights"]["changed"]]


def test_diff_of_one_architecture_with_the_weights_of_two_epochs(tmp_path: Path) -> None:
    model, first, second = epochs(tmp_path)
    found = call("diff", model, model, "--weights", first, "--weights", second, "--json", "--exit-code")
    assert found.exit_code == 1 and changed(found) == [pytest.approx(0.5)]
    found = call("diff", model, model, "--weights", first, "--weights", first, "--json", "--exit-code")
    assert found.exit_code == 0 and changed(found) == []


@pytest.mark.parametrize("turned", [False, True])
def test_the_weights_are_those_of_the_one_that_needs_them(tmp_path: Path, turned: bool) -> None:
    """Whether that is A or B."""
    model, _, second = epochs(tmp_path)
    pair = (FIXTURES / "digits_b.keras", model)
    found = call("diff", *(pair[::-1] if turned else pair), "--weights", second, "--json")
    assert found.exit_code == 0, found.stderr
    assert changed(found) == [pytest.approx(0.5)]


def test_of_two_architectures_the_first_is_given_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other goes by the names: as what ``optimize --weights`` has written."""
    model, _, second = epochs(tmp_path)
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(model, "other.json")
    shutil.copyfile("epoch1.weights.h5", "other.weights.h5")
    found = call("diff", "net.json", "other.json", "--weights", second.name, "--json")
    assert changed(found) == [pytest.approx(0.5)]
    found = call("diff", "other.json", "net.json", "--weights", second.name, "--json")
    assert found.exit_code == 3
    assert json.loads(found.stdout)["message"] == (
        "'other.json' and 'net.json' are architectures, and only one file of weights is given "
        "('epoch2.weights.h5', for the first): give both, --weights FILE_OF_FIRST --weights FILE_OF_SECOND"
    )


@pytest.mark.parametrize("command", ["diff", "verify", "bench"])
def test_every_form_names_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """One architecture twice: nothing else tells A from B."""
    model, first, second = epochs(tmp_path)
    monkeypatch.chdir(tmp_path)
    limits = {"verify": QUICK, "bench": ("--bench-time", "0.1")}.get(command, ())
    every = ("a.md", "a.html", "a.json")
    given = (model.name, model.name, "--weights", first.name, "--weights", second.name)
    found = call(command, *given, *limits, *(word for file in every for word in ("--report", file)))
    assert found.exit_code == (1 if command == "verify" else 0), found.stderr
    told = [Path(file).read_text(encoding="utf-8") for file in every]
    for text in [*told, *([found.stdout] if command == "diff" else [])]:
        assert first.name in text and second.name in text
    if command == "diff":
        assert "an architecture and weights of Keras" in found.stdout, "not what it is put together as"


def test_optimize_names_both_files_of_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, first, _ = epochs(tmp_path)
    monkeypatch.chdir(tmp_path)
    given = (model.name, "--weights", first.name, "-o", "a.json", "--no-verify", "--no-bench")
    found = call("optimize", *given, "--report", "r.html", "--report", "r.md", "--report", "r.json")
    assert found.exit_code == 0, found.stderr
    assert "written  a.json and a.weights.h5\n" in found.stdout
    report = json.loads(Path("r.json").read_text(encoding="utf-8"))
    assert [report[file]["weights_path"] for file in ("input", "output")] == [first.name, "a.weights.h5"]
    markdown = Path("r.md").read_text(encoding="utf-8")
    assert f"<code>{model.name}</code> with <code>{first.name}</code>" in markdown
    page = Path("r.html").read_text(encoding="utf-8")
    assert "<code>a.json</code> and <code>a.weights.h5</code> were written." in page


def test_keywords(tmp_path: Path) -> None:
    model, first, second = epochs(tmp_path)
    found = bnfuse.diff(model, model, weights=[first, str(second)])
    assert [each.figures.max_abs for each in found.weights_changed if each.figures] == [pytest.approx(0.5)]
    assert not bnfuse.diff(FIXTURES / "digits_b.keras", model, weights=first).weights_changed
    with pytest.raises(bnfuse.UsageError, match=r"there is none for '.*epoch2\.weights\.h5'"):
        bnfuse.diff(FIXTURES / "digits_b.keras", model, weights=(first, second))


REFUSED = [
    (("net.json", "b.keras", "--weights", "epoch1.weights.h5", "--weights", "epoch2.weights.h5"), 2,
     "there is none for 'epoch2.weights.h5'"),
    (("b.keras", "b.keras", "--weights", "epoch1.weights.h5"), 2, "belong to an architecture in JSON"),
    (("b.keras", "net.json"), 3, "give those with --weights FILE.weights.h5"),
    (("b.keras", "net.json", "--weights", "none.h5"), 3, "'none.h5' cannot be read"),
    (("b.keras", "other.json", "--weights", "epoch1.weights.h5"), 3, "no architecture of a Keras model"),
]  # fmt: skip


@pytest.mark.parametrize("command", ["verify", "bench", "diff"])
@pytest.mark.parametrize(("given", "code", "sentence"), REFUSED)
def test_what_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, given: Any, code: int, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    epochs(tmp_path)
    shutil.copyfile(FIXTURES / "digits_b.keras", "b.keras")
    Path("other.json").write_text('{"a": 1}')
    found = call(command, *given)
    assert (found.exit_code, sentence in found.stderr) == (code, True), found.stderr
    assert "Traceback" not in found.stderr and "/bnfuse-" not in found.stderr


@pytest.mark.slow
def test_verify_and_bench_run_the_weights_that_are_given(
    keras3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One epoch equals the archive that it is from; the other differs by a bias, which a softmax shows."""
    monkeypatch.setattr("gc.collect", lambda: 0)  # what other tests left, which takes seconds
    model, first, second = epochs(tmp_path)
    monkeypatch.chdir(tmp_path)
    whole = FIXTURES / "digits_b.keras"
    found = call("verify", whole, model.name, "--weights", first, *QUICK, "--json")
    assert found.exit_code == 0, found.stderr
    assert json.loads(found.stdout)["candidate"]["path"] == "net.json"
    found = call("verify", model.name, model.name, "--weights", first, "--weights", second, *QUICK, "--json")
    assert found.exit_code == 1 and json.loads(found.stdout)["verification"]["status"] == "different"
    limits = ("--max-time", "0.3", "--batch", "1")
    found = call("bench", model.name, model.name, "--weights", first, "--weights", second, *limits, "--json")
    assert found.exit_code == 0 and json.loads(found.stdout)["benchmark"]["runs"], found.stderr


def test_a_difference_is_told_on_stderr_as_a_gate_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is asked for on stdout."""
    model, first, second = epochs(tmp_path)
    monkeypatch.chdir(tmp_path)
    given = (model.name, model.name, "--weights", first.name, "--weights", second.name)
    found = call("verify", *given, *QUICK, "-q")
    assert (found.exit_code, found.stdout) == (1, "")
    said = [line for line in found.stderr.splitlines() if not line.startswith("verifying: ")]
    assert len(said) == 1 and said[0].startswith("bnfuse: 'net.json' and 'net.json' differ: output 'digit'")
