"""What "auto" is on a CPU and elsewhere."""

import jax
import pytest

from rnp_jax.config import ComputeOptions
from rnp_jax.models import choose_arithmetic

AUTO = "auto"


@pytest.mark.parametrize(
    ("asked", "cpu", "elsewhere"),
    [
        ((AUTO, None), ("float32", None), ("tf32", "bfloat16")),
        (("float32", None), ("float32", None), ("float32", None)),
        (("bfloat16", None), ("bfloat16", None), ("bfloat16", None)),
        ((AUTO, "float32"), ("float32", None), ("tf32", "float32")),
        (("float32", AUTO), ("float32", None), ("float32", "bfloat16")),
        (("tf32", "bfloat16"), ("tf32", "bfloat16"), ("tf32", "bfloat16")),
    ],
)
def test_training_and_evaluation_are_chosen_apart(asked, cpu, elsewhere, monkeypatch):
    for backend, expected in (("cpu", cpu), ("gpu", elsewhere), ("tpu", elsewhere)):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        assert choose_arithmetic(*asked) == expected
        assert ComputeOptions(*asked).arithmetic == expected


def test_by_default_a_cpu_computes_as_torch_does():
    assert ComputeOptions().arithmetic == ("float32", None)
