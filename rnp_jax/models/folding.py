"""Batch norm folded into the convolution before it, where a network's weights are not differentiated.

In evaluation mode, y = f·(k ∗ x) + (β - f·μ) with f = γ·m / √(σ² + ε), so a kernel f·k and a bias do the work of both
layers. A compiler for a GPU makes one call of these, of the activation after them and of a residual sum. In gradients
of masks it would cost much, for those would go through the kernels.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import flax.linen as nn
import jax

from rnp_jax.models.layers import BatchNorm, Conv


def fold_batch_norms(folds: bool = True) -> AbstractContextManager[None]:
    """Within the context, each batch norm that directly reads a convolution is computed as one with it.

    This holds for modules that are applied in evaluation mode. A convolution that something else reads too stays in
    the program beside the folded one; a compiler removes the others.

    Args:
      folds: whether anything changes at all.
    """
    if not folds:
        return nullcontext()
    outputs: dict[int, tuple[jax.Array, Conv, jax.Array]] = {}  # by identity; kept, so that no identity comes twice

    def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        layer = context.module
        if context.method_name != "__call__" or not isinstance(layer, Conv | BatchNorm):
            return call(*args, **kwargs)
        if isinstance(layer, Conv):
            output = call(*args, **kwargs)
            outputs[id(output)] = (output, layer, args[0])
            return output
        x, train = args
        if train or id(x) not in outputs:
            return call(x, train)
        return call(x, train, outputs[id(x)][1:])

    return nn.intercept_methods(intercept)
