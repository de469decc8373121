"""Which dicts and lists of a file are the chosen network once more, and which only look like it."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from rnp_jax.errors import CheckpointError
from rnp_jax.torch_io import Change, Limits, find_copies, find_state_dict, read_checkpoint, write_checkpoint


def build(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 5))


STATE = build().state_dict()
READ = [name for name in STATE if not name.endswith("num_batches_tracked")]
LEARNT = [name for name, _ in build().named_parameters()]


def prefixed(prefix: str, state=STATE) -> dict[str, torch.Tensor]:
    return {prefix + name: value.clone() for name, value in state.items()}


def other(change: float = 0.1) -> dict[str, torch.Tensor]:
    return {name: value + change * value.abs() if value.is_floating_point() else value for name, value in STATE.items()}


def find(tmp_path, tree, key=None, **limits):
    torch.save(tree, tmp_path / "m.pt")
    checkpoint = read_checkpoint(tmp_path / "m.pt", limits=Limits(**limits))
    return find_copies(checkpoint, find_state_dict(checkpoint, key), READ)


IN_PART = {name.replace("1.", "1._orig_mod."): value for name, value in STATE.items()}
TWO = {**prefixed("online."), **prefixed("ema.", other())}
NESTED = {**prefixed(""), **prefixed("a.", other())}
SHADOW = {name: value for name, value in other().items() if name in LEARNT}
PLACES = {
    "averaged": ({"state_dict_ema": prefixed("")}, [(("state_dict_ema",), "", True)]),
    "torchvision's": ({"ema": {"n_averaged": torch.tensor(5), **prefixed("module.")}}, [(("ema",), "module.", True)]),
    "compiled": ({"best": prefixed("module._orig_mod.")}, [(("best",), "module.", True)]),
    "compiled in part": ({"best": IN_PART}, [(("best",), "", True)]),
    "other values": ({"ema": other()}, [(("ema",), "", False)]),
    "in a list": ({"past": [prefixed(""), 3, (other(),)]}, [(("past", 0), "", True), (("past", 2, 0), "", False)]),
    "deep": ({"a": {"b": {"c": prefixed("net.")}}}, [(("a", "b", "c"), "net.", True)]),
    "two in a dict": ({"x": TWO}, [(("x",), "online.", True), (("x",), "ema.", False)]),
    "one around the other": ({"x": NESTED}, [(("x",), "", True), (("x",), "a.", False)]),
    "of another dtype": ({"half": {name: value.half() for name, value in STATE.items()}}, [(("half",), "", True)]),
    "the same tensors": ({"again": dict(STATE)}, [(("again",), "", True)]),
    "learnt values alone": ({"shadow": SHADOW}, [(("shadow",), "", False)]),
    "a list of learnt values": ({"ema": [STATE[name].clone() for name in LEARNT]}, [(("ema",), "", True)]),
    "beside itself, compiled": (
        {"x": {**prefixed(""), **prefixed("_orig_mod.")}},
        [(("x",), "", True), (("x",), "_orig_mod.", True)],
    ),
    "no copy": ({"optimizer": {"state": {0: {"momentum_buffer": STATE["0.weight"]}}}, "n": 3}, []),
    "gradients as a list": ({"grads": [-STATE[name] for name in LEARNT]}, []),
    "a part of it": ({"stem": {name: value for name, value in STATE.items() if name.startswith("0.")}}, []),
}


@pytest.mark.parametrize("case", PLACES)
def test_copies_are_found_wherever_they_are(case, tmp_path):
    beside, expected = PLACES[case]
    found = find(tmp_path, {"state_dict": STATE, **beside})
    assert [(copy.state_dict.location, copy.state_dict.prefix, copy.equal) for copy in found.fitting] == expected
    assert found.others == ()
    for copy in found.fitting:
        assert set(copy.state_dict.tensors) >= set(LEARNT)


def test_a_dict_that_is_in_two_places_is_no_copy_of_itself(tmp_path):
    assert find(tmp_path, {"first": STATE, "state_dict": STATE}).fitting == ()


def test_a_copy_in_the_same_dict(tmp_path):
    """As the robustness library has it; the chosen tensors are the first."""
    tree = {"state_dict": {**prefixed("model."), **prefixed("attacker.model.")}}
    torch.save(tree, tmp_path / "m.pt")
    checkpoint = read_checkpoint(tmp_path / "m.pt")
    whole = find_state_dict(checkpoint)
    found = find_copies(checkpoint, whole.under("model."), READ)
    assert [(copy.state_dict.prefix, copy.equal) for copy in found.fitting] == [("attacker.model.", True)]


WIDER = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 5))
LOOKALIKES = {
    "another width": WIDER.state_dict(),
    "whole numbers": {name: value.to(torch.int8) for name, value in STATE.items()},
    "another network's learnt values": {name: value for name, value in build(1).state_dict().items() if name in LEARNT},
    "most of it": {name: value for name, value in STATE.items() if name != "3.weight"},
}


@pytest.mark.parametrize("case", LOOKALIKES)
def test_what_looks_like_the_network_and_does_not_fit_is_told_apart(case, tmp_path):
    found = find(tmp_path, {"state_dict": STATE, "x": LOOKALIKES[case]})
    assert found.fitting == ()
    assert [each.location for each in found.others] == [("x",)]


def test_a_small_head_is_not_found_inside_a_larger_network(tmp_path):
    head = {"weight": torch.ones(5, 4), "bias": torch.ones(5)}
    best = {f"fc.{name}": value for name, value in head.items()}
    larger = {"0.weight": torch.ones(4, 3), "fc.weight": torch.zeros(5, 4), "fc.bias": torch.zeros(5)}
    torch.save({"net": head, "larger": larger, "best": best}, tmp_path / "m.pt")
    checkpoint = read_checkpoint(tmp_path / "m.pt")
    found = find_copies(checkpoint, find_state_dict(checkpoint), list(head))
    assert [copy.state_dict.location for copy in found.fitting] == [("best",)]


def test_values_that_are_not_finite_are_not_equal_and_not_similar(tmp_path):
    broken = {name: value * torch.nan if value.is_floating_point() else value for name, value in STATE.items()}
    found = find(tmp_path, {"state_dict": STATE, "ema": broken, "list": [broken[name] for name in LEARNT]})
    assert [(copy.state_dict.location, copy.equal) for copy in found.fitting] == [(("ema",), False)]


def test_copies_take_no_more_memory_than_is_allowed(tmp_path):
    size = sum(value.nbytes for value in STATE.values())
    tree = {"state_dict": STATE, "ema": prefixed("")}
    find(tmp_path, tree, materialised_bytes=2 * size)
    with pytest.raises(
        CheckpointError, match=r"its copies in the file, 2 in all, take \d+ bytes, more than \d+ \(Limits"
    ):
        find(tmp_path, tree, materialised_bytes=2 * size - 1)


def test_many_copies_in_one_dict_are_found_quickly(tmp_path):
    """The time was quadratic in their number."""
    crowd = {f"{number}.{name}": value for number in range(300) for name, value in STATE.items()}
    assert len(find(tmp_path, {"state_dict": STATE, "past": crowd}).fitting) == 300


@pytest.mark.parametrize("shadowed", [False, True])
def test_a_copy_in_the_metadata_of_a_state_dict_is_replaced(shadowed, tmp_path):
    """Which ``torch.save`` keeps as an attribute; an item may have the same name."""
    state = build().state_dict()
    vars(state)["_metadata"] = other()
    tree = {"state_dict": state}
    if shadowed:
        holder = OrderedDict(_metadata=prefixed(""))
        vars(holder)["_metadata"] = prefixed("net.")
        tree["holder"] = holder
    torch.save(tree, tmp_path / "m.pt")
    checkpoint = read_checkpoint(tmp_path / "m.pt")
    chosen = find_state_dict(checkpoint, "state_dict")
    copies = find_copies(checkpoint, chosen, READ).fitting
    assert len(copies) == (3 if shadowed else 1)
    values = {name: np.zeros_like(chosen.tensors[name]) for name in READ}
    changes = [Change(copy.state_dict, values) for copy in copies]
    write_checkpoint(tmp_path / "new.pt", checkpoint, chosen, values, others=changes)
    after = torch.load(tmp_path / "new.pt", weights_only=False)  # torch puts no tensors into metadata itself
    held = [after["state_dict"], after["state_dict"]._metadata]
    if shadowed:
        named = {name.removeprefix("net."): value for name, value in after["holder"]._metadata.items()}
        held += [after["holder"]["_metadata"], named]
    assert all(not each[name].any() for each in held for name in READ)
