"""Which arithmetic the parts of the work get."""

from typing import Literal, NamedTuple

import jax

from rnp_jax.models.layers import Precision

Asked = Literal["auto", "float32", "tf32", "bfloat16"]


class Arithmetic(NamedTuple):
    """The precision of a network, as ``Network`` has it.

    Attributes:
      precision: of training, of searches and of scores.
      evaluation: of predictions; None is ``precision``.
    """

    precision: Precision
    evaluation: Precision | None


def choose_arithmetic(precision: Asked, evaluation: Asked | None = None) -> Arithmetic:
    """What ``auto`` is on this machine: float32 on a CPU; elsewhere TF32, and bfloat16 in evaluation.

    Args:
      precision: what is asked for; float32 is torch's arithmetic.
      evaluation: what is asked for predictions; None is what ``precision`` says.
    """
    training, predicting = ("float32", "float32") if jax.default_backend() == "cpu" else ("tf32", "bfloat16")
    chosen: Precision = training if precision == "auto" else precision
    asked = evaluation or precision
    differs: Precision = predicting if asked == "auto" else asked
    return Arithmetic(chosen, None if differs == chosen else differs)
