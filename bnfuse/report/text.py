"""The words and figures that all forms of a report share, as plain text without markup.

Nothing here is escaped for a particular form; ``plain`` alone makes model strings harmless to a
terminal, a log and an XML parser.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bnfuse.report.sizes import inputs
from bnfuse.results import Status
from bnfuse.results.figures import digits, signed_percent

if TYPE_CHECKING:
    from bnfuse.core.decisions import Fold
    from bnfuse.results import (
        Agreement,
        BenchRun,
        FileInfo,
        Latency,
        Machine,
        OutputAgreement,
        Report,
        Typical,
    )

SHOWN_NAMES = 3
_AFFINES = "per-channel Mul/Add/Sub/Div"
# A name longer than this is cut in the middle wherever it is only a label.
_MOST_LABEL = 160


def plain(text: str) -> str:
    r"""``text`` without anything that is not printed: control characters and the like, as ``\\x1b``.

    ``##[`` is broken up, which a GitHub runner's log would take for a command.
    """
    visible = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return visible.replace("##[", "# #[")


def shortened(value: str, most: int = _MOST_LABEL) -> str:
    """``value``, its middle left out where it is long: both ends of a node's name tell something."""
    if len(value) <= most:
        return value
    head = (most - 1) // 2
    return f"{value[:head]}…{value[len(value) - (most - 1 - head) :]}"


def sentence(value: str) -> str:
    """``value`` beginning with a capital letter."""
    return value[:1].upper() + value[1:]


def verb(action: str, *, done: bool) -> str:
    """What is said of ``folded`` and ``kept``: a plan alone has folded nothing."""
    return "foldable" if action == "folded" and not done else action


def went(fold: Fold, *, done: bool) -> str:
    """Where a node went, or would go."""
    return f"{verb('folded', done=done)}{fold.message.removeprefix('folded')}"


def names(every: Sequence[str], limit: int = SHOWN_NAMES) -> str:
    """``a, b, c and 5 more``."""
    return ", ".join(map(shortened, every[:limit])) + more(every, limit)


def more(every: Sequence[str], limit: int = SHOWN_NAMES) -> str:
    """`` and 5 more`` behind the first ``limit`` names, "" where there are no more."""
    return f" and {len(every) - limit} more" if len(every) > limit else ""


def counts(report: Report) -> list[tuple[str, str]]:
    """(what, how many of them were folded and kept), for each kind that there is."""
    kinds = (("BatchNormalization", True), (_AFFINES, False))
    every = [(what, *report.plan.counts(batchnorm=batchnorm)) for what, batchnorm in kinds]
    partly = len(report.plan.narrowed)
    in_part = f", {partly} of them only on a part of their work" if partly else ""
    done = participle(report)
    told = [
        (what, f"{folded} of {found} {done}, {kept} kept" + (in_part if what != _AFFINES else ""))
        for what, found, folded, kept in every
        if found
    ]
    return told or [("BatchNormalization", "none in the model")]


def participle(report: Report) -> str:
    """``folded`` where a result was written, else ``can be folded``."""
    return "folded" if report.output is not None else "can be folded"


def headline(report: Report) -> str:
    """One sentence: how many went, or can go."""
    found, folded, _ = report.plan.counts(batchnorm=True)
    _, affines, _ = report.plan.counts(batchnorm=False)
    partly = len(report.plan.narrowed)
    if not (folded or affines or partly):
        if not found:
            return "nothing to fold: the model has no BatchNormalization"
        stays = "the one BatchNormalization stays" if found == 1 else f"all {found} BatchNormalizations stay"
        return f"nothing could be folded: {stays}"
    kinds = [f"{folded} of {found} BatchNormalizations"] if found else []
    kinds += [f"{affines} {_AFFINES}"] if affines else []
    none = "" if found else " (the model has no BatchNormalization)"
    said = f"{' and '.join(kinds)} {participle(report)}{f', {partly} in part' if partly else ''}{none}"
    if report.output is None and report.verification.status in (Status.DIFFERENT, Status.INCONCLUSIVE):
        return f"nothing was written, as the result was not proved equal: {said}"
    return said


