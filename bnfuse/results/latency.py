"""What a bench measured, and on what machine. Units are in the names (``_ms``, ``_bytes``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from msgspec import Struct, field

if TYPE_CHECKING:
    from bnfuse.results.inputs import RanInput


OFF, ON = "optimisation off", "optimisation on"  # settings, by whether the runtime's own is
LEAST_ROUNDS = 6  # with fewer there is no verdict, no interval, and no distribution
TOO_FEW = "too few runs to tell"  # the verdict where there is none
WIDEST = 1.5  # high/low of an interval beyond which a ratio tells nothing


class Percentiles(Struct, frozen=True):
    """Latency of one call, in milliseconds; ``least`` is the fastest call, None where it is not known."""

    p50: float
    p90: float
    p99: float
    least: float | None = None


class Typical(Struct, frozen=True):
    """The time of a call that other load disturbs little, in ms, with its 95 % interval.

    Of two models these are the times whose ratio the speed-up is, of one the median visit; ``ci95_ms`` is
    None where there are too few rounds to tell.
    """

    ms: float
    ci95_ms: tuple[float, float] | None = None


class ColdStart(Struct, frozen=True):
    """One model's starts in fresh processes, as medians over them, from process start to first answer.

    ``start_ms`` is the start of the process itself, ``runtime_ms`` importing the runtime, ``load_ms``
    loading the model, ``first_run_ms`` the first answer. ``peak_bytes`` is the most memory that was
    resident in the process (not on a GPU), None where the system does not tell.
    """

    start_ms: float
    runtime_ms: float
    load_ms: float
    first_run_ms: float
    peak_bytes: int | None


class Share(Struct, frozen=True):
    """What one ``cause`` (a noun phrase) contributes to a speed-up; the shares' product is the whole."""

    cause: str
    speedup: float
    ci95: tuple[float, float]
    verdict: str


class BenchRun(Struct, frozen=True):
    """One setting measured in interleaved rounds.

    ``speedup`` is before/after (above 1: the result is faster) of the ``…_typical`` times, ``ci95`` its
    bootstrap interval;
    ``control`` is the interval of the same ratio for the original against itself (A/A).
    ``after_ms``, ``speedup`` and ``ci95`` are None when only one model was timed; ``before_ci95_ms``, the
    interval of its median call, is there only then. ``pairs`` counts rounds, ``threads`` is 0 where not told.
    ``detectable`` is the least change, as a fraction, that these rounds would show in nine of ten cases.
    ``…_items_per_s`` is batch / p50, ``…_quantiles_ms`` are 41 evenly spaced quantiles of single calls, from
    the fastest to the slowest. Cold start alone has ``before_cold`` and ``after_cold``. ``inputs``
    are those of the original, with their sizes and which of these were guessed. ``shares`` are there where
    something beside folding makes the result faster, too.
    """

    setting: str
    batch: int
    before_ms: Percentiles
    after_ms: Percentiles | None = None
    speedup: float | None = None
    ci95: tuple[float, float] | None = None
    control: tuple[float, float] | None = None
    pairs: int = 0
    verdict: str = ""
    before_cold: ColdStart | None = None
    after_cold: ColdStart | None = None
    threads: int = 0
    before_ci95_ms: tuple[float, float] | None = None
    before_quantiles_ms: tuple[float, ...] = ()
    after_quantiles_ms: tuple[float, ...] = ()
    before_items_per_s: float | None = None
    after_items_per_s: float | None = None
    detectable: float | None = None
    inputs: tuple[RanInput, ...] = ()
    before_typical: Typical | None = None
    after_typical: Typical | None = None
    shares: tuple[Share, ...] = ()

    @property
    def few(self) -> bool:
        """Whether there are too few rounds for more than a time."""
        return self.pairs < LEAST_ROUNDS

    @property
    def told(self) -> bool:
        """Whether the ratio may be shown: there is a verdict, and an interval that is not too wide."""
        return self.verdict not in ("", TOO_FEW) and self.precise

    @property
    def precise(self) -> bool:
        """Whether the interval of the ratio is no wider than a factor of 1.5."""
        return self.ci95 is not None and 0 < self.ci95[1] <= WIDEST * self.ci95[0]


class OperatorTime(Struct, frozen=True):
    """What all nodes of one operator cost in one call, before and after: median over calls, and count."""

    op: str
    before_ms: float
    before_nodes: int
    after_ms: float | None = None
    after_nodes: int | None = None


class Profile(Struct, frozen=True):
    """Where the time of a call goes, and what ran where, as the runtime's own profiler tells it.

    The operators are those that really ran, the runtime's own fusions among them. ``before_ms`` and
    ``after_ms`` are the median of whole calls under the profiler, which slows them a little; what the
    operators do not add up to is spent between them. ``…_placed`` counts nodes by provider.
    """

    setting: str
    batch: int
    calls: int
    operators: tuple[OperatorTime, ...]
    before_ms: float
    before_placed: dict[str, int]
    after_ms: float | None = None
    after_placed: dict[str, int] | None = None


class Machine(Struct, frozen=True):
    """What a bench ran on. ``processors`` are those this process may use; ``gpu`` is "" where none ran."""

    cpu: str
    processors: int
    memory_bytes: int | None
    system: str
    gpu: str = ""


class BaselineRun(Struct, frozen=True):
    """One setting beside the same setting of an earlier report.

    ``then_ms`` and ``now_ms`` are p50. ``slowdown`` is the least one that the figures show, as a ratio:
    1.05 where all doubt taken away the model is still 5 % slower (``measure.baseline`` has the formula).
    ``basis`` says whether calls ("time") or gains over the same original ("speed-up") were compared.
    """

    setting: str
    batch: int
    threads: int
    then_ms: float
    now_ms: float
    slowdown: float
    basis: str


class Baseline(Struct, frozen=True):
    """A comparison with an earlier report; ``refusal`` says why nothing could be compared, else ""."""

    path: str
    runs: tuple[BaselineRun, ...] = ()
    refusal: str = ""
    notes: tuple[str, ...] = ()


class Latency(Struct, frozen=True):
    """What a bench measured, on what device and with how many threads.

    ``providers`` are those that really ran. ``notes`` are sentences the user should read. ``runtime``
    is what ran the models, with its version. ``profile`` is there where one was asked for and the
    runtime has one, ``baseline`` where an earlier report was given. ``versions``
    are those of the packages that ran the models.
    """

    device: str
    threads: int
    providers: tuple[str, ...]
    runs: tuple[BenchRun, ...]
    notes: tuple[str, ...] = ()
    runtime: str = ""
    machine: Machine | None = None
    profile: Profile | None = None
    baseline: Baseline | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
