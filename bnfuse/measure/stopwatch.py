"""How much of the time that a setting may take has gone by."""

from __future__ import annotations

import time

from msgspec import Struct


class Stopwatch(Struct):
    """The time of one pass: ``share_s`` is its setting's of the ``left_s`` seconds that there are for all.

    ``earlier_s`` is what its setting took in passes before, ``passes`` how many may come, this one included.
    """

    share_s: float
    left_s: float
    earlier_s: float
    passes: int
    begin: float | None = None
    counted_s: float = 0.0  # before it was stopped

    def start(self, *, all_at_once: bool) -> float:
        """Begin to count, or go on; returns the deadline."""
        self.begin = time.perf_counter()
        most_s = self.share_s / (1 if all_at_once else self.passes)
        return self.begin + min(most_s, self.share_s - self.counted_s)

    def stop(self) -> None:
        """What comes now does not count."""
        self.counted_s, self.begin = self.seconds(), None

    def seconds(self) -> float:
        """What was counted."""
        return self.counted_s + (0.0 if self.begin is None else time.perf_counter() - self.begin)

    def parts(self) -> tuple[float, float]:
        """How much of the time has gone by: of the setting's share, and of all that there is."""
        gone_s = self.earlier_s + self.seconds()
        share, whole = (gone_s / max(gone_s, self.earlier_s + s, 1e-9) for s in (self.share_s, self.left_s))
        return share, whole
