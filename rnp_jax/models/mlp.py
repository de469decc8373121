"""Multi-layer perceptrons, the heads that feature-space defenses work on."""

import flax.linen as nn
import jax

from rnp_jax.models.chain import Chain, Segment, Site, activate
from rnp_jax.models.layers import Dense, Precision


class Layer(nn.Module):
    """One linear layer; a hidden one is masked (placement ``unit``) and followed by a ReLU. Inputs are flattened."""

    layer: str
    units: int
    hidden: bool
    precision: Precision

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Applies the layer."""
        del train  # nothing in it depends on the mode
        x = x.reshape(x.shape[0], -1)
        x = Dense(self.units, masked=self.hidden, precision=self.precision, name=self.layer)(x)
        return activate(self, self.layer, x) if self.hidden else x


class Mlp(Chain):
    """Linear layers with ReLU in between; ``layers`` are (name, units) in order, and the last one gives the logits."""

    layers: tuple[tuple[str, int], ...]
    precision: Precision = "float32"

    @nn.nowrap
    def segments(self) -> tuple[Segment, ...]:
        """One a layer."""
        last = self.layers[-1][0]
        return tuple(
            Segment((name,), Layer(name, units, name != last, self.precision, parent=None), nested=False)
            for name, units in self.layers
        )

    @nn.nowrap
    def sites(self) -> tuple[Site, ...]:
        """The hidden layers."""
        return tuple(Site(name, (name,), "relu") for name, _ in self.layers[:-1])
