"""The wheel as somebody else installs it: all of it is there, and a strict type checker knows its types."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_BUILD = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"

RIGHT = '''
from pathlib import Path
from typing_extensions import assert_type
import bnfuse
import onnx

class Net:
    """As a live Keras model is, to a type checker."""
    name = "net"
    def save(self, filepath: object) -> None: ...
    def predict(self, x: object) -> object: ...

def fold(path: str, proto: onnx.ModelProto, raw: bytes, net: Net) -> str:
    report = bnfuse.optimize(path, verify_time=2.5, keep=["a*"], bench=False, shape={"x": (1, 3)})
    assert_type(report, bnfuse.Report[Path])
    assert_type(report.model, Path | None)
    assert_type(bnfuse.optimize(Path(path), Path("out.onnx"), activations="move").model, Path | None)
    assert_type(bnfuse.optimize(proto).model, onnx.ModelProto | None)
    assert_type(bnfuse.optimize(raw).model, bytes | None)
    assert_type(bnfuse.optimize(net).model, Net | None)
    with open(path, "rb") as file:
        assert_type(bnfuse.optimize(file).model, bytes | None)
    careful = bnfuse.VerifyRequest(verify_time=3, inputs="x.npz", labels={"y": Path("y.npy")})
    bnfuse.optimize(path, verify=careful, bench=bnfuse.BenchRequest(batch=(1, 8)), read=bnfuse.ReadOptions())
    assert_type(bnfuse.verify(path, proto, batch=4).equal, bool)
    assert_type(bnfuse.verify(path, raw).status, bnfuse.Status)
    latency = bnfuse.bench(path, threads=[1, 2], precision="1%")
    for run in latency.runs:
        assert_type(run.speedup, float | None)
    assert_type(bnfuse.diff(path, proto).to_markdown(), str)
    try:
        bnfuse.inspect(path, target="no-bn").save(Path("r.html"))
    except bnfuse.Unproved as error:
        return str(error.report.verification.detail)
    except bnfuse.BnfuseError as error:
        return str(int(error.exit_code))
    return report.to_json() + report.to_sarif()
'''
WRONG = {
    'bnfuse.optimize("m.onnx", verify_tim=1)': "Unexpected keyword argument",
    'bnfuse.optimize("m.onnx", verify_time="long")': "No overload variant",
    'bnfuse.optimize("m.onnx", activations="moved")': "No overload variant",
    "bnfuse.optimize(7)": "No overload variant",
    'bnfuse.diff("a", "b", batch=2)': "Unexpected keyword argument",
    'bnfuse.diff("a", "b").to_pdf()': 'has no attribute "to_pdf"',
    'bnfuse.optimise("m.onnx")': "has no attribute",
    "bnfuse.VerifyRequest(budget_s=3)": "Unexpected keyword argument",
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel in it, and what it depends on from this one."""
    pytest.importorskip("hatchling")
    made = tmp_path_factory.mktemp("wheel")
    built = subprocess.run(
        [sys.executable, "-c", _BUILD, made], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = made.glob("bnfuse-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert "bnfuse/py.typed" in names and "bnfuse/api/calls.py" in names
        assert {name.partition("/")[0].partition("-")[0] for name in names} == {"bnfuse"}
        packaged = {name for name in names if name.startswith("bnfuse/") and name.endswith(".py")}
        assert packaged == {path.relative_to(ROOT).as_posix() for path in (ROOT / "bnfuse").rglob("*.py")}
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", made / "venv"], check=True)
        (site,) = (made / "venv").rglob("site-packages")
        archive.extractall(site)
    others = [path for path in sys.path if path.endswith("site-packages")]
    (site / "others.pth").write_text("\n".join([sysconfig.get_path("purelib"), *others]) + "\n")
    return made / "venv"


def _python(venv: Path) -> Path:
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


@pytest.mark.slow
def test_the_wheel_runs_and_a_strict_type_checker_knows_it(installed: Path, tmp_path: Path) -> None:
    """Right use has no error under ``mypy --strict``, and each mistake has one, in its line."""
    pytest.importorskip("mypy")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    where = "import bnfuse; print(bnfuse.__file__, bnfuse.inspect(b'\\x08\\x08').input)"
    ran = subprocess.run(
        [_python(installed), "-c", where], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert "UnreadableModel" in ran.stderr and str(installed) in ran.stderr

    (tmp_path / "right.py").write_text(RIGHT)
    lines = [f"    {call}" for call in WRONG]
    (tmp_path / "wrong.py").write_text("import bnfuse\n\ndef wrong() -> None:\n" + "\n".join(lines) + "\n")
    options = ["--strict", "--python-executable", str(_python(installed)), "--cache-dir", "cache"]
    options += ["--python-version", "3.11", "--no-error-summary"]
    found = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "right.py", "wrong.py"],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    told = [line for line in found.stdout.splitlines() if ": error:" in line]
    assert not [line for line in told if not line.startswith("wrong.py")], found.stdout
    for at, (call, said) in enumerate(WRONG.items(), start=4):
        assert any(line.startswith(f"wrong.py:{at}:") and said in line for line in told), (call, found.stdout)
