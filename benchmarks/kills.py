"""Kills ``bnfuse optimize`` at every step and at any moment: is the output whole, is anything left behind?

    python -m benchmarks.kills [--kills 300] [--seed 0]

For one ONNX file, one with its weights beside it, and both kinds of Keras files, over an older result, over
the same, over none and over a link: the command runs in a forked process that is ended by SIGKILL before each
call that changes a name, a mode or a file (by an audit hook), and, for the rest of the kills, after a time
drawn by chance. Then the output must be the old one or the new one, byte by byte, each with its own weights,
and after the next run nothing else may lie in the folder. Also: files that may not grow beyond a limit, a
full file system where one may be mounted, a folder of another user, and several runs with one target beside a
reader.
"""

from __future__ import annotations

import argparse
import encodings.cp437  # noqa: F401 - of zip, where another user may not read it
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import bnfuse.formats.keras.edit.write
import bnfuse.formats.onnx.edit.write
import bnfuse.use_cases.optimize  # noqa: F401 - so that a fork has all it needs
from bnfuse.cli import main as command_line
from tests.keras_handmade import dense, legacy, make_archive, norm
from tests.onnx_graphs import Net

_STEPS = {
    "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.truncate",
    "open", "fcntl.flock", "shutil.rmtree", "shutil.move",
}  # fmt: skip
_NOBODY = 65534
_RESULTS = ("an older result", "the same result")  # that are at the target
_SIDE = re.compile(rb"out\.onnx\.[0-9a-f]{12}\.data")
_WRONG = re.compile("WRONG|mixture|next run")
Content = dict[str, bytes]  # file by name


# Models


def _onnx(path: Path, seed: int, *, beside: bool = False) -> Path:
    net = Net(seed)
    x = net.bn(net.conv("x", 16, 32, 3, 3, group=1), 32)
    made = net.build({"x": (1, 16, 8, 8)}, net.op("Tanh", net.bn(net.conv(x, 32, 32, 3, 3, group=1), 32)))
    place = f"{path.stem}.bin"
    onnx.save_model(made, path, save_as_external_data=beside, location=place, size_threshold=0)
    return path


def _keras(path: Path, seed: int) -> Path:
    rng, n = np.random.default_rng(seed), 48
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    vectors = {name: rng.uniform(0.5, 2, n).astype("f4") for name in names}
    layers = [dense("d", units=n), norm("n")]
    layers[0]["config"]["batch_input_shape"] = [None, n]
    kernel = {"kernel": rng.normal(size=(n, n)).astype("f4"), "bias": np.ones(n, "f4")}
    if path.suffix == ".h5":
        return legacy(path, layers, {"d": kernel, "n": vectors})
    arrays = {f"layers/dense/vars/{k}": a for k, a in enumerate(kernel.values())}
    arrays |= {f"layers/batch_normalization/vars/{k}": a for k, a in enumerate(vectors.values())}
    return make_archive(path, layers, arrays)


@dataclass(frozen=True)
class Case:
    """A kind of model."""

    name: str
    suffix: str
    make: Callable[[Path, int], Path]


CASES = (
    Case("ONNX", ".onnx", _onnx),
    Case("ONNX with weights beside it", ".onnx", lambda path, seed: _onnx(path, seed, beside=True)),
    Case("Keras archive", ".keras", _keras),
    Case("Keras HDF5", ".h5", _keras),
)


