"""Many models from the command line and from Python: found, folded, proved, told, skipped and measured."""

from __future__ import annotations

import gzip
import json
import os
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from msgspec import Struct
from msgspec.structs import replace

import bnfuse
from bnfuse.errors import UsageError
from bnfuse.results import Status
from bnfuse.results.many import Outcome
from bnfuse.results.outcomes import Failure
from bnfuse.use_cases.bench import BenchRequest
from bnfuse.use_cases.many import collecting
from bnfuse.use_cases.many.measuring import run_bench
from bnfuse.use_cases.many.tasks import Task, run
from bnfuse.use_cases.verify import VerifyRequest
from tests.cli_models import convnet, outputs_of
from tests.command import call
from tests.many_models import Inline, grown, save
from tests.report_schema import assert_many_fit

QUICK = VerifyRequest(samples=2)
X = np.random.default_rng(3).standard_normal((2, 3, 9, 7)).astype(np.float32)


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept of runs lies in a folder of the test's own."""
    monkeypatch.setenv("BNFUSE_CACHE", str(tmp_path_factory.mktemp("cache")))


class Ran(Struct, frozen=True):
    """A folder that was taken through ``optimize``: every report that was asked for."""

    zoo: Path
    into: Path
    reports: Path
    done: Result

    @property
    def document(self) -> Any:
        return json.loads(self.done.stdout)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    """Once for all: by real worker processes."""
    folder = tmp_path_factory.mktemp("many")
    grown(folder / "zoo")
    forms = ("json", "md", "html", "xml", "sarif")
    reports = [word for form in forms for word in ("--report", folder / f"r.{form}")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BNFUSE_CACHE", str(folder / "cache"))
        done = call(
            *("optimize", folder / "zoo", "-r", "--output-dir", folder / "out", "-j", "2", "--json"),
            *("--no-bench", "--verify-time", "0.2", *reports),
        )
    yield Ran(folder / "zoo", folder / "out", folder, done)


def test_one_that_fails_stops_no_other_and_the_worst_code_is_told(ran: Ran) -> None:
    assert ran.done.exit_code == 3, ran.done.stderr
    assert_many_fit(ran.document)
    ends = {Path(one["model"]).name: one["exit_code"] for one in ran.document["reports"]}
    assert ends == {"a.onnx": 0, "broken.onnx": 3, "b.ONNX": 0}
    assert "broken.onnx' is not a model bnfuse can read" in ran.done.stderr
    assert ran.document["jobs"] == 2


def test_results_are_those_of_one_model_at_a_time_in_the_folders_of_the_models(
    ran: Ran, tmp_path: Path
) -> None:
    written = sorted(str(path.relative_to(ran.into)) for path in ran.into.rglob("*") if path.is_file())
    assert written == ["a.fused.onnx", "deep/er/b.fused.ONNX"]
    assert not list(ran.reports.rglob(".bnfuse-*"))
    alone = bnfuse.optimize(ran.zoo / "a.onnx", tmp_path / "alone.onnx", bench=False, verify=QUICK)
    assert (tmp_path / "alone.onnx").read_bytes() == (ran.into / "a.fused.onnx").read_bytes()
    before, after = outputs_of(ran.zoo / "a.onnx", X), outputs_of(ran.into / "a.fused.onnx", X)
    np.testing.assert_allclose(after, before, rtol=0, atol=2e-5 * np.ptp(before))
    told = ran.document["reports"][0]["report"]
    assert told["input"]["sha256"] == alone.input.sha256
    assert told["verification"]["status"] == "equal"
    assert told["decisions"][0]["action"] == "fold"


def test_every_form_is_written_and_tells_of_every_model(ran: Ran) -> None:
    assert json.loads((ran.reports / "r.json").read_text()) == ran.document
    for suffix in ("md", "html", "xml", "sarif"):
        text = (ran.reports / f"r.{suffix}").read_text(encoding="utf-8")
        assert "broken.onnx" in text
        assert "a.onnx" in text or suffix == "sarif"  # which tells of what is wrong
    suites = ET.fromstring((ran.reports / "r.xml").read_text()).findall("testsuite")
    assert [suite.get("errors") for suite in suites] == ["0", "1", "0"]


def test_resuming_does_what_is_new_changed_or_failed_and_nothing_else(tmp_path: Path) -> None:
    """By what is handed over; the same call each time."""
    zoo, into = tmp_path / "zoo", tmp_path / "out"
    grown(zoo)

    def again(**more: Any) -> dict[str, bool]:
        """Which models were skipped."""
        options: dict[str, Any] = {"verify": False, "bench": False, "force": True, **more}
        made = bnfuse.optimize_many(zoo, into, recursive=True, executor=Inline(), resume=True, **options)
        return {Path(one.model).name: one.resumed for one in made}

    assert again() == {"a.onnx": False, "b.ONNX": False, "broken.onnx": False}
    assert again() == {"a.onnx": True, "b.ONNX": True, "broken.onnx": False}
    assert again(merge_affines=True)["a.onnx"] is False  # another option
    assert again(merge_affines=True)["a.onnx"] is True
    assert again(merge_affines=True, details=False)["a.onnx"] is True  # no page wanted: less of the same
    assert again(strict_inputs=True, details=False)["a.onnx"] is False
    assert again(strict_inputs=True)["a.onnx"] is False  # and more
    save(zoo / "a.onnx", relu_first=True)
    assert again() == {"a.onnx": False, "b.ONNX": True, "broken.onnx": False}
    (into / "a.fused.onnx").write_bytes(b"another's")
    assert again() == {"a.onnx": False, "b.ONNX": True, "broken.onnx": False}
    (into / "deep" / "er" / "b.fused.ONNX").unlink()
    assert again() == {"a.onnx": True, "b.ONNX": False, "broken.onnx": False}
    os.utime(zoo / "a.onnx", (1, 1))  # touched, not changed
    assert again()["a.onnx"] is True
    save(zoo / "new.onnx")
    assert again() == {"a.onnx": True, "b.ONNX": True, "broken.onnx": False, "new.onnx": False}


def test_resuming_looks_at_weights_beside_the_model_too(tmp_path: Path) -> None:
    import onnx

    zoo = tmp_path / "zoo"
    zoo.mkdir()
    onnx.save_model(
        convnet(), zoo / "a.onnx", save_as_external_data=True, location="a.data", size_threshold=0
    )

    def skipped() -> list[bool]:
        made = bnfuse.optimize_many(zoo, executor=Inline(), resume=True, plan_only=True)
        return [one.resumed for one in made]

    assert (skipped(), skipped()) == ([False], [True])
    content = bytearray((zoo / "a.data").read_bytes())
    content[0] ^= 1  # the last bit of a weight
    (zoo / "a.data").write_bytes(content)
    assert (skipped(), skipped()) == ([False], [True])


def test_an_outcome_that_was_skipped_is_the_one_that_was_made(tmp_path: Path) -> None:
    save(tmp_path / "a.onnx")
    runs = [
        list(bnfuse.optimize_many(tmp_path, executor=Inline(), resume=True, plan_only=True, details=True))
        for _ in range(2)
    ]
    (made,), (kept,) = runs
    assert (made.resumed, kept.resumed) == (False, True)
    assert kept.report == made.report


def test_models_are_proved_together_and_measured_alone_afterwards(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(tmp_path / f"{name}.onnx")
    executor = Inline()
    bench = BenchRequest(max_time=0.2)
    made = list(bnfuse.optimize_many(tmp_path, executor=executor, jobs=2, verify=QUICK, bench=bench))
    assert [call[0].__name__ for call in executor.calls] == ["run", "run", "run_bench", "run_bench"]
    proofs = [call[1] for call in executor.calls if call[0] is not run_bench]
    assert [task.options["bench"] for task in proofs] == [False, False]
    assert [task.beside for task in proofs] == [2, 2]
    for one in made:
        assert one.report is not None
        assert one.report.benchmark is not None
        assert one.report.verification.status is Status.EQUAL
        assert one.report.benchmark.runs
        assert {"verify", "bench"} <= one.report.seconds.keys()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("a.fused.onnx", "a.onnx", "b.fused.onnx", "b.onnx")
    ]


def test_what_ran_short_beside_others_is_tried_once_more_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runtimes may take the memory that one of them needs."""
    tried: list[tuple[str, int]] = []

    def short(task: Task) -> Outcome:
        name = Path(task.model).name
        tried.append((name, task.beside))
        if name == "never.onnx" or (name == "big.onnx" and task.beside > 1):
            return Outcome(task.model, failure=Failure("optimize", "MemoryError", "not enough", 3))
        return run(task)

    for name in ("big", "never", "fine"):
        save(tmp_path / f"{name}.onnx")
    monkeypatch.setattr(collecting, "run", short)
    options: dict[str, Any] = {"verify": False, "bench": False}
    made = list(bnfuse.optimize_many(tmp_path, executor=Inline(), jobs=2, **options))
    ends = {Path(one.model).name: int(one.exit_code) for one in made}
    assert ends == {"big.onnx": 0, "never.onnx": 3, "fine.onnx": 0}
    assert sorted(tried) == [
        *(("big.onnx", 1), ("big.onnx", 2), ("fine.onnx", 2), ("never.onnx", 1), ("never.onnx", 2))
    ]


def test_the_largest_begin_first_and_are_told_in_their_order(tmp_path: Path) -> None:
    import onnx

    save(tmp_path / "a.onnx")
    model = convnet()
    model.doc_string = "large" * 10_000
    onnx.save(model, tmp_path / "b.onnx")
    executor = Inline()
    assert len(list(bnfuse.optimize_many(tmp_path, executor=executor, plan_only=True))) == 2
    assert [Path(call[1].model).name for call in executor.calls] == ["b.onnx", "a.onnx"]
    done = call("inspect", tmp_path, "--json", "-j", "1")
    assert [Path(one["model"]).name for one in json.loads(done.stdout)["reports"]] == ["a.onnx", "b.onnx"]


def test_only_if_faster_takes_one_model_at_a_time_as_a_whole(tmp_path: Path) -> None:
    """It writes nothing before it has measured."""
    save(tmp_path / "a.onnx", relu_first=True)  # nothing can be folded, so nothing is measured
    executor = Inline()
    (made,) = bnfuse.optimize_many(tmp_path, executor=executor, verify=QUICK, only_if_faster=True)
    assert [call[0].__name__ for call in executor.calls] == ["run"]
    assert made.report is not None
    assert made.report.output is None
    assert not (tmp_path / "a.fused.onnx").exists()


def test_a_result_of_a_process_that_died_before_it_could_say_so_is_found_again(tmp_path: Path) -> None:
    """A second try of a task finds its own result; anything else that is there is not touched."""
    model, output = save(tmp_path / "a.onnx"), tmp_path / "a.fused.onnx"
    task = Task(str(model), str(output), "optimize", {"verify": QUICK, "bench": False}, free=True)
    first, second = run(task), run(task)
    assert (first.failure, second.failure) == (None, None)
    assert first.report is not None
    assert second.report is not None
    assert second.report.output is not None
    assert (second.report.output.path, second.report.output.sha256) == (
        output,
        dict(first.wrote)["a.fused.onnx"],
    )
    assert second.wrote == first.wrote
    output.write_bytes(b"another's")
    third = run(task)
    assert third.exit_code == 2
    assert output.read_bytes() == b"another's"
    assert run(replace(task, free=False)).exit_code == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.fused.onnx", "a.onnx"]


def test_packed_models_are_taken_from_folders_and_packed_again(tmp_path: Path) -> None:
    """Measured as a whole, alone: as a plain file they are there only while they are worked on."""
    zoo, into = tmp_path / "zoo", tmp_path / "out"
    plain = save(zoo / "deep" / "a.onnx")
    with gzip.open(zoo / "deep" / "a.onnx.gz", "wb") as file:
        file.write(plain.read_bytes())
    plain.unlink()
    (zoo / "deep" / "b.fused.onnx.gz").write_bytes(b"an earlier result")
    executor = Inline()

    def again() -> list[bool]:
        options: dict[str, Any] = {"verify": QUICK, "max_time": 0.2}
        made = list(
            bnfuse.optimize_many(zoo, into, recursive=True, executor=executor, jobs=2, resume=True, **options)
        )
        assert [one.failure for one in made] == [None]
        assert made[0].report is not None
        assert made[0].report.benchmark is not None
        assert made[0].report.model == into / "deep" / "a.fused.onnx.gz"
        return [one.resumed for one in made]

    assert (again(), again()) == ([False], [True])
    assert [(call[0].__name__, call[1].beside) for call in executor.calls] == [("run", 1)]
    (tmp_path / "back.onnx").write_bytes(gzip.decompress((into / "deep" / "a.fused.onnx.gz").read_bytes()))
    (tmp_path / "a.onnx").write_bytes(gzip.decompress((zoo / "deep" / "a.onnx.gz").read_bytes()))
    before, after = outputs_of(tmp_path / "a.onnx", X), outputs_of(tmp_path / "back.onnx", X)
    np.testing.assert_allclose(after, before, rtol=0, atol=2e-5 * np.ptp(before))


def test_options_that_are_wrong_are_told_before_anything_runs(tmp_path: Path) -> None:
    executor = Inline()
    for name in ("x", "y"):
        save(tmp_path / name / "a.onnx")
    with pytest.raises(UsageError, match="would both be written"):
        bnfuse.optimize_many([tmp_path / "x", tmp_path / "y"], tmp_path / "out", executor=executor)
    with pytest.raises(UsageError, match="0 is no number of jobs"):
        bnfuse.optimize_many(tmp_path, jobs=0)
    assert executor.calls == []
    assert not (tmp_path / "out").exists()


WRONG: list[tuple[tuple[str, ...], str]] = [
    (("optimize", "ZOO", "-o", "x.onnx"), "--output is for one model: give --output-dir for several"),
    (("optimize", "A", "-o", "x.onnx", "--output-dir", "d", "--resume"), "give one of them"),
    (("optimize", "ZOO", "--baseline", "r.json"), "--baseline compares one model"),
    (("inspect", "ZOO", "--explain", "*"), "--explain is for one model"),
    (("optimize", "ZOO", "--report", "r.pdf"), "names no form of report"),
    (("optimize", "ZOO", "--report", "A.json", "--jobs", "0"), "--jobs"),
    (("optimize", "A", "A2", "--output-dir", "d"), "would both be written"),
]


@pytest.mark.parametrize(("words", "says"), WRONG)
def test_what_is_about_one_model_is_refused_for_several(
    tmp_path: Path, words: tuple[str, ...], says: str
) -> None:
    named = {"ZOO": tmp_path / "zoo", "A": tmp_path / "zoo" / "a.onnx", "A2": tmp_path / "zoo2" / "a.onnx"}
    save(named["A"])
    save(named["A2"])
    done = call(*(named.get(word, word) for word in words))
    assert done.exit_code == 2
    assert says in " ".join(done.stderr.split())


def test_one_path_is_told_as_it_always_was(tmp_path: Path) -> None:
    """The same document; in a folder of results where one is named."""
    model = save(tmp_path / "a.onnx")
    done = call("optimize", model, "--output-dir", tmp_path / "out", "--json", "--no-verify", "--no-bench")
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["schema"] == "bnfuse.report/1"
    assert document["output"]["path"] == str(tmp_path / "out" / "a.fused.onnx")


@pytest.mark.parametrize("fused", [False, True])
def test_check_is_a_gate_over_all_of_them(tmp_path: Path, fused: bool) -> None:
    save(tmp_path / "a.onnx", norm=not fused)
    save(tmp_path / "b.onnx", norm=False)
    done = call("optimize", tmp_path, "--check", "--json")
    document = json.loads(done.stdout)
    assert (done.exit_code, document["exit_code"]) == ((0, 0) if fused else (1, 1))
    assert [one["exit_code"] for one in document["reports"]] == [done.exit_code, 0]
    assert not (tmp_path / "a.fused.onnx").exists()
    assert done.stderr.count("can be folded (--check)") == (0 if fused else 1)


def test_a_terminal_gets_one_table(tmp_path: Path) -> None:
    save(tmp_path / "a.onnx")
    save(tmp_path / "b.onnx", relu_first=True)
    done = call("inspect", tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert done.exit_code == 0
    assert done.stdout.startswith("2 models: 2 done; 1 of 2 BatchNormalizations can be folded\n")
    assert done.stdout.count("looked at") == 2
