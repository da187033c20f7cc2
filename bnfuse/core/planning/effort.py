"""How much the search for folds may take of a graph, so that none takes more than in proportion to its size.

Most graphs ask little: of those that people publish, no BatchNormalization takes more than some 50 steps, and
those of a DenseNet121 take 10,000 together. But values can be joined, shared and called again such that each
of n candidates asks something of all others: n² steps. So steps are counted, and the numbers that folds hold.
A constant is set aside for a graph, and a share for each candidate. Once that is used up, whoever is still
to go is looked for near by alone, one way for each split, past nothing that many others share. What has
gone until then stays gone.
"""

from __future__ import annotations

import sys

from msgspec import Struct

from bnfuse.core.graph import Graph
from bnfuse.core.rules.affine import Affine

# A step is a demand: some 10 µs. The constant is some seconds. A candidate's share is more than any form of
# graphs takes where candidates ask little of one another (tests/strange_graphs.py); where activations may
# change, and parts of nodes go, each is tried in several ways.
STEPS = 1 << 18
STEPS_EACH = 128
_STEPS_EACH_MOVING = 4

# What all folds hold as float64: 64 MiB (8 in a DenseNet121), and more for each number of a candidate.
NUMBERS = 1 << 23
NUMBERS_EACH = 16

# Numbers of weights that are read to see whether they fit their type: some seconds, and so many for each byte
# of the file. Many layers may have one weight.
READ = 1 << 27
READ_A_BYTE = 16

# How many numbers are worked on, or values are found to stay as they are, in the time of a step.
_NUMBERS_A_STEP = 512
_VALUES_A_STEP = 8


class Effort(Struct, eq=False):
    """What was taken, and what may be; without bounds where what was found before is done again."""

    most_steps: int = sys.maxsize
    most_numbers: int = sys.maxsize
    most_read: int = sys.maxsize
    steps: int = 0
    numbers: int = 0  # that folds hold
    read: int = 0  # of weights

    @property
    def is_over(self) -> bool:
        """Whether all that was set aside is used up."""
        return self.steps > self.most_steps or self.numbers > self.most_numbers

    def take(self, steps: int = 0, values: int = 0, numbers: int = 0) -> None:
        """Count steps, values that were looked at in passing, and numbers that were worked on."""
        self.steps += steps + values // _VALUES_A_STEP + numbers // _NUMBERS_A_STEP

    def may_read(self, numbers: int) -> bool:
        """Whether so many numbers of weights may be read; they are counted if so."""
        if self.read + numbers > self.most_read:
            return False
        self.read += numbers
        return True


def set_aside(graph: Graph) -> Effort:
    """What the search may take of a graph."""
    rules = [graph.rule(node) for node in graph.candidates]
    numbers = sum(rule.pair[0].size for rule in rules if isinstance(rule, Affine))
    steps = STEPS_EACH * len(rules) * (_STEPS_EACH_MOVING if graph.moves_bounds else 1)
    return Effort(
        STEPS + steps,
        NUMBERS + NUMBERS_EACH * numbers,
        READ + READ_A_BYTE * graph.stored_bytes,
    )