class Place:
    """A folder with two models, and one target beside them."""

    def __init__(self, case: Case, folder: Path) -> None:
        self.case, self.out = case, folder / "out"
        self.out.mkdir(parents=True)
        self.target = self.out / f"out{case.suffix}"
        self.models = [case.make(folder / f"in{k}{case.suffix}", k) for k in range(2)]
        self.results: list[Content] = []
        for k in range(2):
            code, said = self.run(k)
            assert code == 0, said
            self.results.append(self.content())
            self.clear()
        assert self.results[0] != self.results[1]

    def run(self, which: int, before: Callable[[], object] = lambda: None) -> tuple[int, str]:
        """The command in a forked process, after ``before``: its exit code, below 0 for a signal; stderr."""
        pid, told = self.start(which, before)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with told:
            told.seek(0)
            return code, told.read().decode("utf-8", "replace")

    def start(self, which: int, before: Callable[[], object] = lambda: None) -> tuple[int, Any]:
        """The process, and the file that its stderr goes to."""
        told = tempfile.TemporaryFile()  # noqa: SIM115 - closed by whoever waits
        pid = os.fork()
        if pid:
            return pid, told
        code, errors = 99, StringIO()
        try:
            arguments = ["optimize", self.models[which], "-o", self.target, "--force"]
            with redirect_stdout(StringIO()), redirect_stderr(errors):
                before()
                command_line(list(map(str, [*arguments, "--no-verify", "--no-bench"])))
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 98
        finally:
            try:
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
                os.write(told.fileno(), errors.getvalue().encode())
            finally:
                os._exit(code)

    def content(self) -> Content:
        """What is in the folder, hidden files too."""
        return {
            str(path.relative_to(self.out)): path.read_bytes()
            for path in self.out.rglob("*")
            if path.is_file() and not path.is_symlink()
        }

    def seen(self) -> str:
        """What a reader finds at the target."""
        try:
            model = self.target.read_bytes()
        except OSError:
            return "nothing"
        named = {name.decode(): self.out / name.decode() for name in _SIDE.findall(model)}
        try:
            found = {self.target.name: model, **{name: path.read_bytes() for name, path in named.items()}}
        except FileNotFoundError:
            return "weights that are gone"
        return ("old", "new")[self.results.index(found)] if found in self.results else "a mixture"

    def clear(self) -> None:
        """Leave the folder empty."""
        shutil.rmtree(self.out)
        self.out.mkdir()

    def prepare(self, over: str) -> None:
        """Nothing at the target, an older result, the very result, or a link to a precious file."""
        self.clear()
        (self.out.parent / "precious").write_bytes(b"precious")
        if over == "a link":
            self.target.symlink_to(self.out.parent / "precious")
        elif over in _RESULTS:
            for name, data in self.results[_RESULTS.index(over)].items():
                (self.out / name).write_bytes(data)


# Kills


