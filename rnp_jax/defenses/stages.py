"""The activations between a network's stages, in either mode, as part of a compiled program."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnp_jax.errors import DefenseError
from rnp_jax.models import Network
from rnp_jax.types import Tree, Variables


def find_stages(network: Network, variables: Variables) -> tuple[int, ...]:
    """The last segment of each stage: those whose outputs have one size, which is more than one position.

    Raises:
      DefenseError: the network has no feature maps.
    """
    image = jax.ShapeDtypeStruct((2, *network.architecture.image_shape), jnp.float32)
    outputs = jax.eval_shape(lambda images: run_segments(network, variables, images)[1], image)
    sizes = {i: out.shape[1:3] for i, out in enumerate(outputs) if out.ndim == 4 and out.shape[1] * out.shape[2] > 1}
    if not sizes:
        raise DefenseError(f"{network.architecture.name} has no feature maps: attention needs convolutions")
    return tuple(dict(zip(sizes.values(), sizes, strict=True)).values())


def run_segments(
    network: Network, variables: Variables, images: jax.Array, *, train: bool = False
) -> tuple[Float[Array, "B K"], tuple[jax.Array, ...], Tree]:
    """Logits, the output of each segment of the network, and batch statistics, as ``network`` gives them."""
    x = network.normalize(images)
    outputs, moved = [], dict(variables["batch_stats"])
    for segment in network.segments:
        own = segment.select(variables)
        if train:
            x, state = segment.module.apply(own, x, True, mutable=["batch_stats"])
            stats = dict(state.get("batch_stats") or {})
            moved |= {segment.layers[0]: stats} if segment.nested and stats else stats
        else:
            x = segment.module.apply(own, x, False)
        outputs.append(x)
    return outputs[-1].astype(jnp.float32), tuple(outputs), moved
