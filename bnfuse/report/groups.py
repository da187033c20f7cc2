"""Why nodes stay, as few lines as it takes: kept nodes by reason and by the kind of node that refuses.

A kept node was refused once per split. The refusal that speaks for it is the most informative one, by
``_RANKS``: what was refused for its *numbers* (a weight would overflow, 3 of 64 scales are negative) or by
a node that could have absorbed it (its weight is no constant, it pads with zeros) got further than what
was refused on the way (a shift at an activation), and that further than what gets past nothing at all (a
nonlinear op, an input of the model). Among equals the first split counts. The code that JSON gives a
single decision stays that of its first refusal.

A group's sentence names kinds in place of single nodes and values, adds what else all of its members
were told, and leaves out figures in which they differ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from msgspec import Struct

from bnfuse.core.decisions import Decision, Keep
from bnfuse.core.reasons import Reason, Refusal, label

# Most informative first; what is not listed stands between the last two rows.
_RANKS: tuple[tuple[Reason, ...], ...] = (
    (Reason.NO_GAIN, Reason.PRECISION, Reason.OVERFLOW),
    (Reason.NEGATIVE_SCALE, Reason.ZERO_SCALE),
    (
        Reason.WEIGHT_NOT_CONSTANT,
        Reason.LOCKED_WEIGHTS,
        Reason.OTHER_TYPE,
        Reason.PARAMETER_NOT_CONSTANT,
        Reason.PARAMETER_IS_ARGUMENT,
        Reason.PARAMETER_QUANTISED,
        Reason.PARAMETER_OVERRIDABLE,
    ),
    (Reason.ZERO_PADDING, Reason.SHIFT_REFUSED),
    (Reason.SHIFT_THROUGH_ACTIVATION,),
    (Reason.AXIS, Reason.BROADCAST, Reason.SHAPE_UNKNOWN),
    (Reason.CONFLICT, Reason.TOO_MANY_CHOICES, Reason.TOO_LARGE, Reason.WAITING),
    (Reason.NONLINEAR, Reason.UNSUPPORTED_OP),
    (
        Reason.CAPTURED,
        Reason.BODY_BOUNDARY,
        Reason.KNOWN_BEFOREHAND,
        Reason.GRAPH_OUTPUT,
        Reason.GRAPH_INPUT,
    ),
)
_RANK = {reason: rank for rank, reasons in enumerate(_RANKS) for reason in reasons}
_UNRANKED = len(_RANKS) - 1.5

_BATCHNORM = "BatchNormalization"
_VALUE = "a value on the way"
# Letters whose names begin with a vowel: "an LSTM", but "a GRU".
_SPELLED_WITH_AN = "AEFHILMNORSX"


class Group(Struct, frozen=True):
    """Kept nodes that one sentence is true of, in graph order.

    Attributes:
        reason: why, for all of them.
        op: the kind of node that refused; "" where the refusal names a value alone.
        subject: what stays, in words: ``37 BatchNormalizations stay``.
        why: the sentence without its subject.
        nodes: their names.
        batchnorms: how many of them are true BatchNormalizations.
    """

    reason: Reason
    op: str
    subject: str
    why: str
    nodes: tuple[str, ...]
    batchnorms: int

    @property
    def message(self) -> str:
        """The whole sentence."""
        return f"{self.subject}: {self.why}"


def main_refusal(kept: Keep) -> Refusal:
    """The refusal that says most about why a node stays."""
    return min(kept.refusals, key=lambda refusal: _RANK.get(refusal.reason, _UNRANKED))


def groups(decisions: Iterable[Decision]) -> list[Group]:
    """Kept nodes by (reason, kind of the refusing node); most BatchNormalizations first, then most nodes.

    What is kept by request, and what stays only since its neighbour is, are not of one group.
    """
    members: dict[tuple[Reason, str, bool], list[Keep]] = {}
    for decision in decisions:
        if isinstance(decision, Keep):
            refusal = main_refusal(decision)
            asked = refusal.reason is Reason.BY_REQUEST and _is_itself(refusal, decision)
            members.setdefault((refusal.reason, _kind(refusal), asked), []).append(decision)
    made = [_group(reason, op, kept) for (reason, op, _), kept in members.items()]
    return sorted(made, key=lambda group: (-group.batchnorms, -len(group.nodes)))


def _group(reason: Reason, op: str, kept: Sequence[Keep]) -> Group:
    why = _own_sentences(kept[0]) if len(kept) == 1 else _common_sentences(kept)
    nodes = tuple(keep.node for keep in kept)
    return Group(reason, op, _subject(kept), "; ".join(why), nodes, sum(keep.is_batchnorm for keep in kept))


def _subject(kept: Sequence[Keep]) -> str:
    """``3 BatchNormalizations and 2 Mul nodes stay``; BatchNormalizations first."""
    norms = sum(keep.is_batchnorm for keep in kept)
    others = Counter(keep.op for keep in kept if not keep.is_batchnorm)
    parts = [f"{norms} {_BATCHNORM}{'s' if norms > 1 else ''}"] if norms else []
    parts += [f"{count} {op} node{'s' if count > 1 else ''}" for op, count in others.items()]
    listed = " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
    return f"{listed} {'stays' if len(kept) == 1 else 'stay'}"


def _own_sentences(kept: Keep) -> list[str]:
    """A group of one names its nodes; the main sentence comes first, none twice."""
    main = main_refusal(kept)
    by_sentence = {main.sentence: main.split}
    for refusal in kept.refusals:
        by_sentence.setdefault(refusal.sentence, refusal.split)
    return [_told(split, sentence) for sentence, split in by_sentence.items()]


def _common_sentences(kept: Sequence[Keep]) -> list[str]:
    """The main sentence, then what every member was told besides, by kind."""
    mains = [main_refusal(keep) for keep in kept]
    split = mains[0].split if len({main.split for main in mains}) == 1 else ""
    detail = mains[0].detail if len({main.detail for main in mains}) == 1 else ""
    sentence = _sentence(mains[0], kept[0], detail)
    lines, seen = [_told(split, sentence)], {_sentence(mains[0], kept[0], "")}
    for refusal in kept[0].refusals:
        text = _sentence(refusal, kept[0], "")
        if text not in seen and all(_is_told(keep, refusal) for keep in kept[1:]):
            lines.append(_told(refusal.split, text))
        seen.add(text)
    return lines


def _is_told(kept: Keep, wanted: Refusal) -> bool:
    """Whether a node was refused for the same reason by the same kind, on the same split."""
    key = (wanted.split, wanted.reason, _kind(wanted))
    return any((r.split, r.reason, _kind(r)) == key for r in kept.refusals)


def _sentence(refusal: Refusal, kept: Keep, detail: str) -> str:
    """The reason with kinds in place of names."""
    op = _kind(refusal)
    who = "the node itself" if _is_itself(refusal, kept) else f"{_article(op)} {op}" if op else "a node"
    template = refusal.reason.value.replace("'{value}'", "{value}")
    if refusal.reason is Reason.OVERFLOW:
        detail = detail or "their dtype"
    elif detail:
        detail = f" ({detail})"
    return template.format(node=who, value=_VALUE, detail=detail)


def _is_itself(refusal: Refusal, kept: Keep) -> bool:
    return refusal.node == label(kept.op, kept.node)


def _kind(refusal: Refusal) -> str:
    """The operator of a node's label, ``Conv 'name'``."""
    return refusal.node.split(" '", 1)[0]


def _article(op: str) -> str:
    letters = _SPELLED_WITH_AN if op.isupper() else "AEIOU"
    return "an" if op[:1].upper() in letters else "a"


def _told(split: str, sentence: str) -> str:
    return f"{split}: {sentence}" if split else sentence
