"""The sentences of a proof beyond its one: what was allowed, what held between the folds, the user's labels.

Plain text without markup, as ``report.text``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bnfuse.report.text import names

if TYPE_CHECKING:
    from bnfuse.results import Accuracy, Agreement, SeamAgreement


def allowances(agreement: Agreement) -> list[str]:
    """Per origin of a tolerance one sentence: which outputs, how much of their range, and why."""
    by_basis: dict[tuple[float, str], list[str]] = {}
    for output in agreement.outputs:
        if output.basis:
            by_basis.setdefault((output.tolerance, output.basis), []).append(f"'{output.name}'")
    return [
        f"{_share(tolerance)} for {names(every)}: {basis}" for (tolerance, basis), every in by_basis.items()
    ]


def _share(tolerance: float) -> str:
    return f"{tolerance:.2g} of the range" if tolerance else "no difference"


def between_folds(agreement: Agreement) -> list[str]:
    """One sentence on what was compared between the folds; none where they are not known."""
    inside = agreement.inside
    if inside is None:
        return []
    values = "1 value" if inside.seams == 1 else f"{inside.seams} values"
    told = f"{inside.proved} of {inside.folds} proved by themselves{_kinds(inside)}, at {values} inside"
    if inside.worst and not inside.failing:
        told += f" (closest to its limit: {inside.worst}, at {100 * inside.share:.0f} % of it)"
    return ["; ".join((told, *inside.failing, *filter(None, (inside.detail,))))]


def _kinds(inside: SeamAgreement) -> str:
    """`` (8 folds, 5 rescalings)``: what is proved is more than nodes that go; "" where it is not."""
    whole = inside.folds - inside.parts - inside.rescalings
    kinds = ((whole, "fold"), (inside.parts, "fold in part"), (inside.rescalings, "rescaling"))
    if whole == inside.folds:
        return ""
    return f" ({', '.join(_several(count, what) for count, what in kinds if count)})"


def _several(count: int, what: str) -> str:
    first, *rest = what.split(" ")
    return " ".join((str(count), first if count == 1 else f"{first}s", *rest))


def accuracies(agreement: Agreement) -> list[str]:
    """Per output with labels one sentence."""
    return [_accuracy(found) for found in agreement.accuracy]


def _accuracy(found: Accuracy) -> str:
    after = "not to be read" if found.after is None else _percent(found.after)
    answers = "1 answer differs" if found.changed == 1 else f"{found.changed} answers differ"
    return (
        f"{_percent(found.before)} → {after} of {found.samples} labels right by '{found.output}', "
        f"{answers} (an answer is {found.rule})"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
