"""Low frequency (Zeng et al., 2021): a smooth universal perturbation, found on a clean model."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, UInt8

from rnp_jax.attacks.base import Attack, ImageShape, Params, check_images, quantise
from rnp_jax.attacks.means import Means
from rnp_jax.checks import MOST_STEPS, check_image_shape, check_number
from rnp_jax.models import Network
from rnp_jax.traced import jit_settings, structural
from rnp_jax.types import Variables


@dataclass(frozen=True, kw_only=True)
class LowFrequency(Attack):
    """x' = Q(x + 255·v): v in [0, bound], a universal perturbation passed through a low-pass filter after each update.

    Over some clean images whose class c = f(x) it leaves, v ← mm(S(v + S(DeepFool_t(x + v)))): S is a separable
    Gaussian with zeros beyond the edges, mm stretches to [0, bound], and DeepFool_t goes from c to the wanted class.
    Ends when v changes the class of enough of the images; a pass limit is added here, and the v kept is the one that
    changes most. The authors' loop also moves its target to the most frequent wrong class; not here.
    CognitiveDistillation stretches each triggered image to the full range instead; not offered.

    Raises:
      ConfigError: a constant out of its range.
    """

    title = "Low frequency"
    looks = "A smooth, faint change of colour over the whole image."
    paper = "Zeng et al., 2021"
    learned = True
    deviation = "The pattern is generated anew on a clean model; the passes over the images are limited."

    bound: float = 0.2
    """Largest value of v, a share of the full range."""
    images: int = 100
    """Clean images that v is made from."""
    fooling: float = 0.2
    """Share of them whose class v shall change."""
    passes: int = 10
    """Times that they are gone through at most."""
    steps: int = 50
    """Iterations of DeepFool at most."""
    overshoot: float = 0.02
    """By which share DeepFool goes beyond the linearised boundary."""
    sigma: float = structural(6.0)
    """Standard deviation of the Gaussian in pixels; it has ⌊5σ⌋ taps."""

    def __post_init__(self):
        check_number("bound", self.bound, 0, 1)
        check_number("images", self.images, 1, MOST_STEPS, integer=True)
        check_number("fooling", self.fooling, 0, 1)
        check_number("passes", self.passes, 1, MOST_STEPS, integer=True)
        check_number("steps", self.steps, 1, MOST_STEPS, integer=True)
        check_number("overshoot", self.overshoot, 0)
        check_number("sigma", self.sigma, 0.2, 256)

    def init(self, image_shape: ImageShape) -> Params:
        """``pattern`` float32 [H, W, C] in grey levels, zeros until fitted."""
        return {"pattern": np.zeros(check_image_shape(image_shape), np.float32)}

    def fit(self, params: Params, means: Means) -> Params:
        """Find the perturbation on a clean model of the victim's architecture."""
        variables = means.surrogate(means.network)
        draw_key, pass_key = jax.random.split(means.key)
        size = len(means.data.labels)
        chosen = np.asarray(jax.random.permutation(draw_key, size))[: self.images]
        images = jnp.asarray(np.asarray(means.data.images)[chosen], jnp.float32) / 255
        wanted = means.goal.wanted(np.asarray(means.data.labels)[chosen])
        pattern = best = jnp.asarray(params["pattern"])
        most = -1.0
        for count in range(1, self.passes + 1):
            key = jax.random.fold_in(pass_key, count)
            pattern, share = _go_through(means.network, self, variables, pattern, images, wanted, key)
            means.progress("trigger", count, self.passes, {"fooling": float(share)})
            if float(share) > most:
                best, most = pattern, float(share)
            if most >= self.fooling:
                break
        return {"pattern": np.asarray(255 * best)}

    def trigger(self, params: Params, images: UInt8[Array, "B H W C"], key: jax.Array) -> UInt8[Array, "B H W C"]:
        """Add the pattern to every image."""
        del key
        check_images(images, params["pattern"].shape)
        return quantise(images.astype(jnp.float32) + params["pattern"][None])


def smoothing_matrix(size: int, sigma: float) -> Float[np.ndarray, "size size"]:
    """One axis of S as a matrix: a Gaussian of ⌊5σ⌋ taps that sum to 1, zeros beyond the edges.

    Where the number of taps is even, it reaches one pixel further towards higher indices, as the authors' padding.
    """
    taps = int(5 * sigma)
    kernel = np.exp(-0.5 * ((np.arange(taps) - (taps - 1) / 2) / sigma) ** 2)
    reach = np.arange(size)[None] - np.arange(size)[:, None] + (taps - 1) // 2
    inside = (reach >= 0) & (reach < taps)
    return np.where(inside, (kernel / kernel.sum())[np.clip(reach, 0, taps - 1)], 0)


def deepfool(
    network: Network, attack: LowFrequency, variables: Variables, image: Float[Array, "H W C"], target: jax.Array
) -> Float[Array, "H W C"]:
    """Targeted DeepFool (Moosavi-Dezfooli et al., 2016): a small step that takes the image's class to the target.

    Zeros where the image already is of the target class.
    """

    def logits(x: jax.Array) -> jax.Array:
        return network(variables, x[None])[0][0]

    source = logits(image).argmax()

    def gap(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        scores = logits(x)
        return scores[target] - scores[source], scores.argmax()

    def going_on(carry: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        _, label, count = carry
        return (label != target) & (count < attack.steps)

    def step(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        total, _, count = carry
        here = image + (1 + attack.overshoot) * total
        (distance, _), slope = jax.value_and_grad(gap, has_aux=True)(here)
        total += jnp.abs(distance) * slope / jnp.maximum(jnp.square(slope).sum(), 1e-12)
        return total, logits(image + (1 + attack.overshoot) * total).argmax(), count + 1

    total, _, _ = lax.while_loop(going_on, step, (jnp.zeros_like(image), source, jnp.int32(0)))
    return (1 + attack.overshoot) * total


@jit_settings(2)
def _go_through(
    network: Network,
    attack: LowFrequency,
    variables: Variables,
    pattern: Float[Array, "H W C"],
    images: Float[Array, "P H W C"],
    wanted: Int[Array, "P"],
    key: jax.Array,
) -> tuple[Float[Array, "H W C"], Float[Array, ""]]:
    """One pass over the images in random order: the perturbation, and the share of classes that it changes."""
    down, right = (jnp.asarray(smoothing_matrix(size, attack.sigma), jnp.float32) for size in pattern.shape[:2])

    def smooth(v: jax.Array) -> jax.Array:
        return jnp.einsum("ih,jw,hwc->ijc", down, right, v, precision=lax.Precision.HIGHEST)

    def stretch(v: jax.Array) -> jax.Array:
        low, high = v.min(), v.max()
        return attack.bound * (v - low) / jnp.where(high > low, high - low, 1)

    def classes(v: jax.Array) -> jax.Array:
        return lax.map(lambda x: network(variables, jnp.clip(x + v, 0, 1)[None])[0][0].argmax(), images)

    clean = classes(jnp.zeros_like(pattern))

    def step(v: jax.Array, index: jax.Array) -> tuple[jax.Array, None]:
        image, target = jnp.clip(images[index] + v, 0, 1), wanted[index]
        label = network(variables, image[None])[0][0].argmax()

        def update() -> jax.Array:
            return stretch(smooth(v + smooth(deepfool(network, attack, variables, image, target))))

        return lax.cond((label == clean[index]) & (label != target), update, lambda: v), None

    pattern, _ = lax.scan(step, pattern, jax.random.permutation(key, len(images)))
    return pattern, (classes(pattern) != clean).mean(dtype=jnp.float32)
