"""What is said of tensors that are of no architecture."""

import time

import pytest
import torch

from rnp_jax.models.nearest import describe_unknown
from tests.networks import build

UNKNOWN = {"stem.weight": (4, 3, 3, 3), "body.0.weight": (4, 4, 3, 3), "top.weight": (5, 4)}


def shapes_of(name: str = "resnet18", prefix: str = "", **sizes: int) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        state = build(name, **sizes).state_dict()
    return {prefix + key: tuple(value.shape) for key, value in state.items()}


def edited(*without: str, name: str = "resnet18", prefix: str = "", **changes: tuple[int, ...]):
    changed = {prefix + key.replace("__", "."): shape for key, shape in changes.items()}
    held = shapes_of(name, prefix) | changed
    return {key: shape for key, shape in held.items() if key.removeprefix(prefix) not in without}


CASES = {
    "another first convolution": (
        edited(conv1__weight=(4, 3, 5, 5)),
        "resnet18",
        [" conv1.weight: (4, 3, 5, 5), expected (4, 3, 3, 3)"],
    ),
    "another last layer": (
        edited("linear.bias", "linear.weight", top__weight=(5, 32)),
        "resnet18",
        [" - linear.bias (10,)", " - linear.weight (10, 32)", " + top.weight (5, 32)"],
    ),
    "a layer more": (
        edited(layer1__0__se__weight=(4, 4, 1, 1)),
        "resnet18",
        [" + layer1.0.se.weight (4, 4, 1, 1)"],
    ),
    "a block more": (
        edited(name="resnet34", **{f"layer1__3__conv{one}__weight": (4, 4, 3, 3) for one in (1, 2)}),
        "resnet34",
        [" + layer1.3.conv1.weight (4, 4, 3, 3)", " + layer1.3.conv2.weight (4, 4, 3, 3)"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_nearest_architecture_and_what_differs_are_named(case):
    shapes, name, lines = CASES[case]
    first, *rest = describe_unknown([shapes]).splitlines()
    assert f"; the nearest is {name}, and these differ (- missing, + unexpected):" in first
    assert rest == lines


def test_each_kind_of_difference_is_shown_though_one_is_long():
    text = describe_unknown([edited("bn1.bias", **{f"x{number}__weight": (4, 4) for number in range(20)})])
    assert "\n - bn1.bias (4,)\n + x0.weight (4, 4)\n" in text
    assert text.endswith(" … and 14 more")


def test_a_wrapper_s_name_does_not_hide_it():
    wrapped = edited(prefix="net.", conv1__weight=(4, 3, 5, 5))
    bare = {key.removeprefix("net."): shape for key, shape in wrapped.items()}
    assert "the nearest is resnet18" in describe_unknown([wrapped, bare])
    assert "none is near" in describe_unknown([wrapped])


@pytest.mark.parametrize("shapes", [UNKNOWN, {"bias": (4,)}, {}])
def test_where_none_is_near_the_tensors_are_listed(shapes):
    text = describe_unknown([shapes])
    assert "supported architectures has these tensors (+), and none is near:\n" in text
    assert text.count("\n + ") == len(shapes)


@pytest.mark.parametrize("rank", [0, 1, 3, 5])
def test_kernels_of_another_rank_have_a_nearest_one(rank):
    """As those of ``Conv3d`` and ``Conv1d``."""
    shapes = {key: (*shape, 3)[:rank] if len(shape) == 4 else shape for key, shape in shapes_of().items()}
    assert "; the nearest is resnet18, and these differ" in describe_unknown([shapes])


def test_a_network_that_fits_but_for_its_use_is_named():
    text = describe_unknown([shapes_of()])
    assert text.startswith("the tensors are those of resnet18, which is made for other images or classes")


@pytest.mark.parametrize(
    "shapes",
    [
        {f"layer{number}.weight": (4, 4) for number in range(50_000)},
        {f"{number}.{'a.' * 500}weight": (4, 4) for number in range(1000)},
    ],
)
def test_very_many_tensors_and_very_long_names_take_no_time(shapes):
    begin = time.process_time()
    assert "none is near" in describe_unknown([shapes] * 5)
    assert time.process_time() - begin < 5
