"""An equation of an input and a kernel ("abc,cde->abde") as a linear op along one axis of each end.

Letters that only the kernel and the input have are summed (i), those that only the kernel and the output
have are new (o), those of all three are groups (g). Where the letters of a kind stand side by side at both
ends, and in the kernel's order, they are joined: then a vector along any of them is one along the axis that
they make, and so is a bias. Where they do not, the last of them is the axis.

When it does not act: a letter that stands twice, or is summed without a kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, NamedTuple

from bnfuse.core.axes import Regroup, regroup
from bnfuse.core.weights.tensor import Array
from bnfuse.formats.keras.rows.stored import LinearStore

if TYPE_CHECKING:
    from bnfuse.formats.keras.edit.apply_patch import ConfigEditor
    from bnfuse.formats.keras.rows.site import Site, VariableTensor


class Equation(NamedTuple):
    """A linear op, and what brings its ends to it.

    Attributes:
        layout: of the kernel.
        axes: of the input and the output, joined.
        out: the letters of the output, one for each axis.
        letters: those of ``out`` that the output's axis is made of.
        sizes: theirs; one is enough, whatever it is.
        is_open: the kernel has other letters of the output, so that sums over it differ along these, too.
        joined, parted: what makes one axis of several of the input, and several of one of the output.
    """

    layout: str
    axes: tuple[int, int]
    out: str
    letters: str
    sizes: tuple[int, ...]
    is_open: bool = False
    joined: Regroup | None = None
    parted: Regroup | None = None

    def ends(self, given: str, made: str) -> tuple[str, str]:
        """The values that the op itself reads and writes, of those that the layer does."""
        return (
            f"{made}/joined" if self.joined is not None else given,
            f"{made}/whole" if self.parted is not None else made,
        )


def read_equation(equation: str, rank: int, kernel_shape: Sequence[int] | None) -> Equation | None:
    """An equation for an input of ``rank`` axes; nothing is joined where the kernel's sizes are not known."""
    left, arrow, out = equation.replace(" ", "").partition("->")
    x, comma, kernel = left.partition(",")
    fill = rank - len(x.replace("...", ""))
    dots = "".join(chr(0x410 + k) for k in range(max(0, fill)))
    x, out = x.replace("...", dots), out.replace("...", dots)
    once = all(len(set(letters)) == len(letters) for letters in (x, kernel, out))
    if not arrow or not comma or not once or len(x) != rank or not set(kernel) <= set(x + out):
        return None
    contracted = [c for c in kernel if c in x and c not in out]
    new = [c for c in kernel if c in out and c not in x]
    shared = [c for c in kernel if c in out and c in x]
    if {*out} != {*x, *new} - {*contracted}:  # an axis that is summed without a kernel
        return None
    by_group = bool(shared and not contracted and not new)  # element by element
    if not by_group and not (contracted and new):
        return None
    if kernel_shape is not None and len(kernel_shape) == len(kernel):
        sizes = dict(zip(kernel, kernel_shape, strict=True))
        joined = _joined(x, kernel, out, (shared, contracted, new), sizes)
        if joined is not None:
            return joined
    ends = (_last(shared, x), _last(shared, out)) if by_group else (_last(contracted, x), _last(new, out))
    letters = {ends[0]: "g"} if by_group else {ends[0]: "i", ends[1]: "o"}
    layout = " ".join(letters.get(c, "k") for c in kernel)
    is_open = any(c in out and c not in letters for c in kernel)
    return Equation(layout, (x.index(ends[0]), out.index(ends[1])), out, ends[1], (-1,), is_open)


def _last(letters: Sequence[str], end: str) -> str:
    return max(letters, key=end.index)


def _joined(
    x: str, kernel: str, out: str, kinds: tuple[list[str], list[str], list[str]], sizes: dict[str, int]
) -> Equation | None:
    """With all letters of a kind as one; None where they stand apart, or behind what they group."""
    shared, contracted, new = ("".join(kind) for kind in kinds)
    reads, writes = shared + contracted, shared + new
    if reads not in x or writes not in out or not kernel.startswith(shared):
        return None
    kind_of = {**dict.fromkeys(shared, "g"), **dict.fromkeys(contracted, "i"), **dict.fromkeys(new, "o")}
    return Equation(
        " ".join(kind_of[c] for c in kernel),
        (x.index(reads), out.index(writes)),
        out,
        writes,
        tuple(sizes[c] for c in writes),
        joined=_regrouped(x, reads, sizes, joins=True),
        parted=_regrouped(out, writes, sizes, joins=False),
    )


def _regrouped(end: str, run: str, sizes: dict[str, int], *, joins: bool) -> Regroup | None:
    """The axes of ``run`` as one, or one as them; other axes are symbols."""
    if len(run) == 1:
        return None
    at = end.index(run)
    apart = tuple(sizes[c] if c in run else c for c in end)
    whole = (*apart[:at], prod(sizes[c] for c in run), *apart[at + len(run) :])
    return regroup(apart, whole) if joins else regroup(whole, apart)


class HeadsStore(LinearStore, frozen=True):
    """A bias along several letters, or along the last of them alone, where all heads have the same.

    Attributes:
        letters: all of them.
        heads: how many numbers there are for each of the last letter's.
    """

    letters: str = ""
    heads: int = 1

    def bias_of(self, site: Site) -> VariableTensor | None:
        """For every head."""
        return site.tensor(self.bias, copies=self.heads if self._is_shared(site) else 0)

    def store_bias(self, site: Site, bias: Array, out: ConfigEditor) -> None:
        """Along no more letters than it has, if that is enough."""
        laid = bias.reshape(self.heads, -1)
        alone = self._is_shared(site) and bool((laid == laid[:1]).all())
        shape = (-1, *self.bias_shape[len(self.letters) :]) if alone else self.bias_shape
        out.put(site, self.bias, (laid[0] if alone else bias).reshape(shape))
        out.configure(site, {"bias_axes": self.letters[-1:] if alone else self.letters})

    def _is_shared(self, site: Site) -> bool:
        return site.config.get("bias_axes") in (None, "", self.letters[-1])
