"""An attempt once more, from the choices that it made: how a plan that was written down becomes folds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bnfuse.core.decisions import Split
from bnfuse.core.planning.propagate import Worklist
from bnfuse.core.planning.state import Propagation, State
from bnfuse.core.reasons import Refusal

if TYPE_CHECKING:
    from bnfuse.core.planning.offers import Offer


def retrace(state: State, offer: Offer, split: Split, choices: Mapping[str, int]) -> Propagation | Refusal:
    """The attempt that made these choices, however far it goes; a refusal where it does not fit."""
    attempt = Worklist(state, offer.wanted, {**offer.fixed, **choices}, None)
    refusal = offer.begin(attempt, *offer.held(split))
    return refusal or attempt.found(split, offer.node)
