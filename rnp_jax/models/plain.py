"""Plain feed-forward classifiers: convolutions with ReLU or ELU, optional batch norm and pooling, then linear layers.

Dropout is left out, even in training mode: a network is a deterministic function of weights and images.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import flax.linen as nn
from jaxtyping import Array, Float

from rnp_jax.models.chain import Activation, Chain, Segment, Site, activate
from rnp_jax.models.design import Design, Shapes, Sizes
from rnp_jax.models.layers import (
    BatchNorm,
    Conv,
    Dense,
    Placement,
    Precision,
    adaptive_avg_pool,
    avg_pool,
    flatten,
    max_pool,
)

Pool = Literal["max", "average", "overlapping"]
"""Which windows: 2x2 ones side by side, or in AlexNet 3x3 ones with stride 2, of which the maximum is taken."""


class ConvStep(NamedTuple):
    """A convolution and what follows it, at the published size.

    Attributes:
      conv: name of the convolution's layer.
      features: number of filters.
      norm: name of the batch norm after it; None if there is none.
      size: side of the kernel.
      pad: zeros around its input.
      pool: pooling after the activation, which halves the image; None if there is none.
      activation: after the convolution, or after its batch norm.
      stride: step of the kernel.
    """

    conv: str
    features: int
    norm: str | None = None
    size: int = 3
    pad: int = 1
    pool: Pool | None = None
    activation: Activation = "relu"
    stride: int = 1


class Plan(NamedTuple):
    """A plain network at its published size.

    Attributes:
      convs: the convolutions, in order.
      hidden: name and units of each hidden linear layer, in order.
      head: name of the last linear layer.
      pooled: side of the image after adaptive average pooling, before the linear layers; None means no such pooling.
    """

    convs: tuple[ConvStep, ...]
    hidden: tuple[tuple[str, int], ...]
    head: str
    pooled: int | None = None

    def scaled(self, width: int) -> "Plan":
        """The plan with ``width`` filters in the first convolution and the others in proportion, at least 1 each."""
        published = self.convs[0].features
        convs = tuple(step._replace(features=max(1, step.features * width // published)) for step in self.convs)
        hidden = tuple((name, max(1, units * width // published)) for name, units in self.hidden)
        return self._replace(convs=convs, hidden=hidden)

    def matches(self, shapes: Shapes) -> bool:
        """Whether these tensors have exactly the kernels, the batch norms and the first hidden layer of the network."""
        kernels = {f"{step.conv}.weight": (step.size, step.size) for step in self.convs}
        kernels |= {f"{name}.weight": () for name in (*(name for name, _ in self.hidden), self.head)}
        norms = {f"{step.norm}.running_var" for step in self.convs if step.norm}
        found = {key: tuple(shape[2:]) for key, shape in shapes.items() if len(shape) > 1}
        return (
            kernels == found
            and norms == {key for key in shapes if key.endswith(".running_var")}
            and self._has_first_hidden(shapes)
        )

    def _has_first_hidden(self, shapes: Shapes) -> bool:
        """Whether the first hidden layer, if there is one, has its units and reads the pooled image."""
        if not self.hidden:
            return True
        width, channels = (shapes[f"{step.conv}.weight"][0] for step in (self.convs[0], self.convs[-1]))
        (name, units), *_ = self.scaled(width).hidden
        found = shapes[f"{name}.weight"]
        return found[0] == units and (self.pooled is None or found[1] == channels * self.pooled**2)


class Convolution(nn.Module):
    """One ``ConvStep``."""

    step: ConvStep
    placement: Placement
    precision: Precision

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B Ho Wo F"]:
        """Applies the step."""
        conv, features, norm, size, pad, pool, activation, stride = self.step
        layer = partial(Conv, use_bias=True, placement=self.placement, precision=self.precision, name=conv)
        x = layer(features, size, stride, pad)(x)
        x = x if norm is None else BatchNorm(self.placement, precision=self.precision, name=norm)(x, train)
        x = activate(self, norm or conv, x, activation)
        if pool is None:
            return x
        return avg_pool(x, 2) if pool == "average" else max_pool(x, 2 if pool == "max" else 3, 2)


class Linear(nn.Module):
    """A linear layer on vectors, or on images, which it pools and flattens. A hidden one is followed by a ReLU."""

    layer: str
    units: int
    hidden: bool
    pooled: int | None
    placement: Placement
    precision: Precision

    @nn.compact
    def __call__(self, x: Float[Array, "B ..."], train: bool) -> Float[Array, "B F"]:
        """Applies the layer."""
        del train  # nothing in it depends on the mode
        if x.ndim == 4:
            x = flatten(x if self.pooled is None else adaptive_avg_pool(x, self.pooled))
        masked = self.hidden and self.placement == "unit"
        x = Dense(self.units, masked=masked, precision=self.precision, name=self.layer)(x)
        return activate(self, self.layer, x) if self.hidden else x


class Plain(Chain):
    """A network built from a plan, with exactly the plan's sizes."""

    plan: Plan
    num_classes: int
    placement: Placement = "bn_scale"
    precision: Precision = "float32"

    @nn.nowrap
    def segments(self) -> tuple[Segment, ...]:
        """One segment per convolution and per linear layer."""
        steps = self.plan.convs
        convs = tuple(
            Segment((step.conv, step.norm) if step.norm else (step.conv,), self._part(Convolution, step), nested=False)
            for step in steps
        )
        linear = tuple(
            Segment((name,), self._part(Linear, name, units, name != self.plan.head, self.plan.pooled), nested=False)
            for name, units in (*self.plan.hidden, (self.plan.head, self.num_classes))
        )
        return *convs, *linear

    @nn.nowrap
    def sites(self) -> tuple[Site, ...]:
        """The batch norms, or the convolutions without one; the hidden linear layers in the placement ``unit``."""
        if self.placement == "unit":
            return tuple(Site(name, (name,), "relu") for name, _ in self.plan.hidden)
        return tuple(
            Site(step.norm or step.conv, (step.conv,), step.activation)
            for step in self.plan.convs
            if step.norm or self.placement == "conv_output"
        )

    @nn.nowrap
    def _part(self, part: Callable[..., nn.Module], *what: object) -> nn.Module:
        return part(*what, self.placement, self.precision, parent=None)


def plain_design(plan: Plan, image_side: int | Callable[[Shapes], int]) -> Design:
    """The architecture of a plan. Filter masks act on convolutions if the plan has no batch norm."""

    def build(sizes: Sizes, placement: Placement, precision: Precision) -> Plain:
        return Plain(plan.scaled(sizes.width), sizes.num_classes, placement, precision)

    first = plan.convs[0]
    return Design(
        build,
        plan.matches,
        f"{first.conv}.weight",
        f"{plan.head}.weight",
        first.features,
        image_side=image_side,
        placement="bn_scale" if first.norm else "conv_output",
    )
