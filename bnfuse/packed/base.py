"""What a packed model is, and how its content is copied within bounds.

Sizes are not believed: what is unpacked may be a hundred times the packed file, or 256 MiB, and copying stops
before more is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO, ClassVar, Protocol

from msgspec import Struct

from bnfuse.errors import OutputError, UnreadableModel, UnsafeModel

_BLOCK_BYTES = 1 << 20
_FLOOR_BYTES, _RATIO = 1 << 28, 100  # as of the members of a .keras archive


class Packing(Protocol):
    """A model as it lies there: packed, or in several files."""

    path: Path
    files: Sequence[Path]  # all that is read
    form: str  # what it is, as a noun phrase

    @property
    def weights(self) -> Path | None:
        """The file of its weights, where they are not in ``path``."""

    def unpack(self, folder: Path) -> Path:
        """The model as one plain file in a fresh folder.

        Raises:
            UnreadableModel: it is damaged.
            UnsafeModel: it would grow out of proportion, or leads out of its place.
            OutputError: there is no room for it.
        """

    def default_output(self) -> Path:
        """Where the result goes if nobody says: a name beside the model."""

    def packs(self, target: Path) -> bool:
        """Whether a result of this name is to be packed, too; else it is a plain file."""

    def beside(self, target: Path) -> Sequence[Path]:
        """Other files than ``target`` that a packed result of this name has."""

    def pack(self, plain: Path, target: Path, folder: Path) -> Sequence[Path]:
        """The result, packed, in a fresh folder on the target's file system.

        Returns:
            Files as ``placing.place`` takes them, the one under the target's name last.

        Raises:
            OutputError: no space, no permission.
        """


class OneFile(Struct, frozen=True):
    """A packed model that is one file, told by its suffix; a result under another suffix is a plain one."""

    suffix: ClassVar[str]

    path: Path

    @property
    def files(self) -> Sequence[Path]:
        """The one file."""
        return (self.path,)

    @property
    def weights(self) -> None:
        """They are in it."""

    def packs(self, target: Path) -> bool:
        """By the suffix."""
        return target.suffix.lower() == self.suffix

    def beside(self, target: Path) -> Sequence[Path]:
        """None."""
        return ()


def most_bytes(packed: Path) -> int:
    """The most that may come out of a packed file, in bytes."""
    return max(_FLOOR_BYTES, _RATIO * packed.stat().st_size)


def bounded_copy(source: IO[bytes], target: Path, packed: Path, damage: tuple[type[Exception], ...]) -> None:
    """Copy what comes out of a packed file, as long as that is in proportion.

    Args:
        source: gives the content.
        target: where it goes.
        packed: the file that it comes from.
        damage: what ``source`` raises where that is damaged.

    Raises:
        UnsafeModel: it would grow out of proportion.
        UnreadableModel: it is damaged.
        OutputError: there is no room for it.
    """
    most, done = most_bytes(packed), 0
    try:
        with target.open("wb") as file:
            while block := _read(source, packed, damage):
                done += len(block)
                if done > most:
                    raise UnsafeModel(
                        f"'{packed}' would grow from {packed.stat().st_size} to more than {most} bytes when "
                        "unpacked; unpack it yourself if that is right"
                    )
                file.write(block)
    except OSError as error:
        from tempfile import gettempdir

        raise OutputError(
            f"'{packed}' cannot be unpacked into {gettempdir()} ({error.strerror}): free some "
            "space, or set TMPDIR to another folder"
        ) from error


def _read(source: IO[bytes], packed: Path, damage: tuple[type[Exception], ...]) -> bytes:
    try:
        return source.read(_BLOCK_BYTES)
    except damage as error:
        raise UnreadableModel(
            f"'{packed}' is damaged or cut off ({error}); fetch or save the file again"
        ) from error
