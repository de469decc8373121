"""Weights of a network that no name tells, and how they are left out of what is written."""

import pytest
import torch
from torch import nn

from rnp_jax.errors import CheckpointError
from rnp_jax.torch_io import Limits, find_copies, find_state_dict, read_checkpoint, write_checkpoint
from rnp_jax.torch_io.text import format_path


def build(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        widths = (3, 20, 6, 20)
        blocks = [
            layer
            for inputs, outputs in zip(widths, (*widths[1:], 4), strict=True)
            for layer in (nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs))
        ]
        return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))


NETWORK = build()
STATE = NETWORK.state_dict()
READ = [name for name in STATE if not name.endswith("num_batches_tracked")]
LEARNT = dict(NETWORK.named_parameters())
KERNELS = ["0.weight", "2.weight", "4.weight", "6.weight"]
AVERAGED = {
    name: value + 0.1 * value.abs() if value.is_floating_point() else value.clone() for name, value in STATE.items()
}
VALUES = list(AVERAGED.values())


def nest(state: dict) -> dict:
    tree: dict = {}
    for name, value in state.items():
        *steps, last = name.split(".")
        node = tree
        for step in steps:
            node = node.setdefault(step, {})
        node[last] = value
    return tree


def flatten(names) -> torch.Tensor:
    return torch.cat([AVERAGED[name].detach().reshape(-1).float() for name in names])


