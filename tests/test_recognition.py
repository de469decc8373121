"""Networks behind the names of wrappers, and what stands beside them in a state dict."""

import pytest
import torch
from torch.nn.utils import parametrizations, prune

from rnp_jax import masks
from rnp_jax.checkpoints import load_model, open_checkpoint, save_model
from rnp_jax.errors import ArchitectureError, CheckpointError
from rnp_jax.recognition import recognise
from rnp_jax.torch_io import find_state_dict, read_checkpoint
from tests.networks import build, build_random

STATE = build_random("resnet18").state_dict()
UNKNOWN = {
    "stem.weight": torch.ones(4, 3, 3, 3),
    "body.0.weight": torch.ones(4, 4, 3, 3),
    "top.weight": torch.ones(5, 4),
}


def named(prefix: str, state=STATE) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in state.items()}


def prune_stem(variables):
    filters = masks.filters(variables["masks"])
    return masks.apply_filters(variables, {**filters, "bn1": filters["bn1"] * 0})


COMPILED_IN_PART = {name.replace("layer1.", "layer1._orig_mod."): value for name, value in STATE.items()}
WRAPPED = {
    "nothing": (STATE, ""),
    "torch.compile": (named("_orig_mod."), "_orig_mod."),
    "compiled, on several GPUs": (named("module._orig_mod."), "module._orig_mod."),
    "on several GPUs, compiled": (named("_orig_mod.module."), "_orig_mod.module."),
    "compiled in part": (COMPILED_IN_PART, ""),
    "compiled in part, within": ({f"net.{name}": value for name, value in COMPILED_IN_PART.items()}, "net."),
    "Lightning": (named("model."), "model."),
    "another word": (named("encoder."), "encoder."),
    "a word that the network has": (named("fc."), "fc."),
    "two words": (named("module.model.backbone."), "module.model.backbone."),
    "averaged": (torch.optim.swa_utils.AveragedModel(build_random("resnet18")).state_dict(), "module."),
    "averaged on several GPUs": ({"module.n_averaged": torch.tensor(1), **named("module.module.")}, "module.module."),
    "twice": ({**named("module.model."), **named("module.attacker.model.")}, "module.model."),
    "ema_pytorch's": (
        {"step": torch.tensor(1), **named("online_model."), **named("ema_model.")},
        "online_model.",
    ),
}


@pytest.mark.parametrize("case", WRAPPED)
def test_a_wrapper_is_taken_off_and_put_back(case, tmp_path):
    state, prefix = WRAPPED[case]
    torch.save({"state_dict": state, "step": torch.tensor(3)}, tmp_path / "m.pt")
    model = load_model(tmp_path / "m.pt", normalization="half")
    assert (model.network.architecture.name, model.network.architecture.names) == ("resnet18", ())
    assert model.state_dict.prefix == prefix
    assert set(model.state_dict.tensors) == set(STATE)
    save_model(tmp_path / "cleaned.pt", model, prune_stem(model.variables))
    cleaned = torch.load(tmp_path / "cleaned.pt", weights_only=True)["state_dict"]
    assert list(cleaned) == list(state)
    changed = [name for name in state if not torch.equal(cleaned[name], state[name])]
    assert changed == [name for name in state if name.endswith("bn1.weight") and "layer" not in name]
    assert all((cleaned[name] == 0).all() for name in changed)


def test_a_network_within_a_larger_one_needs_to_be_named(tmp_path):
    state = {**named("model."), "projection.weight": torch.ones(3, 3), "loss.centers": torch.ones(2)}
    torch.save(state, tmp_path / "m.pt")
    message = (
        r'behind the prefix "model\." is a resnet18, .* --prefix model\.\n \+ projection\.weight\n \+ loss\.centers'
    )
    with pytest.raises(ArchitectureError, match=message):
        open_checkpoint(tmp_path / "m.pt")
    for given in ("model.", "model"):
        _, state_dict, architecture = open_checkpoint(tmp_path / "m.pt", prefix=given)
        assert (architecture.name, state_dict.prefix, set(state_dict.tensors)) == ("resnet18", "model.", set(STATE))
    with pytest.raises(
        ArchitectureError, match=r'no tensor\'s name begins with --prefix "net\."; most begin with "model\."'
    ):
        open_checkpoint(tmp_path / "m.pt", prefix="net")


def test_what_may_be_a_normalisation_is_said_to_be_one(tmp_path):
    torch.save({**named("model."), "step.offsets": torch.zeros(1000), "img_mu": torch.zeros(3)}, tmp_path / "m.pt")
    message = (
        r'"img_mu" looks like a part of a normalisation, so give its mean and standard deviation with --normalization, '
        r"and --prefix model\.\n \+ step\.offsets\n \+ img_mu"
    )
    with pytest.raises(ArchitectureError, match=message):
        open_checkpoint(tmp_path / "m.pt")


