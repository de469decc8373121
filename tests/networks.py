"""Small random torch networks of every architecture, and the images to compare ours with them on."""

import numpy as np
import torch
from torch import nn

from rnp_jax.models import Architecture, Network, Placement
from tests.oracle import models, rnp

WIDTH, CLASSES = 4, 5
MLP_IMAGE = (4, 2, 3)  # so that the order of the flattened pixels matters
SHALLOW = ("resnet18", "resnet34", "resnet50", "preactresnet18", "mlp")
DEEP = ("resnet101", "resnet152")

Arrays = dict[str, np.ndarray]


def build(name: str, width: int = WIDTH, num_classes: int = CLASSES) -> nn.Module:
    """The oracle of an architecture of ours, with torch's own initialisation."""
    if name == "mlp":
        return models.mlp([int(np.prod(MLP_IMAGE)), 7, 6, num_classes])
    if name == "preactresnet18":
        return models.preact_resnet18(width=width, num_classes=num_classes)
    return models.resnet(int(name.removeprefix("resnet")), width=width, num_classes=num_classes)


def build_random(name: str, seed: int = 0, **sizes: int) -> nn.Module:
    """``build`` with every parameter and running statistic away from its default, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = build(name, **sizes)
        with torch.no_grad():
            for norm in models.batch_norms(module).values():
                assert norm.running_mean is not None
                assert norm.running_var is not None
                for values in (norm.weight, norm.running_var):
                    values.uniform_(0.5, 1.5)
                for values in (norm.bias, norm.running_mean):
                    values.normal_(0, 0.2)
    return module.eval()


def network_of(name: str, placement: Placement = "bn_scale", width: int = WIDTH, num_classes: int = CLASSES) -> Network:
    """Our network for ``build(name)``, normalising as the release does."""
    if name == "mlp":
        layers = (("0", 7), ("2", 6), ("4", num_classes))
        architecture = Architecture("mlp", num_classes, 0, layers, MLP_IMAGE)
    else:
        architecture = Architecture(name, num_classes, width)
    return Network(architecture, rnp.MEAN, rnp.STD, placement)


def state_of(module: nn.Module) -> Arrays:
    """A copy of the state dict as arrays."""
    return {name: value.numpy().copy() for name, value in module.state_dict().items()}


def images_for(name: str, count: int = 3, seed: int = 0) -> np.ndarray:
    """uint8 [count, H, W, 3]; 20 pixels become 10, 5 and 3 by stride 2, so odd sizes are among them."""
    height, width, channels = MLP_IMAGE if name == "mlp" else (20, 20, 3)
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, channels), np.uint8)


def torch_input(name: str, images: np.ndarray) -> torch.Tensor:
    """What the oracle takes: normalised, channels first, flattened for an mlp."""
    ((pixels, _),) = rnp.make_batches(images, np.zeros(len(images)), len(images))
    return pixels.flatten(1) if name == "mlp" else pixels
