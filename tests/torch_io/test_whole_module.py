"""Whole modules, read without their class: the names, the order and the bits of torch's own ``state_dict``."""

import io
import zipfile

import pytest
import torch
from torch import nn

from rnp_jax.errors import CheckpointError
from rnp_jax.torch_io import Limits, find_state_dict, read_checkpoint, write_checkpoint
from rnp_jax.torch_io.nodes import ModuleNode, Opaque
from tests.torch_io import hostile as h
from tests.torch_io.test_reader import FORMATS, assert_same_bits, save


class Net(nn.Module):
    """What a state dict treats apart: None, shared modules, tied weights, buffers that are not saved."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, bias=False)
        self.layers = nn.ModuleList([nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()), nn.Linear(4, 4)])
        self.again = self.layers[1]
        self.tied = nn.Linear(4, 4)
        self.tied.weight = self.again.weight
        self.scale = nn.Parameter(torch.ones(2), requires_grad=False)
        self.register_buffer("seen", torch.tensor(3))
        self.register_buffer("cache", torch.zeros(5), persistent=False)
        self.register_buffer("nothing", None)
        self.nowhere = None
        self.register_module("no_module", None)
        self.note = {"free": [torch.ones(1)], "hook": print}


def module(**parts: bytes) -> bytes:
    """An object of a class that does not exist, with the attributes of a module."""
    state = dict.fromkeys(("_parameters", "_buffers", "_modules"), b"}") | parts
    return h.name("models", "Net") + b")\x81" + h.dict_(**state) + b"b"


def read(tmp_path, root: bytes, **options):
    path = tmp_path / "m.pt"
    path.write_bytes(h.torch_zip(root))
    return read_checkpoint(path, **options)


@FORMATS
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("parallel", [False, True])
def test_the_tensors_are_those_of_the_state_dict(new, protocol, parallel, tmp_path):
    network = nn.DataParallel(Net()) if parallel else Net()
    checkpoint = read_checkpoint(save(network, tmp_path / "m.pt", new, pickle_protocol=protocol))
    found, expected = find_state_dict(checkpoint), network.state_dict()
    assert (found.location, found.prefix) == ((), "module." if parallel else "")
    assert [found.prefix + name for name in found.tensors] == list(expected)
    for name, tensor in expected.items():
        assert_same_bits(found.tensors[name.removeprefix(found.prefix)], tensor)
    (sentence,) = checkpoint.anomalies
    assert sentence.startswith("data is a whole module of class ")
    assert ('"torch.nn.parallel.data_parallel.DataParallel"' if parallel else f'"{__name__}.Net"') in sentence


@FORMATS
@pytest.mark.parametrize("container", ["zip", "legacy", "safetensors"])
def test_it_is_written_as_a_plain_state_dict(new, container, tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    value = {"epoch": 3, "model": network, "pair": (network, 2)}
    checkpoint = read_checkpoint(save(value, tmp_path / "m.pt", new))
    found = find_state_dict(checkpoint)
    assert (found.location, len(checkpoint.anomalies)) == (("model",), 1)  # the one in the pair is the same
    assert checkpoint.tree["pair"] == (checkpoint.tree["model"], 2)
    changed = {"0.bias": torch.full((4,), 7.0).numpy()}
    write_checkpoint(tmp_path / "copy", checkpoint, found, changed, container=container)
    if container == "safetensors":
        return
    copy = torch.load(tmp_path / "copy", weights_only=True)
    assert (copy["epoch"], copy["pair"][1]) == (3, 2)
    assert not any(isinstance(tensor, nn.Parameter) for tensor in copy["model"].values())
    network.load_state_dict(copy["model"], strict=True)
    assert network[0].bias.tolist() == [7.0] * 4


def test_an_old_module_and_the_source_text_of_its_class(tmp_path):
    parts = h.dict_(
        _parameters=h.ordered(weight=h.tensor(view=b"N"), bias=b"N"), _buffers=h.ordered(), _modules=h.ordered()
    )
    source = h.tuple_(h.text("module"), h.name("models", "Net"), h.text("net.py"), h.text("import os  # and more"))
    (tmp_path / "m.pt").write_bytes(h.legacy(source + b"Q)\x81" + parts + b"b"))
    checkpoint = read_checkpoint(tmp_path / "m.pt")
    assert find_state_dict(checkpoint).tensors["weight"].tolist() == [[1, 2], [3, 4]]
    assert "import os" not in repr(vars(checkpoint))


def test_nothing_of_it_is_executed_or_imported(tmp_path, watch):
    payload = h.call("os", "system", h.text(h.COMMAND))
    root = module(_parameters=h.dict_(weight=h.tensor()), _modules=h.dict_(child=module(hook=payload)), hook=payload)
    path = tmp_path / "m.pt"
    path.write_bytes(h.torch_zip(root))
    state_dict = watch(lambda: find_state_dict(read_checkpoint(path)), path)
    assert list(state_dict.tensors) == ["weight"]


def test_a_part_that_was_left_unread_is_told_when_its_tensors_are_asked_for(tmp_path):
    other = h.name("graph", "Compiled") + b")\x81"
    root = h.dict_(model=module(_parameters=h.dict_(w=h.tensor()), _modules=h.dict_(inner=other)), net=module())
    checkpoint = read(tmp_path, root)
    assert isinstance(checkpoint.tree["model"], ModuleNode)
    assert isinstance(checkpoint.tree["model"]["inner"], Opaque)
    with pytest.raises(CheckpointError, match=r'data\["model"\]\["inner"\] is "graph.Compiled", which is not a dense'):
        find_state_dict(checkpoint)


def test_the_name_of_a_class_steers_no_terminal(tmp_path):
    root = module(_parameters=h.dict_(w=h.tensor())).replace(b"models", b"m\x1b[2J")
    (sentence,) = read(tmp_path, root).anomalies
    assert r'"m\u001b[2J.Net"' in sentence


def test_a_crowd_of_modules_is_counted(tmp_path):
    anomalies = read(tmp_path, h.list_(*(module(_parameters=h.dict_(w=h.tensor())) for _ in range(100)))).anomalies
    assert (len(anomalies), anomalies[-1]) == (21, "80 more whole modules, read alike")


SELF = module(_modules=h.dict_(a=b"h\0")).replace(b")\x81", b")\x81q\0")


def nested(count: int) -> bytes:
    root = module()
    for _ in range(count):
        root = module(_modules=h.dict_(a=root))
    return root


def doubled(count: int) -> bytes:
    """Modules that each hold the one before twice: 2 to the power of `count` in the end."""
    body = module(_parameters=h.dict_(w=h.tensor())) + b"q\0" + b"0"
    for index in range(1, count + 1):
        previous = b"h" + bytes([index - 1])
        body += module(_modules=h.dict_(a=previous, b=previous)) + b"q" + bytes([index]) + b"0"
    return body + b"h" + bytes([count])


HOSTILE = {
    "itself": (SELF, 'contains itself, as "a."'),
    "itself under a key": (h.dict_(model=SELF), r'module data["model"] contains itself'),
    "deep": (nested(70), "deeper than 64 modules (Limits.depth)"),
    "shared exponentially": (doubled(60), "more than 100000 (Limits.members)"),
    "a name that is no text": (module(_modules=b"}K\1" + module() + b"s"), "no text of up to 1024 letters: 1"),
    "a long name": (module(_parameters=h.dict_(**{"w" * 1025: h.tensor()})), "no text of up to 1024 letters"),
    "a name that is there twice": (
        module(
            _parameters=h.dict_(**{"a.w": h.tensor()}), _modules=h.dict_(a=module(_parameters=h.dict_(w=h.tensor())))
        ),
        'two tensors of the name "a.w"',
    ),
    "no tensor": (module(_parameters=h.dict_(w=h.integer(3))), 'holds a int as "w"'),
    "given twice": (module()[:-1] + b"b" + module()[len(h.name("models", "Net")) + 2 :], "its attributes twice"),
    "nothing in it": (module(), "no state dict"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_no_module_of_torch_holds_is_a_typed_error(name, tmp_path, watch):
    root, reason = HOSTILE[name]
    path = tmp_path / "m.pt"
    path.write_bytes(h.torch_zip(root))
    with pytest.raises(CheckpointError) as caught:
        watch(lambda: find_state_dict(read_checkpoint(path)), path)
    assert reason in caught.value.reason


def test_a_list_of_buffers_that_many_modules_share_is_charged_each_time(tmp_path):
    names = h.call("builtins", "set", h.list_(*(h.text(f"b{index}") for index in range(1000)))) + b"q\0" + b"0"
    child = module(_non_persistent_buffers_set=b"h\0")
    root = names + module(_modules=h.dict_(**{f"m{index}": child for index in range(20)}))
    read(tmp_path, root)
    with pytest.raises(CheckpointError, match=r"more than 5000 \(Limits\.members\)"):
        read(tmp_path, root, limits=Limits(members=5000))


def test_a_damaged_class_name_changes_no_tensor(tmp_path):
    """What the tensors are does not depend on the class that the file names."""
    buffer = io.BytesIO()
    torch.save(nn.Sequential(nn.Linear(2, 2)), buffer)
    with zipfile.ZipFile(buffer) as archive:
        members = [h.Member(name, archive.read(name)) for name in archive.namelist()]
    for member in members:
        member.content = member.content.replace(b"torch.nn.modules.linear\nLinear", b"os\nsystem")
    (tmp_path / "m.pt").write_bytes(h.archive(*members))
    assert list(find_state_dict(read_checkpoint(tmp_path / "m.pt")).tensors) == ["0.weight", "0.bias"]


class Classifier(nn.Module):
    """A convolution, its statistics and a head, which TorchScript can hold."""

    def __init__(self):
        super().__init__()
        self.Stem = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.Stem(x).mean((2, 3)))


def script(path, traced: bool = False, **extra) -> Classifier:
    network = Classifier().eval()
    program = torch.jit.trace(network, torch.zeros(1, 3, 8, 8)) if traced else torch.jit.script(network)
    torch.jit.save(program, str(path), **extra)
    return network


@pytest.mark.filterwarnings("ignore")  # torch.jit is deprecated, and files still hold it
@pytest.mark.parametrize("traced", [False, True])
def test_the_tensors_of_a_torchscript_program_are_read_and_its_code_is_not(traced, tmp_path, watch):
    network = script(tmp_path / "m.pt", traced, _extra_files={"Notes.txt": "none"})
    checkpoint = watch(lambda: read_checkpoint(tmp_path / "m.pt"), tmp_path / "m.pt")
    found = find_state_dict(checkpoint)
    assert list(found.tensors) == list(network.state_dict())
    for name, tensor in network.state_dict().items():
        assert_same_bits(found.tensors[name], tensor)
    unread, sentence = checkpoint.anomalies
    assert "zip members that no tensor uses, left unread" in unread
    assert sentence.startswith('data is a TorchScript program "__torch__.')
    assert "its code was not" in sentence
    write_checkpoint(tmp_path / "copy.pt", checkpoint, found, {})
    network.load_state_dict(torch.load(tmp_path / "copy.pt", weights_only=True), strict=True)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("other", "reason"), [(b"/kode/", "compressed"), (b"/DATA/", "capital letters")])
def test_only_the_code_of_a_program_may_be_compressed_or_have_capitals(other, reason, tmp_path):
    script(tmp_path / "m.pt")
    content = (tmp_path / "m.pt").read_bytes()
    (tmp_path / "m.pt").write_bytes(content.replace(b"/code/" if other == b"/kode/" else b"/data/", other))
    with pytest.raises(CheckpointError, match=reason):
        read_checkpoint(tmp_path / "m.pt")


def scripted(**state: bytes) -> bytes:
    return h.name("__torch__.net", "Net") + b")\x81" + h.dict_(**state) + b"b"


def test_what_a_program_holds_beside_tensors_and_modules_is_not_of_its_state_dict(tmp_path):
    numbers = h.call("torch.jit._pickle", "build_intlist", h.list_(h.integer(1)))
    root = scripted(training=b"\x89", inner=scripted(w=h.tensor(), padding=numbers), w=h.tensor(), nothing=b"N")
    assert list(find_state_dict(read(tmp_path, root)).tensors) == ["w", "inner.w"]
    packed = h.name("__torch__.torch.classes.quantized", "LinearPackedParamsBase") + b")\x81K\1b"
    with pytest.raises(CheckpointError, match="LinearPackedParamsBase"):
        find_state_dict(read(tmp_path, scripted(w=h.tensor(), packed=packed)))