def operator_rows(before: Mapping[str, int], after: Mapping[str, int]) -> list[tuple[str, int, int]]:
    """(operator, before, after) where the number changed, then the total of all; [] where none did."""
    every = [(op, before.get(op, 0), after.get(op, 0)) for op in {*before, *after}]
    changed = sorted((row for row in every if row[1] != row[2]), key=lambda row: (row[2] - row[1], row[0]))
    return [*changed, ("all nodes", sum(before.values()), sum(after.values()))] if changed else []


def change(before: int, after: int) -> str:
    """``+3`` or ``−2``."""
    return f"{after - before:+d}".replace("-", "−")


def called(file: FileInfo) -> str:
    """``model.onnx``; ``net.json with epoch2.weights.h5`` where its weights are a file of their own."""
    return " with ".join(file.names)


def size(total_bytes: int) -> str:
    """A size in decimal units: ``102.4 MB``."""
    amount, unit = float(total_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if amount < 999.95:
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.4g} {unit}"


def size_change(before: FileInfo, after: FileInfo | None) -> str:
    """``102.4 MB → 102.3 MB (−0.1 %)``, or only the first where nothing was written.

    Where it is known what the files are made of, weights come first, for the rest is no part of the model:
    ``weights 102.1 MB → 102 MB (−0.1 %); file 102.4 MB → 102.3 MB (−0.1 %), of which structure and names …``.
    """
    if after is None:
        return size(before.total_bytes)
    whole = bytes_change(before.total_bytes, after.total_bytes)
    if before.weight_bytes is None or after.weight_bytes is None:
        return whole
    others = (
        ("optimiser's state", before.state_bytes or None, after.state_bytes),
        ("structure and names", before.container_bytes, after.container_bytes),
    )
    rest = [f"{what} {size(b)} → {size(a)}" for what, b, a in others if b is not None and a is not None]
    parts = f", of which {', '.join(rest)}" if rest else ""
    return f"weights {bytes_change(before.weight_bytes, after.weight_bytes)}; file {whole}{parts}"


def bytes_change(before: int, after: int) -> str:
    """``102.4 MB → 102.3 MB (−0.1 %)``, ``102.4 MB, unchanged``; from twice the size on a factor."""
    if after == before:
        return f"{size(before)}, unchanged"
    return f"{size(before)} → {size(after)} ({growth(before, after)})"


def growth(before: int, after: int) -> str:
    """``−0.1 %``; from twice the size on ``108 times as large``."""
    ratio = after / max(1, before)
    change = signed_percent(ratio - 1)
    return f"{digits(ratio)} times as large" if ratio >= 2 else change


_OUTCOMES = {
    Status.EQUAL: "equal",
    Status.DIFFERENT: "DIFFERENT",
    Status.INCONCLUSIVE: "inconclusive",
    Status.SKIPPED: "not verified",
}


def outcome(agreement: Agreement) -> str:
    """``equal``, or ``equal on 1 of 8 planned input sets (time)``: less evidence is told in other words."""
    said = _OUTCOMES[agreement.status]
    if agreement.status is not Status.EQUAL or not agreement.partial:
        return said
    why = f" ({agreement.cut})" if agreement.cut else " (the others stop the original)"
    return f"{said} on {agreement.samples} of {agreement.planned} planned input sets{why}"


def proof(agreement: Agreement) -> str:
    """One sentence: was it proved, on what, how closely; for other sizes of inputs nothing was shown."""
    said, ran = outcome(agreement), agreement.status is not Status.SKIPPED
    if agreement.status in (Status.EQUAL, Status.DIFFERENT):
        said += _closeness(agreement)
    if ran and agreement.inputs:
        said += f", for {inputs(agreement.inputs)}"
    return "; ".join(filter(None, (said, agreement.evidence if ran else "", agreement.detail)))


