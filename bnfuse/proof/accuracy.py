"""How many of the user's labels a model gets right, read from one of its outputs.

An output gives one answer per sample, by its shape without axes of length 1:

- (samples, classes) of floats: the largest, the first of them where several are (top-1);
- (samples,) of floats: yes or no, above 0.5 where all values of the original lie in [0, 1], else above 0;
- (samples,) of integers or booleans: the answer itself.

Says how many samples the two models answer differently as well: accuracy alone may stay while answers
move. Anything else cannot be read and is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from msgspec import Struct, field
from numpy.typing import NDArray

from bnfuse.errors import UsageError
from bnfuse.proof.deviation import is_float
from bnfuse.results import Accuracy

Labels = Mapping[str, NDArray[np.int64]]


class Answers(Struct, eq=False):
    """What one model answers to the user's samples, by output, as it comes in set by set.

    Classes and integers are kept as they are, a lone float as the float: its threshold is known last.
    """

    names: Sequence[str]
    classes: dict[str, int] = field(default_factory=dict)
    _found: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def add(self, outputs: Mapping[str, np.ndarray], rows: int) -> None:
        """Read the first ``rows`` samples of one input set.

        Raises:
            UsageError: an output that gives no single answer per sample.
        """
        for name in self.names:
            array = outputs[name]
            flat = array.reshape([n for axis, n in enumerate(array.shape) if axis == 0 or n != 1])
            fits = bool(array.shape) and flat.shape[0] >= rows
            if fits and flat.ndim == 2 and is_float(flat) and flat.shape[1]:
                self.classes[name] = flat.shape[1]
                answer = np.asarray(flat[:rows].astype(np.float64).argmax(axis=1))
            elif fits and flat.ndim == 1 and (is_float(flat) or flat.dtype.kind in "iub"):
                answer = flat[:rows].astype(np.float64) if is_float(flat) else flat[:rows].astype(np.int64)
            else:
                raise UsageError(
                    f"no accuracy can be read from output '{name}' of {array.dtype} and shape "
                    f"{list(array.shape)}: it needs one value, or one per class, for each sample"
                )
            self._found.setdefault(name, []).append(answer)

    def of(self, name: str) -> np.ndarray:
        """One answer per sample."""
        return np.concatenate(self._found[name])


def check_labels(labels: Labels, outputs: Sequence[str], samples: int) -> Labels:
    """Labels by output name; one given without a name belongs to the only output.

    Raises:
        UsageError: an output of another name, or another number of labels than of samples.
    """
    every = ", ".join(f"'{name}'" for name in outputs)
    named = {}
    for name, values in labels.items():
        if not name and len(outputs) != 1:
            raise UsageError(
                f"the model has {len(outputs)} outputs ({every}): say whose labels these are, "
                f"with --labels {outputs[0] if outputs else 'NAME'}=FILE"
            )
        if name and name not in outputs:
            raise UsageError(f"--labels names '{name}', but the model's outputs are {every}")
        if len(values) != samples:
            raise UsageError(f"there are {len(values)} labels, but {samples} samples in --inputs")
        named[name or outputs[0]] = values
    return named


def accuracies(labels: Labels, before: Answers, after: Answers | None) -> tuple[Accuracy, ...]:
    """The outcome for every output that has labels.

    Raises:
        UsageError: labels that the output cannot give.
    """
    return tuple(_accuracy(name, wanted, before, after) for name, wanted in labels.items())


def _accuracy(name: str, wanted: NDArray[np.int64], before: Answers, after: Answers | None) -> Accuracy:
    old = before.of(name)
    rule, limit = "the number itself", None
    if name in before.classes:
        rule = f"the largest of {before.classes[name]} values"
        _check_range(name, wanted, before.classes[name])
    elif old.dtype.kind == "f":
        limit = 0.5 if bool(((old >= 0.0) & (old <= 1.0)).all()) else 0.0
        rule = f"above {limit:g}"
        _check_range(name, wanted, 2)
    answers = [old] if after is None else [old, after.of(name)]
    read = [answer if limit is None else answer > limit for answer in answers]
    right = [float(np.mean(answer == wanted)) for answer in read]
    changed = int(np.count_nonzero(read[0] != read[1])) if len(read) == 2 else 0
    return Accuracy(name, len(wanted), right[0], right[1] if len(right) == 2 else None, changed, rule)


def _check_range(name: str, wanted: NDArray[np.int64], classes: int) -> None:
    wrong = np.flatnonzero((wanted < 0) | (wanted >= classes))
    if wrong.size:
        raise UsageError(
            f"sample {wrong[0]} has the label {wanted[wrong[0]]}, but output '{name}' tells "
            f"{classes} classes apart: give 0 to {classes - 1}"
        )
