"""What a command was asked for, as one value; and the requests of the use cases that follow from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from msgspec import Struct

    from bnfuse.formats.base import ReadOptions
    from bnfuse.use_cases.bench import BenchRequest
    from bnfuse.use_cases.verify import VerifyRequest

NamedShapes = Mapping[str, tuple[int, ...]]


class Options:
    """The values of a command's options, as attributes."""

    def __init__(self, **values: Any) -> None:
        vars(self).update(values)

    def of(self, kind: type[Struct]) -> dict[str, Any]:
        """The values that a struct has fields for."""
        return {name: value for name, value in vars(self).items() if name in kind.__struct_fields__}


class Reading(Options):
    """How a model is read, what may be made of it, and which reports are wanted of it."""

    models: tuple[str, ...]
    recursive: bool
    jobs: int | None
    resume: bool
    cluster: str | None
    as_json: bool
    reports: tuple[Path, ...]
    strict_inputs: bool
    freeze_inputs: bool
    activations: Literal["keep", "move"]
    target: Literal["any", "no-bn"]
    keep: tuple[str, ...]
    equalize: bool
    allow_growth: bool
    round_bias: bool
    weights: Path | None

    @property
    def model(self) -> Path:
        """The one model, where there is but one."""
        return Path(self.models[0])

    @property
    def read(self) -> ReadOptions:
        """What to make of initializers that are also inputs, of activations, of the rest; what is to stay."""
        from bnfuse.formats.base import ReadOptions

        return ReadOptions(**self.of(ReadOptions))

    @property
    def details(self) -> bool:
        """Whether the graph around each decision and the weights of each layer are looked at, too."""
        if not self.reports:
            return False
        from bnfuse.report import wants_details

        return wants_details(self.reports)

    def check_reports(self) -> None:
        """Refuse reports that cannot be written.

        Raises:
            UsageError: of another form, or onto the model or its result.
        """
        if self.reports:
            from bnfuse.report import check_reports

            check_reports(self.reports, self.model, results=self.results)

    @property
    def results(self) -> tuple[Path, ...]:
        """Where something is written beside reports."""
        return ()


class Inspect(Reading):
    """What ``inspect`` was asked for."""

    pattern: str | None


class Running(Options):
    """On what models run: ``--inputs``, ``--shape``, ``--device``, ``--allow-unsafe``."""

    inputs: Path | None
    shape: NamedShapes
    device: str
    allow_unsafe: bool


class Proving(Running):
    """How to prove; ``verify_time`` bounds it, in seconds. ``labels`` are files by output name."""

    labels: Mapping[str, Path]
    batch: int | None
    threads: int | None
    verify_time: float

    def verify_request(self) -> VerifyRequest:
        """The same for the use case."""
        from bnfuse.use_cases.verify import VerifyRequest

        return VerifyRequest(**{**self.of(VerifyRequest), "threads": self.threads or 0})


class Measuring(Running):
    """How to measure; ``max_time`` bounds it, in seconds, ``precision`` is a fraction. ``profile`` adds the
    time by operator, ``cold`` starts in fresh processes.
    """

    precision: float
    max_time: float
    most_percent: float | None
    baseline: Path | None
    profile: bool
    cold: bool

    def bench_request(self, batches: tuple[int, ...], threads: tuple[int, ...]) -> BenchRequest:
        """The same for the use case."""
        from bnfuse.use_cases.bench import BenchRequest

        slower = None if self.most_percent is None else self.most_percent / 100
        several = {"batch": batches, "threads": threads, "fail_if_slower": slower}
        return BenchRequest(**{**self.of(BenchRequest), **several})


class Verify(Proving):
    """What ``verify`` was asked for."""

    a: Path
    b: Path
    weights: tuple[Path, ...]
    as_json: bool
    reports: tuple[Path, ...]


class Bench(Measuring):
    """What ``bench`` was asked for."""

    a: Path
    b: Path | None
    weights: tuple[Path, ...]
    as_json: bool
    reports: tuple[Path, ...]
    batch: tuple[int, ...]
    threads: tuple[int, ...]


class Diff(Options):
    """What ``diff`` was asked for."""

    a: Path
    b: Path
    weights: tuple[Path, ...]
    ignore_below: float
    ranges: bool
    exit_code: bool
    as_json: bool
    reports: tuple[Path, ...]


class Optimize(Reading, Proving, Measuring):
    """What ``optimize`` was asked for."""

    output: str | None
    output_dir: str | None
    force: bool
    dry_run: bool
    check: bool
    no_verify: bool
    no_bench: bool
    merge_affines: bool
    only_if_faster: bool

    @property
    def output_path(self) -> Path | None:
        """Where the one result goes; None for its default place."""
        if self.output is not None:
            return Path(self.output)
        if self.output_dir is None:
            return None
        from bnfuse.use_cases.many.targets import one_target

        return one_target(self.models[0], self.output_dir, self.weights)

    @property
    def results(self) -> tuple[Path, ...]:
        """The result of the one model."""
        if self.plan_only:
            return ()
        from bnfuse.files.staging import default_output

        return (self.output_path or default_output(self.model, self.model.suffix),)

    @property
    def plan_only(self) -> bool:
        """Whether nothing is written."""
        return self.dry_run or self.check

    @property
    def measures(self) -> bool:
        """Whether something was asked for that needs the measurement."""
        return (
            self.most_percent is not None
            or self.only_if_faster
            or self.baseline is not None
            or self.profile
            or self.cold
        )