def _die_at(step: int) -> Callable[[], None]:
    """End this process before its step of a number."""

    def armed() -> None:
        steps = count(1)

        def hook(event: str, given: tuple[Any, ...]) -> None:
            writes = event != "open" or bool((given[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            if event in _STEPS and writes and next(steps) == step:
                os.kill(os.getpid(), signal.SIGKILL)

        def told(name: str) -> Callable[..., Any]:
            real = getattr(os, name)

            def call(*given: Any) -> Any:
                sys.audit("os.rename", *given)  # counts as a step
                return real(*given)

            return call

        for name in ("write", "fsync"):  # of which no hook hears
            setattr(os, name, told(name))
        sys.addaudithook(hook)

    return armed


def _judge(place: Place, over: str, found: Counter[str]) -> None:
    seen = place.seen()
    precious = (place.out.parent / "precious").read_bytes() == b"precious"
    link = over == "a link" and place.target.is_symlink() and precious
    allowed = {"an older result": ("old", "new"), "nothing": ("nothing", "new")}.get(over, ("new",))
    ok = precious and (link or seen in allowed)
    found["old" if link or seen == "nothing" else seen if ok else f"WRONG: {seen}"] += 1
    found["left behind by the kill"] += any(path.name.startswith(".") for path in place.out.iterdir())
    code, said = place.run(1)
    left = [path.name for path in place.out.iterdir() if path.name not in place.results[1]]
    found["left after the next run"] += bool(code or left or place.content() != place.results[1])
    if code:
        print(f"the next run ended with {code}: {said}")


def kills(place: Place, wanted: int, rng: random.Random) -> Counter[str]:
    """Kill at every step, over each kind of target, and then at any moment."""
    found = Counter[str]()
    for over in (*_RESULTS, "nothing", "a link"):
        for step in count(1):
            place.prepare(over)
            code, said = place.run(1, _die_at(step))
            if code == 0:
                break
            assert code == -signal.SIGKILL, (code, said)
            found["at a step"] += 1
            _judge(place, over, found)
    place.prepare("an older result")
    begin = time.monotonic()
    place.run(1)
    took = time.monotonic() - begin
    while found["at a step"] + found["at any moment"] < wanted:
        place.prepare("an older result")
        pid, told = place.start(1)
        time.sleep(rng.random() * took)
        os.kill(pid, signal.SIGKILL)
        told.close()
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) < 0:
            found["at any moment"] += 1
            _judge(place, "an older result", found)
    return found


# Disks, users, several runs


def _limit(size: int) -> Callable[[], None]:
    def armed() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    return armed


def full_disk(place: Place) -> Counter[str]:
    """Files may not grow beyond a limit, at some forty places of each result."""
    found, whole = Counter[str](), max(map(len, place.results[1].values()))
    for size in range(0, whole + 2048, max(1, whole // 40)):
        place.prepare("an older result")
        code, said = place.run(1, _limit(size))
        _told(place, code, said, found)
    return found


def _told(place: Place, code: int, said: str, found: Counter[str]) -> None:
    whole = place.content() == place.results[code == 0]
    sentence = code == 0 or (
        code == 2 and said.count("\n") == 1 and "cannot be written: the disk is full" in said
    )
    found[("written" if code == 0 else "refused") if whole and sentence else f"WRONG: {code} {said}"] += 1


def full_file_system(case: Case, folder: Path) -> Counter[str]:
    """A file system of so many pages, mounted for it: nothing where one may not be."""
    found, place = Counter[str](), Place(case, folder)
    pages = sum(map(len, place.results[1].values())) // 4096
    for more in range(4, pages + 16, max(1, pages // 12)):
        place.clear()
        size = f"size={4 * (more + sum(-(-len(d) // 4096) for d in place.results[0].values()))}k"
        if subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", place.out], check=False).returncode:
            return found
        try:
            for name, data in place.results[0].items():
                (place.out / name).write_bytes(data)
            _told(place, *place.run(1), found)
        finally:
            subprocess.run(["umount", place.out], check=True)
    return found


def read_only(place: Place) -> Counter[str]:
    """A folder of root's, as nobody."""
    place.prepare("an older result")
    for path in (place.out, *place.out.parents[:1]):
        path.chmod(0o555)

    def nobody() -> None:
        os.setgroups([])
        os.setgid(_NOBODY)
        os.setuid(_NOBODY)

    code, said = place.run(1, nobody)
    place.out.chmod(0o755)
    place.out.parent.chmod(0o755)
    whole = place.content() == place.results[0] and code == 2 and "cannot be written to" in said
    return Counter({"refused" if whole else f"WRONG: {code} {said}": 1})


def together(place: Place, rounds: int) -> Counter[str]:
    """Four runs of two models with one target, and a reader that looks all the time."""
    found = Counter[str]()
    place.prepare("an older result")
    for _ in range(rounds):
        running = dict(place.start(k % 2) for k in range(4))
        while running:
            found[f"seen: {place.seen()}"] += 1
            for pid, told in list(running.items()):
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    told.seek(0)
                    code = os.waitstatus_to_exitcode(status)
                    found["runs" if code == 0 else f"WRONG: {code} {told.read()!r}"] += 1
                    told.close()
                    del running[pid]
        found["in the end whole and alone" if place.content() in place.results else "WRONG: in the end"] += 1
    return found


def main() -> None:
    """Try all of it; exit 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=400, help="of all kinds of models together")
    parser.add_argument("--rounds", type=int, default=25, help="of several runs with one target")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    wrong, rng = 0, random.Random(asked.seed)
    with tempfile.TemporaryDirectory(prefix="bnfuse-kills-") as folder:
        Path(folder).chmod(0o755)
        for k, case in enumerate(CASES):
            place = Place(case, Path(folder) / f"{k}")
            found = {
                "killed": kills(place, asked.kills // len(CASES), rng),
                "files of a limited size": full_disk(place),
                "a full file system": full_file_system(case, Path(folder) / f"{k} mounted"),
                "a folder of another user": read_only(place) if os.geteuid() == 0 else Counter[str](),
                "four runs, one target": together(place, asked.rounds),
            }
            for what, counts in found.items():
                print(
                    f"{case.name}: {what}: " + ", ".join(f"{n} {how}" for how, n in counts.items()),
                    flush=True,
                )
                wrong += sum(
                    n for how, n in counts.items() if "WRONG" in how or "mixture" in how or "next run" in how
                )
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