@pytest.mark.parametrize(
    ("change", "layer", "advice"),
    [
        (lambda conv: prune.random_unstructured(conv, "weight", 0.5), "conv1", r"prune\.remove\(module, 'weight'\)"),
        (lambda conv: prune.random_unstructured(conv, "weight", 0.5), "layer1.0.conv1", r"prune\.remove\(.*\)"),
        (parametrizations.weight_norm, "layer1.0.conv1", r"remove_parametrizations\(module, 'weight'\)"),
    ],
)
def test_weights_that_are_computed_from_others_are_explained(change, layer, advice, tmp_path):
    module = build_random("resnet18")
    change(module.get_submodule(layer))
    torch.save(module.state_dict(), tmp_path / "m.pt")
    with pytest.raises(ArchitectureError, match=rf"in the place of weights: call torch.*{advice} and save again"):
        open_checkpoint(tmp_path / "m.pt")


def test_a_long_name_is_shortened(tmp_path):
    torch.save(UNKNOWN | {f"{'w' * 900}.weight": torch.ones(3, 3)}, tmp_path / "m.pt")
    with pytest.raises(ArchitectureError, match=r"\n \+ w{20,100}…w{20,100}\.weight \(3, 3\)\n"):
        open_checkpoint(tmp_path / "m.pt")


def test_a_layer_without_a_name_is_no_network(tmp_path):
    torch.save(torch.nn.Linear(7, 3).state_dict(), tmp_path / "m.pt")
    with pytest.raises(ArchitectureError, match=r'a single linear layer without a name .*calls it "0\.weight"'):
        open_checkpoint(tmp_path / "m.pt")


def test_a_prefix_chooses_one_of_several_networks(tmp_path):
    """It counts from the beginning of the names in the file, whatever of it is taken off anyway."""
    torch.save({**named("module.a."), **named("module.b.", build("resnet34").state_dict())}, tmp_path / "m.pt")
    for given, name in (("module.a.", "resnet18"), ("module.b", "resnet34"), ("b.", "resnet34")):
        _, state_dict, architecture = open_checkpoint(tmp_path / "m.pt", prefix=given)
        assert (architecture.name, state_dict.prefix) == (name, f"module.{given.strip('.')[-1]}.")
    torch.save({**named("a._orig_mod."), **named("b.", build("resnet34").state_dict())}, tmp_path / "m.pt")
    for given in ("a.", "a._orig_mod."):
        _, state_dict, architecture = open_checkpoint(tmp_path / "m.pt", prefix=given)
        assert (architecture.name, state_dict.prefix) == ("resnet18", "a._orig_mod.")


@pytest.mark.parametrize(
    ("state", "advice"),
    [
        (named("model.net.", UNKNOWN), r'All names begin with "model\.net\.", .* give all of that with --prefix'),
        (UNKNOWN, "If they are more than the network, say with --prefix"),
    ],
)
def test_an_unknown_network_s_common_prefix_is_named(state, advice, tmp_path):
    torch.save(state, tmp_path / "m.pt")
    with pytest.raises(ArchitectureError, match=advice):
        open_checkpoint(tmp_path / "m.pt")


def test_linear_layers_in_an_unknown_network_are_no_network(tmp_path):
    layer = {"weight": torch.ones(5, 5), "bias": torch.ones(5)}
    head = {f"head.{number}.{leaf}": value for number in range(4) for leaf, value in layer.items()}
    state = {**UNKNOWN, **head}
    torch.save(state, tmp_path / "m.pt")
    with pytest.raises(ArchitectureError, match=r"none of the .* supported architectures"):
        open_checkpoint(tmp_path / "m.pt")


def test_names_that_differ_by_a_wrapper_in_their_middle_only(tmp_path):
    torch.save({**named("a."), "a._orig_mod.conv1.weight": STATE["conv1.weight"]}, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match="two tensors whose names differ by _orig_mod alone"):
        find_state_dict(read_checkpoint(tmp_path / "m.pt"))


def test_values_are_checked_behind_a_prefix(tmp_path):
    state = {name: value.clone() for name, value in named("model.").items()}
    state["model.conv1.weight"][0, 0, 0, 0] = torch.nan
    torch.save(state, tmp_path / "m.pt")
    checkpoint = read_checkpoint(tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=r"conv1\.weight.* holds nan"):
        recognise(checkpoint, find_state_dict(checkpoint))
    assert recognise(checkpoint, find_state_dict(checkpoint), checked=False).architecture.name == "resnet18"
