"""Stores behind addresses (``s3://``, ``gs://``, ``https://``), through fsspec; their errors as sentences.

Credentials and endpoints are a store's own affair: variables of the environment, and its files.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from bnfuse.errors import BnfuseError, RuntimeMissing, UnreadableModel

READ_ONLY = ("http", "https")
_INSTALL = "pip install 'bnfuse[remote]'"
# What tells one content from another; the first that a store knows.
_MARKS = ("ETag", "etag", "md5Hash", "generation", "content_md5", "Last-Modified", "mtime", "LastModified")


def store(address: str) -> tuple[Any, str]:
    """The store's file system, and the path in it."""
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise RuntimeMissing(f"{address} needs fsspec, which is not here: {_INSTALL}") from error
    try:
        fs, path = url_to_fs(address)
    except ImportError as error:
        raise RuntimeMissing(f"{address} cannot be reached: {error} ({_INSTALL})") from error
    except ValueError as error:
        raise UnreadableModel(f"{address} cannot be reached: {error}") from error
    return fs, path


@contextmanager
def store_errors(address: str) -> Iterator[None]:
    """What a store's client raises, which may be anything, as one sentence."""
    try:
        yield
    except (BnfuseError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise UnreadableModel(f"{address} does not exist: check the address of the model") from error
    except Exception as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableModel(f"{address} cannot be read: {why}") from error


def identity(address: str) -> str:
    """What changes when the content does, as a store tells it; "" where it does not."""
    with suppress(Exception):  # a store that does not answer is told where the model is read
        fs, path = store(address)
        info = fs.info(path)
        mark = next((info[name] for name in _MARKS if info.get(name)), None)
        return f"{info.get('size')} {mark}" if mark is not None else ""
    return ""


def name_of(address: str) -> str:
    """The file's name; of a web address without what is asked of the server."""
    path = urlsplit(address).path if is_web(address) else address
    name = PurePosixPath(unquote(path) if is_web(address) else path).name
    if not name or name in (".", ".."):
        raise UnreadableModel(f"{address} names no file: give the address of a model")
    return name


def is_web(address: str) -> bool:
    """Whether it is one of the web, which is read-only and knows no folders."""
    return address.partition("://")[0].lower() in READ_ONLY
