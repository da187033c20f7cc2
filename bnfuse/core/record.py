"""Values that are made by the ten thousand.

A frozen dataclass sets each field through ``object.__setattr__``, which for a graph of fifty thousand nodes
is a tenth of a second and more. These are frozen for the type checker, which is who keeps them so, and
plain when the program runs. They are compared by identity.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

T = TypeVar("T")

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform

    @dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(field,))
    def record(cls: type[T]) -> type[T]:
        """A frozen dataclass, compared by identity."""
        return cls

else:
    record = dataclass(slots=True, eq=False)
