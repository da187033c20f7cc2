"""What commands do besides what they are for: a process with an audit hook notes it.

Noted is what Python opens and writes outside a folder, imports of runtimes, and what is started. The folder's
parent holds a file "control", and what is noted of reading that says that the hook sees.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.command import PATIENCE_S

_WITNESS = r"""
import json, os, re, sys
from pathlib import Path
from click.testing import CliRunner
from bnfuse.cli import main
import bnfuse, bnfuse.use_cases.optimize, bnfuse.formats.keras.runtime.run, h5py
files, commands = json.loads(sys.argv[1])
inside, noted, now = os.path.realpath(sys.argv[2]), [], ""
starts = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty",
          "socket.connect", "socket.getaddrinfo", "urllib.Request", "pickle.find_class",
          "shutil.rmtree", "os.symlink", "os.link"}
runtimes = {"keras", "tensorflow", "tf_keras", "torch", "jax", "bnfuse_canary", "pickle_canary"}
homes = tuple(map(os.path.realpath, (sys.prefix, sys.base_prefix, os.getcwd())))

def hook(event, given):
    if not now:
        return
    if event == "subprocess.Popen" and re.search(r"bnfuse\.formats\.\w+\.runtime\.child", str(given[1])):
        return  # the runtime starts while the file is folded, and waits to be told of a model
    if event in starts and not str(given[0]).startswith(inside):
        noted.append([now, event, str(given[0])])
    elif event == "import" and given[0].partition(".")[0] in runtimes:
        noted.append([now, event, given[0]])
    elif event == "open" and isinstance(given[0], str):
        path, writes = os.path.realpath(given[0]), bool((given[2] or 0) & (os.O_WRONLY | os.O_RDWR))
        cached = path.endswith(".pyc") or ".pyc." in path
        read = path.startswith(homes) or path.startswith(("/proc/", "/sys/", "/dev/"))
        if not path.startswith(inside) and not cached and (writes or not read):
            noted.append([now, "write" if writes else "open", path])

sys.addaudithook(hook)
codes = {}
for name, file in files.items():
    target = os.path.join(inside, "out", "out" + Path(file).suffix)
    for command in commands:
        first, *options = command.split()
        now = f"{name}: {command}"
        given = [file, file] if first in ("verify", "diff") else [file]
        arguments = [first, *given, *options, *(["-o", target, "--force"] if first == "optimize" else [])]
        done = CliRunner().invoke(main, arguments)
        now = ""
        left = os.listdir(os.path.dirname(target))
        codes.setdefault(name, {})[command] = [done.exit_code, left, done.stderr.strip()]
        for one in left:
            os.remove(os.path.join(inside, "out", one))
now = "control"
try:
    open(os.path.join(os.path.dirname(inside), "control"), "rb").close()
    import pickle_canary
except ImportError:
    pass
now = ""
print(json.dumps([codes, noted]))
"""

Witnessed = tuple[dict[str, Any], list[list[str]]]  # by file and command (code, what it wrote, stderr); notes


def watched(files: Mapping[str, str], inside: Path, commands: Iterable[str]) -> Witnessed:
    """Run every command on every file (by what it is called); they may write into ``inside / "out"``."""
    (inside.parent / "control").write_bytes(b"")
    done = subprocess.run(
        [sys.executable, "-c", _WITNESS, json.dumps([files, list(commands)]), inside],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "TMPDIR": str(inside)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,  # a pipe that is opened blocks for ever
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    codes, noted = json.loads(done.stdout.splitlines()[-1])
    return codes, noted
