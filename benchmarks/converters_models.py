"""The networks that ``benchmarks.converters`` gives to converters, with random statistics in every BN.

``python -m benchmarks.converters_models keras NAME FILE.keras`` and ``… torch NAME FILE.pt`` (the latter is a
whole pickled module, for this benchmark's own use). γ is above 0, as it mostly is in trained networks.
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
TORCH = ("mobilenetv2_w1", "preresnet18", "densenet121")  # of pytorchcv


def keras_model(name: str, target: Path) -> None:
    """A network of ``keras.applications``."""
    import keras

    keras.utils.set_random_seed(SEED)
    model = getattr(keras.applications, name)(weights=None, input_shape=(SIZE, SIZE, 3))
    randomise(model, positive=True)
    model.save(target)


def torch_model(name: str, target: Path) -> None:
    """A network of pytorchcv."""
    torch: Any = import_module("torch")
    provider = import_module("pytorchcv.model_provider")
    torch.manual_seed(SEED)
    model = provider.get_model(name, pretrained=False, in_size=(SIZE, SIZE)).eval()
    rng = np.random.default_rng(SEED)
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
    torch.save(model, target)


if __name__ == "__main__":
    kind, wanted, path = sys.argv[1:]
    (keras_model if kind == "keras" else torch_model)(wanted, Path(path))
