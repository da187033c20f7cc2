"""The child's end of ``bnfuse.formats.child.process``: answers requests until they end.

Keeps the pipes for itself: whatever a runtime or a model prints goes to stderr, and whoever reads
stdin finds it empty. Ends as soon as the requests end, even in the middle of a call.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path
from typing import IO

from bnfuse.formats.child.messages import Arrays, Head, read_message, write_message

Respond = Callable[[Head, Arrays], tuple[Head, Arrays]]


def serve(token: str, respond: Respond, prepare: Callable[[], None] = lambda: None) -> None:
    """Answer every request with one message. ``token`` goes ahead of the first: noise may precede it.

    ``respond`` answers an error with ``{"error": kind, "text": why}``. ``prepare`` comes before all requests.
    Neither raises anything.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program that started us
    _offer_to_the_system()
    requests, answers = _private_pipes()
    inbox: queue.SimpleQueue[tuple[Head, Arrays]] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(requests, inbox), daemon=True).start()
    answers.write(token.encode("ascii"))
    prepare()
    while True:
        _answer(answers, *respond(*inbox.get()))


def _answer(answers: IO[bytes], head: Head, results: Arrays) -> None:
    """Send an answer, of which nothing is held here when it is sent."""
    try:
        write_message(answers, head, results)
    except TypeError as error:
        write_message(answers, {"error": "run", "text": str(error)})


def _offer_to_the_system() -> None:
    """Where the whole machine runs out of memory, Linux ends this process rather than another."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def _private_pipes() -> tuple[BufferedReader, IO[bytes]]:
    """Our own ends of stdin and stdout; everybody else's stdout is stderr from now on."""
    requests, answers = os.dup(0), os.dup(1)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return os.fdopen(requests, "rb"), os.fdopen(answers, "wb")


def _receive(requests: BufferedReader, inbox: queue.SimpleQueue[tuple[Head, Arrays]]) -> None:
    """Pass requests on. When they end, so does the process, whatever it is doing."""
    try:
        while True:
            inbox.put(read_message(requests))
    finally:
        os._exit(0)
