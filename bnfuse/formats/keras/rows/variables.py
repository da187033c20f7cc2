"""Which variables a layer holds: their names, order and places inside its group.

Facts read off Keras 2.15, 3.3–3.15 and tf_keras. A slot's ``place`` is where a ``.keras`` archive keeps the
variable, below the layer's group; names are the same for all versions and both file kinds (Keras 2
says ``depthwise_kernel`` where Keras 3 says ``kernel``: here it is ``kernel``).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from bnfuse.formats.table import curried

if TYPE_CHECKING:
    from bnfuse.formats.keras.graph.network import Layer

Config = Mapping[str, Any]


class Slot(Struct, frozen=True):
    """One variable of a layer class; ``trainable`` says how it was made, not whether it is frozen.

    ``copy`` is where an archive has it a second time: the one that Keras reads last, which wins.
    """

    name: str
    place: str
    trainable: bool = True
    copy: str = ""

    @property
    def places(self) -> tuple[str, ...]:
        """All of them, the one that wins first."""
        return (self.copy, self.place) if self.copy else (self.place,)


Slots = tuple[Slot, ...]


def own(*names: str, frozen: Iterable[str] = ()) -> Slots:
    """Variables that hang on the layer itself: ``vars/0``, ``vars/1`` and so on."""
    still = frozenset(frozen)
    return tuple(Slot(name, f"vars/{i}", name not in still) for i, name in enumerate(names))


def below(prefix: str, slots: Iterable[Slot], name: str = "") -> Slots:
    """The slots of a part that is kept below ``prefix``; ``name`` goes before theirs."""
    return tuple(
        replace(s, place=f"{prefix}/{s.place}", name=f"{name}/{s.name}" if name else s.name) for s in slots
    )


def none(config: Config) -> Slots:
    """No variables."""
    return ()


def in_turn(slots: Slots) -> Slots:
    """As Keras lists them: of the layer itself and then of each layer in it, trainable ones first."""
    holders = list(dict.fromkeys(slot.place.rpartition("/")[0] for slot in slots))
    return tuple(sorted(slots, key=lambda s: (holders.index(s.place.rpartition("/")[0]), not s.trainable)))


def unknown_slots(config: Config) -> Slots | None:
    """Nobody knows."""
    return None


@curried
def holds(config: Config, /, *names: str, frozen: Iterable[str] = ()) -> Slots:
    """Variables by name; after a colon the switch of the config, on by default, that takes one away."""
    told = (name.partition(":") for name in names)
    return own(*(name for name, _, key in told if not key or config.get(key, True)), frozen=frozen)


def is_own(stored: Any, classes: Collection[str]) -> bool:
    """Whether a stored object is one of these classes of Keras."""
    if not isinstance(stored, Mapping) or not isinstance(stored.get("config"), Mapping):
        return False
    package = str(stored.get("module") or "keras").partition(".")[0]
    plain = not stored.get("registered_name") and package in ("keras", "tf_keras", "tensorflow")
    return plain and str(stored.get("class_name")) in classes


def special_storage(config: Config) -> str | None:
    """Why what is stored is not the layer's plain arrays ("LoRA", "quantised …"); None if it is."""
    if config.get("lora_rank"):
        return "LoRA"
    mode = quantised_to(config)
    if mode:
        return f"quantised to {mode}"
    return "quantised" if config.get("quantization_config") else None


def refuses_edit(layer: Layer, *, quantised: bool = False) -> str | None:
    """Why the variables of a layer must stay as they are; None if they may be changed.

    ``quantised`` tells that its row knows its integers and scales.
    """
    storage = special_storage(layer.config)
    if storage is not None and not quantised:
        return f"its weights are stored in a special way ({storage})"
    for variable in layer.variables:
        if getattr(variable, "locked", ""):
            return str(getattr(variable, "locked", ""))
        real = variable.dtype.kind == "f" or variable.dtype.name == "bfloat16"
        if variable.name.endswith(("kernel", "embeddings")) and not real and not quantised:
            return f"its {variable.name} holds {variable.dtype} values"
    return None


def quantised_to(config: Config) -> str | None:
    """The mode of a layer whose weights are stored in a quantised form, such as "int8" or "int4/128"."""
    told = _mode(config.get("dtype")) or config.get("quantization_mode")
    return str(told) if told else None


def _mode(policy: object) -> str | None:
    """The mode in a dtype policy: ``"int8_from_float32"``, or an object that has one."""
    if isinstance(policy, str):
        return policy.split("_from_")[0] if "_from_" in policy else None
    inner = policy.get("config") if isinstance(policy, Mapping) else None
    mode = inner.get("mode") if isinstance(inner, Mapping) else None
    return str(mode) if mode else None


# The one class whose public name, which the config has, is not its own, which the groups have.
_CLASS_OF = {"GroupQueryAttention": "GroupedQueryAttention"}


def snake_case(class_name: str) -> str:
    """A class name as Keras spells it in group names: ``Conv2DTranspose`` → ``conv2d_transpose``."""
    plain = class_name.rsplit(">", 1)[-1]
    name = re.sub(r"\W+", "", _CLASS_OF.get(plain, plain))
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def numbered(name: str, counts: dict[str, int]) -> str:
    """``dense``, ``dense_1``, ``dense_2``, … as they come; ``counts`` is kept up to date."""
    counts[name] = counts.get(name, -1) + 1
    return f"{name}_{counts[name]}" if counts[name] else name
