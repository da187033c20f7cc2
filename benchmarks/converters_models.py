"""The networks that ``benchmarks.converters`` gives to converters, with random statistics in every BN.

``python -m benchmarks.converters_models keras NAME FILE.keras``, or ``torch NAME FILE.pt2`` (exported).
γ is above 0, as it mostly is in trained networks.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers_models import SEED, randomise

SIZE = 96  # height and width of the images, which have three channels
KERAS = ("MobileNetV2", "ResNet50V2", "DenseNet121")
TORCH = ("inverted", "preactivation", "dense")  # below


def keras_model(name: str, target: Path) -> None:
    """A network of ``keras.applications``."""
    import keras

    keras.utils.set_random_seed(SEED)
    model = getattr(keras.applications, name)(weights=None, input_shape=(SIZE, SIZE, 3))
    randomise(model, positive=True)
    model.save(target)


def torch_model(name: str, target: Path) -> None:
    """A small network of the kind of MobileNetV2, ResNetV2 or DenseNet, in evaluation mode."""
    torch: Any = import_module("torch")
    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    model = _network(torch.nn, torch, name)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            size = module.num_features
            for tensor, values in (
                (module.weight, rng.uniform(0.5, 1.5, size)),
                (module.bias, 0.1 * rng.standard_normal(size)),
                (module.running_mean, 0.1 * rng.standard_normal(size)),
                (module.running_var, rng.uniform(0.5, 2.0, size)),
            ):
                tensor.data = torch.tensor(values, dtype=torch.float32)
    example = torch.zeros(1, 3, SIZE, SIZE)
    torch.export.save(torch.export.export(model.eval(), (example,)), target)


def _network(nn: Any, torch: Any, name: str) -> Any:
    """A stem of stride 4, eight blocks, and a classifier; a class of its own, since its blocks branch."""

    def block(channels: int) -> Any:
        if name == "inverted":
            wide = 4 * channels
            return nn.Sequential(
                nn.Conv2d(channels, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(),
                nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False), nn.BatchNorm2d(wide),
                nn.ReLU6(),
                nn.Conv2d(wide, channels, 1, bias=False), nn.BatchNorm2d(channels),
            )  # fmt: skip
        made = 32 if name == "dense" else channels
        return nn.Sequential(
            nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, made, 3, padding=1, bias=False),
        )  # fmt: skip

    grows = 32 if name == "dense" else 0
    sizes = [64 + grows * k for k in range(9)]

    class Net(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 64, 7, 4, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU())
            self.blocks = nn.ModuleList(block(size) for size in sizes[:-1])
            self.last = nn.Sequential(nn.BatchNorm2d(sizes[-1]), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
            self.head = nn.Linear(sizes[-1], 100)

        def forward(self, x: Any) -> Any:
            x = self.stem(x)
            for each in self.blocks:
                x = torch.cat((x, each(x)), 1) if name == "dense" else x + each(x)
            return self.head(torch.flatten(self.last(x), 1))

    return Net()


if __name__ == "__main__":
    kind, wanted, path = sys.argv[1:]
    (keras_model if kind == "keras" else torch_model)(wanted, Path(path))