def train(optimizer: type, steps: int = 3, **options):
    """What an optimizer keeps of a network at rest, and the network."""
    network = build()
    keeper = optimizer(network.parameters(), lr=1e-4, **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for _ in range(steps):
            keeper.zero_grad()
            network(torch.randn(8, 3, 4, 4)).square().sum().backward()
            keeper.step()
    return network, keeper.state_dict()


DECAYED = [name for name, value in LEARNT.items() if value.ndim > 1]
FLAT = [name for name in LEARNT if name not in DECAYED]
SCATTERED = {
    "a list of all tensors": VALUES,
    "a tuple": tuple(VALUES),
    "by number": dict(enumerate(VALUES)),
    "underscores for dots": {name.replace(".", "_"): value for name, value in AVERAGED.items()},
    "a word before": {f"ema_{name}": value for name, value in AVERAGED.items()},
    "a word behind": {f"{name}_ema": value for name, value in AVERAGED.items()},
    "pairs": list(AVERAGED.items()),
    "a tree": nest(AVERAGED),
    "each of them flat": [value.reshape(-1) for value in VALUES],
    "half precision by number": {number: value.half() for number, value in enumerate(VALUES)},
    "whole numbers": {name: (value * 300).to(torch.int8) for name, value in STATE.items()},
    "slots of an optimizer": {"state": {number: {"slow_buffer": value} for number, value in enumerate(VALUES)}},
    "two layers": {"stem": AVERAGED["0.weight"], "last": AVERAGED["6.weight"]},
    "most of a state dict": {
        name: value for name, value in AVERAGED.items() if name != "8.weight" and "10" not in name
    },
}
VECTORS = {
    "of the learnt": flatten(LEARNT),
    "of all that is read": flatten(READ),
    "of all": flatten(STATE),
    "with decayed ones first": flatten([*DECAYED, *FLAT]),
    "with decayed ones last": flatten([*FLAT, *DECAYED]),
    "padded": torch.cat([flatten(LEARNT), torch.zeros(5000)]),
    "of a part": flatten(LEARNT)[: sum(value.numel() for value in LEARNT.values()) * 3 // 4],
    "as a row": flatten(LEARNT)[None],
}


def open_file(tmp_path, tree, **limits):
    torch.save(tree, tmp_path / "m.pt")
    checkpoint = read_checkpoint(tmp_path / "m.pt", limits=Limits(**limits))
    state_dict = find_state_dict(checkpoint, "state_dict")
    return checkpoint, state_dict, find_copies(checkpoint, state_dict, READ)


def list_tensors(tree) -> list[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        return [tree]
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else []
    return [tensor for part in parts for tensor in list_tensors(part)]


def holds_kernel(tree) -> bool:
    sizes = {STATE[name].numel() for name in KERNELS}
    whole = sum(value.numel() for value in LEARNT.values())
    return any(each.numel() in sizes or each.numel() >= whole // 2 for each in list_tensors(tree))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("case", [*SCATTERED, *VECTORS])
def test_weights_that_no_name_tells_are_found_and_left_out(case, legacy, tmp_path):
    beside = SCATTERED[case] if case in SCATTERED else [VECTORS[case]]
    checkpoint, state_dict, copies = open_file(tmp_path, {"state_dict": STATE, "x": beside, "epoch": 3})
    assert copies.fitting == copies.others == ()
    assert [each.location[0] for each in copies.remains] == ["x"]
    places = [place for each in copies.remains for place in each.tensors]
    container = "legacy" if legacy else "zip"
    dropped = write_checkpoint(tmp_path / "new.pt", checkpoint, state_dict, {}, left_out=places, container=container)
    assert set(dropped) == {format_path(place) for place in places}
    after = torch.load(tmp_path / "new.pt", weights_only=True)
    assert not holds_kernel(after["x"])
    assert after["epoch"] == 3
    assert all(torch.equal(after["state_dict"][name], value) for name, value in STATE.items())


def test_a_place_that_several_lead_to_and_one_in_the_same_dict(tmp_path):
    both = {**STATE, **{f"ema_{name}": value for name, value in AVERAGED.items()}}
    checkpoint, state_dict, _ = open_file(tmp_path, {"state_dict": both, "x": [VALUES, VALUES], "y": VALUES})
    known = [name for name in both if name.startswith("ema_")]
    own = state_dict.without(known)
    remains = find_copies(checkpoint, own, READ).remains
    assert [each.location for each in remains] == [("state_dict",), ("x", 0)]
    places = [place for each in remains for place in each.tensors]
    assert ("state_dict", "ema_0.weight") in places
    for container in ("zip", "safetensors"):
        path = tmp_path / f"new.{container}"
        write_checkpoint(path, checkpoint, own, {}, left_out=places, container=container)
        again = read_checkpoint(path)
        assert find_copies(again, find_state_dict(again).without(known), READ).remains == ()


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        (torch.optim.Adam, {}),
        (torch.optim.Adam, {"amsgrad": True}),
        (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.01}),
        (torch.optim.RMSprop, {"momentum": 0.9, "centered": True}),
    ],
)
def test_what_optimizers_keep_is_not_touched(optimizer, options, tmp_path):
    network, kept = train(optimizer, **options)
    gradients = [value.grad for value in network.parameters()]
    flat = {
        name: torch.cat([each[name].reshape(-1) for each in kept["state"].values()])
        for name, value in kept["state"][0].items()
        if value is not None and value.ndim
    }
    tree = {"state_dict": network.state_dict(), "optimizer": kept, "grads": gradients, "flat": flat}
    assert open_file(tmp_path, tree)[2].remains == ()


@pytest.mark.parametrize(
    "beside",
    [
        [value * torch.nan for value in VALUES],
        [torch.zeros_like(value) for value in VALUES],
        [torch.ones_like(value, dtype=torch.bool) for value in VALUES],
        list(build(1).state_dict().values()),
        torch.cat([value.reshape(-1) for value in build(1).state_dict().values()]),
        [AVERAGED["0.weight"], AVERAGED["0.weight"] + 0, 3],
        [torch.randn(0, 3), torch.tensor(1.0), torch.randn(7000, dtype=torch.complex64)],
    ],
    ids=["not finite", "zeros", "masks", "another network", "flat", "one layer", "no match"],
)
def test_what_holds_no_weights_stays(beside, tmp_path):
    assert open_file(tmp_path, {"state_dict": STATE, "x": beside})[2].remains == ()


def test_averages_that_an_optimizer_keeps_are_left_out(tmp_path):
    network, kept = train(torch.optim.ASGD)
    (remains,) = open_file(tmp_path, {"state_dict": network.state_dict(), "optimizer": kept})[2].remains
    assert remains.location == ("optimizer", "state")
    assert {place[-1] for place in remains.tensors} == {"ax"}


def test_reading_is_bounded(tmp_path):
    """Many tensors may view the same bytes."""
    vector = torch.zeros(20_000)
    strided = [vector[start::36][:540] for start in range(200)]
    repeated = [vector[start : start + 1].expand(3600) for start in range(200)]
    for views in ([vector[start:] for start in range(200)], strided, repeated):
        with pytest.raises(CheckpointError, match=r"the network take \d+ bytes, more than 200000 \(Limits.file"):
            open_file(tmp_path, {"state_dict": STATE, "x": views}, file_bytes=200_000)
