#!/usr/bin/env bash
# fsspec: asking a web server that has no ranges for bytes 10 to 20 of a file gives the whole file, in silence.
#
# `cat_file(url, start=10, end=20)` sends a Range header; a server that knows of none (Python's http.server, many
# plain ones) answers 200 with everything, and everything is returned: 200 bytes for 10, from the wrong place.
# `cat_ranges` does the same. `open(url)` with a seek raises ValueError, and `info` says nothing on ranges either
# way. So whoever reads a model's header by range must check the length of what came. Exits 0 where that is so,
# 1 where it changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet fsspec==2026.9.0 aiohttp==3.14.5
cd "$folder" && "$folder/venv/bin/python" - <<'PYTHON'
import functools
import pathlib
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import fsspec


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *words):
        pass


pathlib.Path("web").mkdir()
pathlib.Path("web", "file").write_bytes(bytes(range(200)))
server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory="web"))
threading.Thread(target=server.serve_forever, daemon=True).start()
address = f"http://127.0.0.1:{server.server_port}/file"
fs = fsspec.filesystem("http")
part = fs.cat_file(address, start=10, end=20)
parts = fs.cat_ranges([address], [10], [20])
try:
    with fs.open(address) as file:
        file.seek(10)
        opened = f"{len(file.read(10))} bytes"
except ValueError as error:
    opened = f"ValueError: {error}"
print("fsspec", fsspec.__version__, "bytes 10 to 20 of 200:")
print("  cat_file:", len(part), "bytes, the first is", part[0])
print("  cat_ranges:", [len(each) for each in parts], "bytes")
print("  open, seek, read:", opened)
print("  info tells of ranges:", "partial" in fs.info(address))
silent = len(part) == 200 and len(parts[0]) == 200 and opened.startswith("ValueError")
sys.exit(not (silent and "partial" not in fs.info(address)))
PYTHON
