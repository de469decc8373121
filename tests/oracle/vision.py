"""torchvision's own definitions of its architectures."""

import importlib
import sys

import torch

_OPERATORS = ("nms", "qnms")
_held = []


def torchvision_models():
    """``torchvision.models``, also where torchvision's compiled operators are of another build than torch.

    No classifier uses them, but without them the import fails, and with it everything that imports torchvision.
    """
    try:
        return importlib.import_module("torchvision.models")
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for name in _OPERATORS:
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _held.append(library)  # what it defined goes with it
        return importlib.import_module("torchvision.models")
