"""The place of a state dict: found where there is one, offered where there are several, named by keys and indices."""

import pytest
import torch

from rnp_jax.errors import CheckpointError
from rnp_jax.torch_io import find_state_dict, read_checkpoint
from rnp_jax.torch_io.location import tell_location

NETWORK = {"fc.weight": torch.ones(2, 2), "fc.bias": torch.zeros(2)}
OTHER = {"fc.weight": torch.zeros(2, 2), "fc.bias": torch.zeros(2)}
OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(2, 2), "step": torch.tensor(3)}}, "loss": {"weight": torch.ones(2)}}


def find(tmp_path, value, key=None):
    torch.save(value, tmp_path / "m.pt")
    return find_state_dict(read_checkpoint(tmp_path / "m.pt"), key)


FOUND = {
    "nested": ({"checkpoint": {"model": {"state_dict": NETWORK}}, "cfg": {}}, ("checkpoint", "model", "state_dict")),
    "in a tuple": ((NETWORK, {"epoch": 1}), (0,)),
    "in a list, twice the same": ({"models": [NETWORK, NETWORK]}, ("models", 0)),
    "beside an optimizer": ({"weights": NETWORK, "optimizer": OPTIMIZER}, ("weights",)),
    "a number as a key": ({"folds": {3: NETWORK}}, ("folds", 3)),
    "among other values of the root": ({**NETWORK, "epoch": 3, "log": [1, 2]}, ()),
    "under a known name, whatever else there is": ({"model": NETWORK, "x": {"y": OTHER}}, ("model",)),
    "in a module within": ({"out": {"net": torch.nn.Sequential(torch.nn.Linear(2, 2))}}, ("out", "net")),
}


@pytest.mark.parametrize("name", FOUND)
def test_the_only_network_of_a_file_is_found(name, tmp_path):
    value, location = FOUND[name]
    found = find(tmp_path, value)
    assert found.location == location
    assert len(found.tensors) == 2
    again = find(tmp_path, value, "/".join(map(str, location)) or "/")
    assert again.location == location


def test_it_is_said_where_no_project_keeps_it():
    assert tell_location(()) == tell_location(("netC",)) == ()
    assert tell_location(("a", 0)) == ('The network was found under "a/0", the only state dict in the file.',)


REFUSED = {
    "several": ({"a": {"b": NETWORK}, "c": [OTHER]}, None, 'choose one with --key: "a/b", "c/0"'),
    "the root and another": ({**NETWORK, "swa": OTHER}, None, 'choose one with --key: "/", "swa"'),
    "very many": ([dict(NETWORK) for _ in range(30)], None, '"9" and 20 more'),
    "no network": ({"a": [{"x": torch.ones(2)}], "epoch": 3}, None, 'at the root; "a/0" hold tensors: choose one'),
    "a list of numbers": ([1, 2], None, "the file holds a list, not a dict of tensors"),
    "no such index": ([NETWORK, 3], "2/model", 'no key "2"; known keys: 0, 1'),
    "a negative index": ([NETWORK, 3], "-1", 'no key "-1"; known keys: 0, 1'),
    "an index beyond all numbers": ([NETWORK], "9" * 5000, "no key"),
    "below a number": ({"a": [NETWORK, 3]}, "a/1/b", 'no key "b": "a/1" is a int'),
    "a list": ({"a": [NETWORK, 3]}, "a", "is a list, not a state dict"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_where_there_is_not_one_the_others_are_offered(name, tmp_path):
    value, key, reason = REFUSED[name]
    with pytest.raises(CheckpointError) as caught:
        find(tmp_path, value, key)
    assert reason in caught.value.reason


@pytest.mark.filterwarnings("ignore")  # torch.ao is deprecated, and files still hold what it made
def test_quantised_weights_are_named(tmp_path):
    network = torch.ao.quantization.quantize_dynamic(
        torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 2))
    )
    with pytest.raises(CheckpointError, match="quantised weights, which are not supported; save the state dict before"):
        find(tmp_path, network.state_dict())
    linear = torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(torch.nn.Linear(2, 2)))
    with pytest.raises(CheckpointError, match="quantised weights, which are not supported; save the state dict before"):
        find(tmp_path, linear.state_dict())
    with pytest.raises(CheckpointError, match="quantised weights"):
        find(tmp_path, {"fc.weight": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "b": torch.ones(2)})