def worst_output(agreement: Agreement) -> OutputAgreement:
    """The output that comes closest to its tolerance, or exceeds it most; NaN counts as worst."""

    def used(output: OutputAgreement) -> float:
        if output.tolerance > 0 and output.max_rel >= 0:
            return output.max_rel / output.tolerance
        return 0.0 if output.max_rel == 0 else math.inf

    return max(agreement.outputs, key=used)


def _closeness(agreement: Agreement) -> str:
    if not agreement.outputs:
        return ""
    worst = worst_output(agreement)
    if math.isnan(worst.max_rel) and not math.isnan(worst.max_abs):  # there is no range
        return ""
    if worst.tolerance == 0:  # integers, booleans, text
        if worst.max_rel == 0 or not math.isfinite(worst.max_rel):
            return "" if worst.max_rel else ", value by value"
        return f": {digits(100 * worst.max_rel, 2)} % of the values of '{worst.name}' differ (allowed: none)"
    allowed = f"(allowed: {worst.tolerance:.2g})"
    if agreement.status is Status.EQUAL and worst.max_rel == 0:
        return "" if agreement.detail or agreement.partial else ", value by value"
    if agreement.status is Status.EQUAL:
        return f", within {worst.max_rel:.2g} of the output's range {allowed}"
    return f": off by {digits(worst.max_rel, 2)} of the range of '{worst.name}' {allowed}"


def milliseconds(value: float) -> str:
    """Three significant digits: ``1.23 ms``, ``12.3 ms``, ``1230 ms``."""
    return f"{digits(value)} ms"


def duration(value: float) -> str:
    """Three significant digits: ``0.123 s``, ``54 s``, ``3725 s``."""
    return f"{digits(value)} s"


def typical(time: Typical | None) -> str:
    """``1.23 ms (1.21–1.25)``: the time, and its interval where there is one; "" for none."""
    if time is None:
        return ""
    ends = "" if time.ci95_ms is None else f" ({'–'.join(map(digits, time.ci95_ms))})"
    return milliseconds(time.ms) + ends


def setting(run: BenchRun, latency: Latency) -> str:
    """``optimisation on``, and its number of threads where they are not the same in all runs."""
    if len({one.threads for one in latency.runs}) < 2:
        return run.setting
    return f"{run.setting}, {threads(run.threads)}"


def threads(count: int) -> str:
    """``2 threads``."""
    return f"{count} thread{'s' if count != 1 else ''}"


def where(latency: Latency) -> str:
    """``cpu, 2 threads, CPUExecutionProvider``; the threads are left out where runs differ in them."""
    same = len({run.threads for run in latency.runs}) < 2
    return ", ".join([latency.device, *([threads(latency.threads)] if same else []), *latency.providers])


def rate(items_per_s: float) -> str:
    """``560`` items per second."""
    return digits(items_per_s)


def speedup(run: BenchRun) -> str:
    """``1.08× (1.06–1.10)``; no ratio without a verdict, and none whose interval tells nothing."""
    if run.told:
        assert run.speedup is not None and run.ci95 is not None
        return f"{run.speedup:.3f}× ({run.ci95[0]:.3f}–{run.ci95[1]:.3f})"
    return "" if run.precise or run.ci95 is None or run.detectable is None else "imprecise"


def seconds(report: Report) -> str:
    """``read 0.1 s, plan 0.0 s, …``."""
    return ", ".join(f"{phase} {spent:.2f} s" for phase, spent in report.seconds.items())


def hardware(machine: Machine, no_gpu: str = "") -> str:
    """``AMD EPYC, 2 processors, 25.28 GB, Linux x86_64``."""
    cores = f"{machine.processors} processor{'s' if machine.processors != 1 else ''}"
    memory = size(machine.memory_bytes) if machine.memory_bytes else ""
    parts = (machine.cpu or "unknown processor", cores, memory, machine.system, machine.gpu or no_gpu)
    return ", ".join(filter(None, parts))
