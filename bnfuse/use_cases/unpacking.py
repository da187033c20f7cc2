"""A model that comes packed, or in several files, as a plain file for as long as it is worked on.

What is unpacked lies in a temporary folder; results and errors name what the user gave. The result of
``optimize`` is packed again and put into place as a whole, unless its name asks for a plain file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from os import PathLike
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from bnfuse.errors import OutputError, UnreadableModel, UsageError
from bnfuse.files.staging import check_folder, check_free, check_target, same_file, staging_folder
from bnfuse.files.stamps import watched
from bnfuse.packed import lacks_weights, packing_of, takes_weights
from bnfuse.packed.base import Packing
from bnfuse.results import FileInfo, Report
from bnfuse.results.renamed import Names, T, renamed, renamed_errors
from bnfuse.use_cases.provenance import sha256
from bnfuse.use_cases.targets import made_folder
from bnfuse.use_cases.unwritten import BatchNormsLeft, Unproved


class Opened(Struct, frozen=True):
    """A model as a plain file. ``packing`` is None where it is one anyway, and nothing is to be told anew."""

    path: Path
    packing: Packing | None = None

    @property
    def names(self) -> Names:
        """What stands for the plain file."""
        return {} if self.packing is None else {self.path: str(self.packing.path)}

    def told(self, found: T) -> T:
        """A result that names what the user gave."""
        return found if self.packing is None else renamed(found, self.names)

    def info(self, info: FileInfo) -> FileInfo:
        """What is told of the file: size and hash of what the user gave."""
        packing = self.packing
        if packing is None:
            return info
        return _info(info, packing.path, packing.files, weights=packing.weights)

    def report(self, report: Report) -> Report:
        """A report on what the user gave."""
        return report if self.packing is None else replace(self.told(report), input=self.info(report.input))


@contextmanager
def unpacked(path: Path, weights: str | PathLike[str] | None = None) -> Iterator[Opened]:
    """The model at ``path`` as a plain file.

    Raises:
        UsageError: ``weights`` for what is no architecture in JSON.
        UnreadableModel: it is damaged; or it changed meanwhile.
        UnsafeModel: it would grow out of proportion, or leads out of its place.
        OutputError: there is no room for it.
    """
    packing = packing_of(path, weights)
    if packing is None:
        yield Opened(path)
        return
    with _opened(packing) as opened:
        yield opened


@contextmanager
def unpacked_together(
    paths: Sequence[Path], weights: Sequence[str | PathLike[str]]
) -> Iterator[list[Opened]]:
    """Several models, each as a plain file; ``weights`` belong to the architectures in JSON, in their order.

    Raises:
        UsageError: there are more weights than architectures.
        UnreadableModel: there are fewer, and none of a like name.
        BnfuseError: as ``unpacked``.
    """
    left = list(weights)
    own = [left.pop(0) if left and takes_weights(path) else None for path in paths]
    if left:
        raise UsageError(
            f"--weights belong to an architecture in JSON, and there is none for '{left[0]}': give them once "
            "for each model that is one, in their order"
        )
    if any(own) and own[-1] is None and lacks_weights(paths[-1]):
        raise UnreadableModel(
            f"'{paths[0]}' and '{paths[-1]}' are architectures, and only one file of weights is given "
            f"('{own[0]}', for the first): give both, --weights FILE_OF_FIRST --weights FILE_OF_SECOND"
        )
    with ExitStack() as stack:
        yield [stack.enter_context(unpacked(path, file)) for path, file in zip(paths, own, strict=True)]


@contextmanager
def _opened(packing: Packing) -> Iterator[Opened]:
    from tempfile import TemporaryDirectory  # most models are not packed

    with TemporaryDirectory(prefix="bnfuse-") as folder, watched(*packing.files) as files:
        opened = Opened(packing.unpack(Path(folder)), packing)
        with renamed_errors(opened.names):
            try:
                yield opened
            except (Unproved, BatchNormsLeft) as error:
                error.report = opened.report(error.report)
                raise
            files.check()


def optimized(packing: Packing, output: Path | None, force: bool, run: Callable[..., Report]) -> Report:
    """``optimize`` on a packed model; ``run`` does it from a plain file to a plain file.

    Raises:
        BnfuseError: as ``run``, and as ``unpacked``.
    """
    target = output if output is not None else packing.default_output()
    with _opened(packing) as opened:
        if packing.path.is_dir():
            _check_outside(target, packing.path)
        if not packing.packs(target):
            return opened.report(run(opened.path, target, force=force))
        with made_folder(target):
            _check(target, packing, force=force)
            with staging_folder(target) as staging:
                report = _packed(opened, packing, target, staging, force=force, run=run)
    return opened.report(report)


def _packed(
    opened: Opened, packing: Packing, target: Path, staging: Path, *, force: bool, run: Callable[..., Report]
) -> Report:
    """Fold from plain file to plain file, pack the result, and put it into place."""
    from bnfuse.files.placing import place, place_folder

    plain, made = staging / f"plain{opened.path.suffix}", staging / "packed"
    names = {plain: str(target)}
    with renamed_errors(names):
        report = run(opened.path, plain, force=False)
        if report.output is None:
            return report
        made.mkdir()
        packed = packing.pack(plain, target, made)
        files = [path for one in packed for path in _within(one)]
        info = _info(report.output, target, files, weights=next(iter(packing.beside(target)), None))
        if packed[-1].is_dir():
            place_folder(packed[-1], target, packing.files)
        else:
            place(packed, target, packing.files, force=force)
        return replace(renamed(report, names), output=info)


def _check(target: Path, packing: Packing, *, force: bool) -> None:
    if not packing.path.is_dir():
        for path in (target, *packing.beside(target)):
            for own in packing.files:
                check_target(path, own, force=force)
        return
    if same_file(target, packing.path):
        raise UsageError(f"'{target}' is the input itself, which is never overwritten: choose another output")
    check_free(target, force=force)
    if os.path.lexists(target) and not (_is_model_folder(target)):
        raise OutputError(
            f"'{target}' is no folder with nothing but a Keras model in it, so it is not replaced: choose "
            "another output"
        )
    check_folder(target.parent)


def _check_outside(target: Path, folder: Path) -> None:
    if any(same_file(above, folder) for above in target.absolute().parents):
        raise UsageError(f"'{target}' lies in the input, in which nothing is written: choose another output")


def _is_model_folder(path: Path) -> bool:
    from bnfuse.packed.keras_folder import is_model_folder

    return path.is_dir() and is_model_folder(path)


def _within(path: Path) -> list[Path]:
    return [each for each in sorted(path.rglob("*")) if each.is_file()] if path.is_dir() else [path]


def _info(info: FileInfo, path: Path, files: Sequence[Path], *, weights: Path | None) -> FileInfo:
    """The same model as it lies there; a hash only where one was wanted."""
    digest, total = _digest(files) if info.sha256 else "", sum(file.stat().st_size for file in files)
    return replace(info, path=path, sha256=digest, total_bytes=total, weights_path=weights)


def _digest(files: Sequence[Path]) -> str:
    """SHA-256 of one file; of several, that of lines ``<SHA-256>  <name>``, as sha256sum writes them, sorted.

    Names are relative to the folder that holds all of them.
    """
    if len(files) == 1:
        return sha256(files[0])
    absolute = [file.parent.resolve() / file.name for file in files]
    root = Path(os.path.commonpath([file.parent for file in absolute]))
    lines = sorted(f"{sha256(file)}  {file.relative_to(root).as_posix()}\n" for file in absolute)
    import hashlib

    return hashlib.sha256("".join(lines).encode()).hexdigest()
