"""Small networks, most of them for 28x28 grey images, which backdoor releases train on MNIST.

| name | released by | keys |
|---|---|---|
| ``wanet_mnist`` | WaNet, LIRA (``NetC_MNIST``) | ``conv1, layer2.bn1, layer2.conv1, layer3…, linear6, linear9`` |
| ``inputaware_mnist`` | Input-Aware (``NetC_MNIST``) | ``conv1, conv5, linear6, linear9`` |
| ``backdoorbox_mnist`` | BackdoorBox (``BaselineMNISTNetwork``) | ``conv1, conv2, fc1, fc2``, 5x5 kernels |
| ``badnets_mnist`` | badnets-pytorch (``BadNet``), also for 32x32 images | ``conv1.0, conv2.0, fc1.0, fc2.0`` |
| ``lenet`` | kuangliu's pytorch-cifar, for 32x32 images | ``conv1, conv2, fc1, fc2, fc3`` |
| ``pytorch_mnist`` | PyTorch's MNIST example | ``conv1, conv2, fc1, fc2``, 3x3 kernels |
| ``trojanzoo_mnist`` | TrojanZoo (``net``) | ``features.conv1, features.conv2, classifier.fc1, classifier.fc2`` |

Dropout is left out, even in training mode: a network is a deterministic function of weights and images.
badnets-pytorch's network ends in a softmax; here it returns the logits before that.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType

import flax.linen as nn
from jaxtyping import Array, Float

from rnp_jax.models.chain import Chain, Segment, Site, activate
from rnp_jax.models.design import Design, Shapes, Sizes, marked_by
from rnp_jax.models.layers import BatchNorm, Conv, Placement, Precision
from rnp_jax.models.plain import ConvStep, Linear, Plan, plain_design

_SIDE = 28


class Stem(nn.Module):
    """A 3x3 convolution with bias that halves the image, and ReLU."""

    width: int
    placement: Placement
    precision: Precision

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B Ho Wo F"]:
        """Applies the stem."""
        del train  # nothing in it depends on the mode
        conv = Conv(
            self.width, 3, 2, 1, use_bias=True, placement=self.placement, precision=self.precision, name="conv1"
        )
        return activate(self, "conv1", conv(x))


class Block(nn.Module):
    """Batch norm, ReLU and a 3x3 convolution that halves the image."""

    features: int
    placement: Placement
    precision: Precision

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B Ho Wo F"]:
        """Applies the block."""
        norm = BatchNorm(self.placement, precision=self.precision, name="bn1")
        x = activate(self, "bn1", norm(x, train))
        return Conv(self.features, 3, 2, 1, placement=self.placement, precision=self.precision, name="conv1")(x)


class WaNetMnist(Chain):
    """WaNet's classifier for MNIST: convolutions of w, 2w, 2w filters, then 16w hidden units; w is 32 as published.

    Batch norm comes before the ReLU of the next block, so ``layer2.bn1`` normalises values that are already rectified.
    There is nothing between the last convolution and the hidden layer.
    """

    width: int
    num_classes: int
    placement: Placement = "bn_scale"
    precision: Precision = "float32"

    @nn.nowrap
    def segments(self) -> tuple[Segment, ...]:
        """Stem, two blocks, the hidden layer and the head."""
        common = (self.placement, self.precision)
        block = Block(2 * self.width, *common, parent=None)
        hidden = Linear("linear6", 16 * self.width, True, None, *common, parent=None)
        head = Linear("linear9", self.num_classes, False, None, *common, parent=None)
        return (
            Segment(("conv1",), Stem(self.width, *common, parent=None), nested=False),
            Segment(("layer2",), block, nested=True),
            Segment(("layer3",), block, nested=True),
            Segment(("linear6",), hidden, nested=False),
            Segment(("linear9",), head, nested=False),
        )

    @nn.nowrap
    def sites(self) -> tuple[Site, ...]:
        """The batch norms; the last convolution if masks act on it; the hidden layer in the placement ``unit``."""
        if self.placement == "unit":
            return (Site("linear6", ("linear6",), "relu"),)
        norms = (
            Site("layer2.bn1", ("conv1",), "relu", direct=False),
            Site("layer3.bn1", ("layer2.conv1",), "relu"),
        )
        last = Site("layer3.conv1", ("layer3.conv1",), None)
        return (*norms, last) if self.placement == "conv_output" else norms


def _build_wanet(sizes: Sizes, placement: Placement, precision: Precision) -> WaNetMnist:
    return WaNetMnist(sizes.width, sizes.num_classes, placement, precision)


_WANET = Design(
    _build_wanet,
    marked_by("layer2.bn1.weight", "layer3.conv1.weight", "linear6.weight"),
    "conv1.weight",
    "linear9.weight",
    32,
    image_side=_SIDE,
)


def _flattened_side(shapes: Shapes) -> int:
    """The side of the images of badnets-pytorch's network, from the inputs of its first linear layer."""
    side = math.isqrt(shapes["fc1.0.weight"][1] // max(1, shapes["conv2.0.weight"][0]))
    return 4 * (side + 3)  # twice: 4 pixels less, then half


_PLANS = {
    "inputaware_mnist": Plan(
        (ConvStep("conv1", 32, size=5, pad=0, pool="max"), ConvStep("conv5", 64, size=5, pad=0, pool="max")),
        (("linear6", 512),),
        "linear9",
    ),
    "backdoorbox_mnist": Plan(
        (ConvStep("conv1", 16, size=5, pad=0, pool="average"), ConvStep("conv2", 32, size=5, pad=0, pool="average")),
        (("fc1", 512),),
        "fc2",
    ),
    "badnets_mnist": Plan(
        (
            ConvStep("conv1.0", 16, size=5, pad=0, pool="average"),
            ConvStep("conv2.0", 32, size=5, pad=0, pool="average"),
        ),
        (("fc1.0", 512),),
        "fc2.0",
    ),
    "lenet": Plan(
        (ConvStep("conv1", 6, size=5, pad=0, pool="max"), ConvStep("conv2", 16, size=5, pad=0, pool="max")),
        (("fc1", 120), ("fc2", 84)),
        "fc3",
    ),
    "pytorch_mnist": Plan(
        (ConvStep("conv1", 32, pad=0), ConvStep("conv2", 64, pad=0, pool="max")),
        (("fc1", 128),),
        "fc2",
    ),
    "trojanzoo_mnist": Plan(
        (ConvStep("features.conv1", 32, pad=0), ConvStep("features.conv2", 64, pad=0, pool="max")),
        (("classifier.fc1", 128),),
        "classifier.fc2",
    ),
}

_SIDES = {"lenet": 32, "badnets_mnist": _flattened_side}

DESIGNS: Mapping[str, Design] = MappingProxyType(
    {"wanet_mnist": _WANET, **{name: plain_design(plan, _SIDES.get(name, _SIDE)) for name, plan in _PLANS.items()}}
)
