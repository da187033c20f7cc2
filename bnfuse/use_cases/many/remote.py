"""Models that are paths, and models that are addresses: one way to have either at hand.

A path is used where it is. What is behind an address (``s3://``, ``gs://``, ``https://``) is brought into a
temporary folder (``bringing``), and its result sent from another: the files with weights first, the model
last, so that a reader finds the old result or the new one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from glob import has_magic
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from msgspec import Struct
from msgspec.structs import replace

from bnfuse.errors import BnfuseError, OutputError, UnreadableModel, UsageError
from bnfuse.results.many import Outcome
from bnfuse.results.places import Address, is_address
from bnfuse.results.renamed import renamed
from bnfuse.use_cases.many.addresses import READ_ONLY, identity, is_web, name_of, store, store_errors
from bnfuse.use_cases.many.bringing import Bringing


class AtHand(Struct, frozen=True):
    """A model as a path, and where to write its result.

    ``parts`` are the names of its files where one of them is here in part only: there is no hash of it then.
    ``send`` puts what was written where it is to be; ``named`` makes an outcome speak of the places that the
    user knows.
    """

    model: Path
    output: Path | None
    parts: tuple[str, ...] = ()
    send: Callable[[], None] = lambda: None
    named: Callable[[Outcome], Outcome] = lambda outcome: outcome


@contextmanager
def at_hand(model: str, output: str | None, *, force: bool = False, runs: bool = True) -> Iterator[AtHand]:
    """Have a model at hand while the context lasts; a large one that nothing ``runs`` perhaps in part.

    Raises:
        UnreadableModel: nothing is there, or it is larger than may be brought here.
        OutputError: something is where the result is to go.
        RuntimeMissing: an address needs a package that is not installed.
    """
    if not is_address(model) and not is_address(output or ""):
        yield AtHand(Path(model), None if output is None else Path(output))
        return
    away = output is not None and is_address(output)
    with TemporaryDirectory(prefix="bnfuse-") as folder:
        source, made = Path(folder, "model"), Path(folder, "result")
        source.mkdir()
        made.mkdir()
        with ExitStack() as stack:
            stack.enter_context(_told_of(((source, model), (made, output or ""))))
            files: tuple[str, ...] = ()
            path = Path(model)
            if is_address(model):
                here = Bringing(model, source, stack, in_part=not runs)
                path, files = here.model(), here.parts()
            if output is None or not away:
                target = None if output is None else Path(output)
            else:
                _check_free(output, force=force)
                target = made / name_of(output)
            yield AtHand(
                path,
                target,
                files,
                lambda: _send(made, output or "") if away else None,
                lambda outcome: _named(outcome, model, output or ""),
            )


def listed(address: str, *, recursive: bool, wanted: Callable[[str], bool]) -> list[tuple[str, str]]:
    """(address, path below what was named) of every model that an address means.

    Raises:
        RuntimeMissing: it needs a package that is not installed.
    """
    fs, path = store(address)
    with store_errors(address):
        if has_magic(path) and not is_web(address):
            found = [match for match in fs.glob(path) if wanted(PurePosixPath(match).name)]
            return [(fs.unstrip_protocol(match), PurePosixPath(match).name) for match in sorted(found)]
        if is_web(address) or not fs.isdir(path):
            return [(address, name_of(address))]
        within = fs.find(path) if recursive else [e["name"] for e in fs.ls(path) if e["type"] == "file"]
    root = path.rstrip("/") + "/"
    below = sorted(match.removeprefix(root) for match in within)
    chosen = [name for name in below if wanted(PurePosixPath(name).name) and not _hidden(name)]
    if not chosen:
        deeper = "" if recursive else "; --recursive looks into the folders within it, too"
        raise UnreadableModel(f"{address} holds no model{deeper}")
    return [(fs.unstrip_protocol(root + name), name) for name in chosen]


def may_be_many(address: str) -> bool:
    """Whether an address may mean several models: a pattern, or what a store calls a folder."""
    if is_web(address):
        return False
    fs, path = store(address)
    with store_errors(address):
        return has_magic(path) or fs.isdir(path)


def check_writable(address: str) -> None:
    """Refuse to write where a store takes nothing.

    Raises:
        UsageError: it is read-only, such as ``https://``.
    """
    scheme = address.partition("://")[0].lower()
    if scheme in READ_ONLY:
        raise UsageError(
            f"nothing can be written to {scheme}:// addresses: give an --output-dir for the results"
        )


def _check_free(address: str, *, force: bool) -> None:
    fs, path = store(address)
    with _output_errors(address):
        taken = not force and fs.exists(path)
    if taken:
        raise OutputError(f"'{address}' exists: choose another output or overwrite it with --force")


def _send(folder: Path, address: str) -> None:
    """Everything that was written, the model last."""
    home, model = address.rpartition("/")[0], name_of(address)
    for path in sorted(folder.iterdir(), key=lambda path: path.name == model):
        if path.is_file():
            fs, place = store(f"{home}/{path.name}")
            with _output_errors(address):
                fs.put_file(str(path), place)


@contextmanager
def _output_errors(address: str) -> Iterator[None]:
    try:
        yield
    except BnfuseError:
        raise
    except Exception as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise OutputError(f"'{address}' cannot be written: {why}") from error


def _named(outcome: Outcome, model: str, output: str) -> Outcome:
    """The outcome with the addresses that the user knows in place of the temporary files."""
    if outcome.report is None:
        return outcome
    files = ((model, outcome.report.input), (output, outcome.report.output))
    names = {file.path: address for address, file in files if file is not None and is_address(address)}
    report = renamed(outcome.report, names)
    if is_address(model):
        report = replace(report, input=replace(report.input, path=Address(model)))
        outcome = replace(outcome, read=_marks(model.rpartition("/")[0], outcome.read))
    if is_address(output) and report.output is not None:
        report = replace(report, output=replace(report.output, path=Address(output)))
        outcome = replace(outcome, wrote=_marks(output.rpartition("/")[0], outcome.wrote))
    return replace(outcome, report=report)


def _marks(home: str, stamps: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """What the store says of these files in place of their hashes; () where it says too little."""
    marks = tuple((name, identity(f"{home}/{name}")) for name, _ in stamps)
    return marks if all(mark for _, mark in marks) else ()


@contextmanager
def _told_of(places: tuple[tuple[Path, str], ...]) -> Iterator[None]:
    """Errors speak of the places that the user knows, not of the folders that stand for them."""
    try:
        yield
    except BnfuseError as error:
        for folder, place in places:
            home = f"{place.rpartition('/')[0]}/"
            error.args = tuple(
                said.replace(f"{folder}/", home) if isinstance(said, str) else said for said in error.args
            )
        raise


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(name).parts)
