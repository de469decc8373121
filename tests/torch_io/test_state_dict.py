"""Where each project keeps the classifier's state dict, and what is refused."""

import os

import ml_dtypes
import numpy as np
import pytest

from rnp_jax.errors import CheckpointError
from rnp_jax.torch_io import Checked, check_consumed, find_state_dict, read_checkpoint
from tests.torch_io import hostile as h

SD = h.ordered(w=h.tensor())
OPAQUE = h.name("sched", "Step") + b")\x81"


@pytest.fixture
def checkpoint(tmp_path):
    def read(**items):
        path = tmp_path / "m.pt"
        path.write_bytes(h.torch_zip(h.dict_(**items)))
        return read_checkpoint(path)

    return read


LAYOUTS = {
    "RNP": ({"epoch": h.integer(3), "state_dict": SD, "optimizer": h.dict_(state=b"}")}, ("state_dict",)),
    "BackdoorBench": ({"model_name": h.text("vgg19"), "model": SD, "bd_train": OPAQUE}, ("model",)),
    "WaNet": ({"netC": SD, "schedulerC": h.dict_(milestones=b"}"), "identity_grid": h.tensor()}, ("netC",)),
    "LIRA": ({"atkmodel": SD, "clsmodel": SD, "scheduler": OPAQUE}, ("clsmodel",)),
    "BackdoorBox": ({"model": SD, "modelG": SD, "modelM": SD}, ("model",)),
    "others": ({"model_state_dict": SD, "loss": h.integer(1)}, ("model_state_dict",)),
    "net": ({"net": SD, "acc": h.integer(1)}, ("net",)),
    "name of a model": ({"model": h.text("resnet18"), "state_dict": SD}, ("state_dict",)),
    "raw": ({"w": h.tensor(), "b": h.tensor()}, ()),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_known_layouts(layout, checkpoint):
    items, location = LAYOUTS[layout]
    state_dict = find_state_dict(checkpoint(**items))
    assert state_dict.location == location
    assert state_dict.tensors["w"].tolist() == [[1, 2], [3, 4]]


def test_a_key_chooses(checkpoint):
    source = checkpoint(netG=SD, all=h.dict_(deep=SD), w=h.tensor(), n=b"N")
    assert find_state_dict(source, "netG").location == ("netG",)
    assert find_state_dict(source, "all/deep").location == ("all", "deep")
    root = find_state_dict(source, "/")
    assert (root.location, root.skipped) == ((), ("netG", "all", "n"))


PREFIXES = {
    "a network as it is": (("class_token", "1.weight"), ""),
    "several GPUs": (("module.w", "module.b"), "module."),
    "several GPUs twice": (("module.module.w", "module.module.1.b"), "module.module."),
    "behind a resize": (("1.class_token", "1.encoder.ln.weight"), "1."),
    "behind a resize, on several GPUs": (("module.1.conv1.weight", "module.1.fc.bias"), "module.1."),
    "on several GPUs, behind a resize": (("1.module.conv1.weight", "1.module.fc.bias"), "1.module."),
    "a second step of the outer of two": (("1.1.weight", "1.1.bias"), "1."),
    "the second layer of all": (("1.weight", "1.bias"), ""),
    "layers from the first on": (("1.weight", "1.0.weight", "2.weight"), ""),
    "layers from the tenth on": (("10.0.weight", "11.0.weight"), ""),
}


@pytest.mark.parametrize("case", PREFIXES)
def test_what_wraps_a_network_is_taken_off_its_names(case, checkpoint):
    names, prefix = PREFIXES[case]
    state_dict = find_state_dict(checkpoint(model=h.dict_(**dict.fromkeys(names, h.tensor()))))
    assert state_dict.prefix == prefix
    assert [prefix + name for name in state_dict.tensors] == list(names)


@pytest.mark.parametrize("prefix", ["", "1."])
def test_a_wrapper_of_some_names_only_is_refused(prefix, checkpoint):
    names = (f"{prefix}conv1.weight", f"{prefix}module.conv2.weight")
    source = checkpoint(model=h.dict_(**dict.fromkeys(names, h.tensor())))
    with pytest.raises(CheckpointError, match=rf'1 of 2 names begin with "{prefix}module\."'):
        find_state_dict(source)


REFUSED = {
    "several": ({"state_dict": SD, "netC": SD}, None, "several state dicts: state_dict, netC; choose one with --key"),
    "unknown layout": ({"netG": SD, "epoch": b"N"}, None, '"netG" hold tensors: choose one with --key'),
    "no tensors": ({"epoch": b"N"}, None, "no state dict under"),
    "missing key": ({"model": SD}, "modle", 'no key "modle"; known keys: "model"'),
    "not a dict": ({"model": SD, "epoch": b"N"}, "epoch", "not a state dict"),
    "empty": ({"model": SD, "net": b"}"}, "net", "holds no tensors"),
    "opaque inside": ({"model": h.dict_(w=h.tensor(), x=OPAQUE)}, None, 'data["model"]["x"] is "sched.Step"'),
    "opaque deep inside": ({"model": h.dict_(w=h.tensor(), x=h.list_(OPAQUE))}, None, 'data["model"]["x"][0]'),
    "opaque itself": ({"model": OPAQUE, "epoch": b"N"}, None, 'data["model"] is "sched.Step"'),
    "opaque in a raw one": ({"w": h.tensor(), "x": OPAQUE}, None, 'data["x"] is "sched.Step"'),
    "number as a name": ({"model": b"}(" + h.text("w") + h.tensor() + b"K\x01" + h.tensor() + b"u"}, None, "the key 1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name, checkpoint):
    items, key, reason = REFUSED[name]
    with pytest.raises(CheckpointError) as caught:
        find_state_dict(checkpoint(**items), key)
    assert reason in caught.value.reason


def test_a_root_that_is_no_dict(tmp_path):
    (tmp_path / "m.pt").write_bytes(h.torch_zip(h.list_(h.tensor())))
    with pytest.raises(CheckpointError, match="holds a list"):
        find_state_dict(read_checkpoint(tmp_path / "m.pt"))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_consumed_values_are_checked_and_others_not(dtype):
    good = np.array([1, -2], dtype)
    bad = np.array([1, np.nan], dtype)
    tensors = {"w": good, "neuron_noise": bad, "steps": np.array([-3]), "running_var": np.array([0, 2], dtype)}
    check_consumed(tensors, ["w", "running_var", "steps"], "m.pt")
    with pytest.raises(CheckpointError, match=r"neuron_noise.* holds nan at \(1,\)"):
        check_consumed(tensors, tensors, "m.pt")
    with pytest.raises(CheckpointError, match="negative variance -2"):
        check_consumed({"bn.running_var": good}, ["bn.running_var"], "m.pt")


def test_names_and_shapes_are_known_without_reading(checkpoint):
    found = checkpoint(state_dict=SD)
    tensors = find_state_dict(found).tensors
    os.truncate(found.path, 10)
    assert (list(tensors), len(tensors), tensors.refs["w"].shape) == (["w"], 1, (2, 2))
    assert "w" in tensors
    assert "w" in Checked(tensors, "m.pt")
    assert "b" not in tensors
    with pytest.raises(CheckpointError, match="changed while it was read"):
        tensors["w"]


def test_checked_tensors_are_refused_when_they_are_asked_for():
    given = {"good": np.ones(2), "bad": np.array([1.0, np.nan])}
    checked = Checked(given, "m.pt")
    assert (list(checked), len(checked), checked.get("none")) == (["good", "bad"], 2, None)
    assert checked["good"] is given["good"]
    with pytest.raises(CheckpointError, match=r"bad.* holds nan at \(1,\)"):
        checked["bad"]


@pytest.mark.parametrize("key", [b"K\0", b"N", b"\x89", b"C\0", b"G" + bytes(8), b"K\x07"])
def test_a_key_that_is_no_text_is_refused_even_where_it_is_falsy(key, tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(h.torch_zip(h.dict_(state_dict=b"}(" + h.text("w") + h.tensor() + key + h.tensor() + b"u")))
    with pytest.raises(CheckpointError, match="which is not the name of a tensor"):
        find_state_dict(read_checkpoint(path))


def test_a_name_is_short_and_few_wrappers_are_taken_off(tmp_path):
    """A name of 60 MB, "1.1.1…", took minutes."""
    path = tmp_path / "model.pt"
    path.write_bytes(h.torch_zip(h.dict_(state_dict=h.dict_(**{"1." * 10**6: h.tensor()}))))
    with pytest.raises(CheckpointError, match=r'"\.\.\. of 2000000 letters, more than 1024'):
        find_state_dict(read_checkpoint(path))
    for wrapper in ("1.", "module."):
        path.write_bytes(h.torch_zip(h.dict_(state_dict=h.dict_(**{wrapper * 32 + "w": h.tensor()}))))
        assert find_state_dict(read_checkpoint(path)).prefix == wrapper * 4


@pytest.mark.parametrize("where", ["state_dict", "other"])
def test_a_name_has_few_dots_wherever_it_is(where, checkpoint):
    """Ten thousand names of 500 dots each took a minute: each prefix of each is looked up."""
    held = h.dict_(**{"a." * 33 + "w": h.tensor()})
    with pytest.raises(CheckpointError, match=rf'data\["{where}"\] has the key "a.*" of 33 dots, more than 32'):
        find_state_dict(checkpoint(**{"state_dict": SD, where: held}))
