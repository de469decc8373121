"""Files that torch wrote, loaded without it; files written without it, loaded by torch."""

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from rnp_jax import masks
from rnp_jax.card import ArchitectureCard, Card, NormalizationCard, write_card
from rnp_jax.checkpoints import (
    from_state_dict,
    load_model,
    open_checkpoint,
    save_model,
    save_variables,
    to_state_dict,
)
from rnp_jax.data import NORMALIZATIONS
from rnp_jax.errors import ArchitectureError, CheckpointError, DataError
from rnp_jax.models import Architecture, Network, mlp_head, vision_transformer
from rnp_jax.models.bounds import apply_bounds, bound_entries, find_bounds
from rnp_jax.torch_io import read_checkpoint
from tests.networks import DEEP, SHALLOW, build, build_random, images_for, network_of, state_of, torch_input
from tests.oracle import models
from tests.parity import registered

RNP = NORMALIZATIONS["cifar10_rnp"]
FORMATS = pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
load = partial(load_model, normalization=RNP)


@dataclass
class Container:
    """A foreign object, as BackdoorBench keeps beside the weights."""

    size: int = 3


def bench(state: dict) -> dict:
    return {
        "model_name": "preactresnet18",
        "num_classes": 5,
        "model": state,
        "data_path": "../data",
        "img_size": [32, 32, 3],
        "clean_data": "cifar10",
        "bd_train": Container(),
        "bd_test": {"bd_data_container": Container(4)},
    }


LAYOUTS = {
    "rnp": ("resnet18", lambda state: {"epoch": 3, "state_dict": state, "clean_acc": 0.9, "bad_acc": 1.0}),
    "bench": ("preactresnet18", bench),
    "wanet": ("preactresnet18", lambda state: {"netC": state, "epoch_current": 2, "best_clean_acc": 0.5}),
    "raw": ("resnet18", lambda state: state),
    "parallel": ("resnet18", lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}}),
}


@partial(jax.jit, static_argnums=0)
def logits_of(network, variables, images) -> jax.Array:
    return network(variables, images)[0]


def write(path, value, new: bool = True):
    torch.save(value, path, _use_new_zipfile_serialization=new)
    return path


def find(value, layout: str) -> dict[str, torch.Tensor]:
    """The state dict in what ``torch.load`` returned."""
    state = (
        value[{"raw": None, "bench": "model", "wanet": "netC"}.get(layout, "state_dict")] if layout != "raw" else value
    )
    return {key.removeprefix("module."): tensor for key, tensor in state.items()}


def prune_two(variables):
    like = masks.filters(variables["masks"])
    return masks.apply_filters(
        variables, {name: jnp.asarray(value) for name, value in masks.keep(like, [1, 9]).items()}
    )


def assert_torch_agrees(network, variables, name: str, state) -> None:
    """The state dict, loaded strictly into the oracle, gives the logits of our variables."""
    module = build(name).eval()
    module.load_state_dict({key: value.float() for key, value in state.items()}, strict=True)
    images = images_for(name)
    with torch.no_grad():
        expected = module(torch_input(name, images))
    np.testing.assert_allclose(logits_of(network, variables, images), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", SHALLOW)
def test_state_dicts_survive_both_ways_bit_for_bit(name):
    network, state = network_of(name), state_of(build_random(name))
    back = to_state_dict(network, from_state_dict(network, state))
    assert set(back) == {key for key in state if not key.endswith("num_batches_tracked")}
    for key, value in back.items():
        assert (value.dtype, value.tobytes()) == (np.float32, state[key].tobytes()), key


@FORMATS
@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_of_every_layout_go_in_and_out(layout, new, tmp_path):
    name, wrap = LAYOUTS[layout]
    state = build_random(name).state_dict()
    source = write(tmp_path / "source.pt", wrap(state), new)
    model = load(source)
    assert (model.network.architecture.name, model.network.architecture.num_classes) == (name, 5)
    assert model.network.mean == RNP.mean
    assert model.card is None
    assert_torch_agrees(model.network, model.variables, name, state)

    pruned = prune_two(model.variables)
    dropped = save_model(tmp_path / "cleaned.pt", model, pruned)
    assert len(dropped) == (2 if layout == "bench" else 0)
    value = torch.load(tmp_path / "cleaned.pt", weights_only=True)
    cleaned = find(value, layout)
    assert list(cleaned) == list(state)
    assert_torch_agrees(model.network, pruned, name, cleaned)
    touched = [key for key in state if not torch.equal(cleaned[key], state[key])]
    rows = masks.index(masks.filters(model.variables["masks"]))
    assert set(touched) == {f"{rows[i][0]}.weight" for i in (1, 9)}
    for i in (1, 9):
        assert cleaned[f"{rows[i][0]}.weight"][rows[i][1]] == 0
    for key in set(state) - set(touched):
        assert cleaned[key].numpy().tobytes() == state[key].numpy().tobytes()
    if layout == "rnp":
        assert {key: value[key] for key in ("epoch", "clean_acc", "bad_acc")} == {
            "epoch": 3, "clean_acc": 0.9, "bad_acc": 1.0,
        }  # fmt: skip


def test_a_transformer_behind_a_resize_keeps_its_names_and_its_one_attention_tensor(tmp_path):
    """As BackdoorBench stores it. Query, key and value are one tensor there; only value's rows change."""
    with registered(tiny_transformer=vision_transformer.design(8, 2, 2, 8)):
        network = Network(Architecture("tiny_transformer", 5, 8, image_shape=(16, 16, 3)), placement="unit")
        drawn = to_state_dict(network, network.init(jax.random.key(0)))
        state = {f"1.{key}": torch.from_numpy(value) for key, value in drawn.items()}
        model = load(write(tmp_path / "source.pt", {**bench(state), "model_name": "vit_b_16"}))
        assert (model.network.architecture, model.network.placement) == (network.architecture, "unit")
        assert model.state_dict.prefix == "1."

        layer = "encoder.layers.encoder_layer_1.self_attention"
        filters = masks.filters(model.variables["masks"])
        filters[f"{layer}.in_proj.value"] = filters[f"{layer}.in_proj.value"].at[5].set(0)
        pruned = masks.apply_filters(model.variables, filters)
        save_model(tmp_path / "cleaned.pt", model, pruned)
        cleaned = torch.load(tmp_path / "cleaned.pt", weights_only=True)["model"]
        assert list(cleaned) == list(state)
        weight = f"1.{layer}.in_proj_weight"  # biases of a fresh network are 0 anyway
        assert [key for key in state if not torch.equal(cleaned[key], state[key])] == [weight]
        rows = (cleaned[weight] != state[weight]).any(1).nonzero().flatten().tolist()
        assert rows == [2 * 8 + 5]
        assert (cleaned[weight][rows] == 0).all()
        images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
        again = load(tmp_path / "cleaned.pt")
        expected = logits_of(model.network, pruned, images)
        np.testing.assert_allclose(logits_of(again.network, again.variables, images), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_source_s_dtype_is_kept(dtype, tmp_path):
    state = build_random("resnet18").to(dtype).state_dict()
    model = load(write(tmp_path / "source.pt", {"state_dict": state}))
    assert {leaf.dtype for leaf in jax.tree.leaves(model.variables)} == {jnp.dtype(jnp.float32)}
    save_model(tmp_path / "cleaned.pt", model, prune_two(model.variables))
    cleaned = torch.load(tmp_path / "cleaned.pt", weights_only=True)["state_dict"]
    assert {key: value.dtype for key, value in cleaned.items()} == {key: value.dtype for key, value in state.items()}
    assert cleaned["bn1.weight"].tolist() == pytest.approx(
        [v * (i != 1) for i, v in enumerate(state["bn1.weight"].tolist())]
    )
    assert torch.equal(cleaned["linear.weight"], state["linear.weight"])


def masked_state() -> tuple[dict, torch.nn.Module]:
    """A masked release's state dict, with noise never written to, and the oracle with the same masks."""
    module = build_random("resnet18")
    state = dict(module.state_dict())
    kept = {}
    for name, norm in models.batch_norms(module).items():
        kept[name] = torch.linspace(0, 1, len(norm.weight))
        state[f"{name}.neuron_mask"] = kept[name]
        state[f"{name}.neuron_noise"] = torch.full_like(kept[name], torch.nan)
    models.set_masks(module, kept)
    return state, module


@pytest.mark.parametrize("placement", ["bn_scale", "channel", "conv_output"])
def test_masks_in_the_file_act_as_the_release_has_it(placement, tmp_path):
    state, module = masked_state()
    model = load(write(tmp_path / "source.pt", {"state_dict": state}), placement=placement)
    filters = masks.filters(model.variables["masks"])
    if placement == "bn_scale":
        np.testing.assert_array_equal(filters["layer4.1.bn2"], state["layer4.1.bn2.neuron_mask"])
    else:
        assert all((mask == 1).all() for mask in filters.values())
    images = images_for("resnet18")
    with torch.no_grad():
        expected = module(torch_input("resnet18", images))
    np.testing.assert_allclose(logits_of(model.network, model.variables, images), expected, rtol=0, atol=1e-4)

    save_model(tmp_path / "cleaned.pt", model, model.variables)
    cleaned = torch.load(tmp_path / "cleaned.pt", weights_only=True)["state_dict"]
    assert list(cleaned) == list(state)
    assert all((value == 1).all() for key, value in cleaned.items() if key.endswith("neuron_mask"))
    plain = build("resnet18").eval()
    plain.load_state_dict({key: value for key, value in cleaned.items() if "neuron" not in key}, strict=True)
    with torch.no_grad():
        torch.testing.assert_close(plain(torch_input("resnet18", images)), expected, rtol=0, atol=1e-4)


def test_masks_in_the_file_are_checked(tmp_path):
    state, _ = masked_state()
    state["bn1.neuron_mask"] = torch.tensor([1, torch.nan, 1, 1])
    with pytest.raises(CheckpointError, match=r"bn1\.neuron_mask.*nan"):
        load(write(tmp_path / "nan.pt", state))


@pytest.mark.parametrize("name", ["resnet18", "mlp"])
def test_fresh_files_load_in_torch_and_here(name, tmp_path):
    network = network_of(name)
    variables = from_state_dict(network, state_of(build_random(name)))
    save_variables(tmp_path / "fresh.pt", network, variables, {"epoch": 7})
    value = torch.load(tmp_path / "fresh.pt", weights_only=True)
    assert value["epoch"] == 7
    assert set(value["state_dict"]) == set(build(name).state_dict())
    assert_torch_agrees(network, variables, name, value["state_dict"])
    again = load(tmp_path / "fresh.pt", image_shape=network.architecture.image_shape)
    assert again.network.architecture == network.architecture
    assert all(map(np.array_equal, jax.tree.leaves(again.variables), jax.tree.leaves(variables)))
    with pytest.raises(CheckpointError, match=r"fresh\.pt"):
        save_variables(tmp_path / "fresh.pt", network, variables)


def test_a_cleaned_file_does_not_replace_one_unasked(tmp_path):
    path = write(tmp_path / "model.pt", build_random("resnet18").state_dict())
    before, model = path.read_bytes(), load(path)
    with pytest.raises(CheckpointError, match=r"model\.pt"):
        save_model(path, model, model.variables)
    assert path.read_bytes() == before
    save_model(path, model, prune_two(model.variables), overwrite=True)
    assert torch.load(path, weights_only=True)["bn1.weight"][1] == 0
    assert [each.name for each in tmp_path.iterdir()] == ["model.pt"]


def test_a_class_count_that_disagrees_with_the_head(tmp_path):
    path = write(tmp_path / "model.pt", {"num_classes": 10, "model": build("resnet18").state_dict()})
    with pytest.raises(ArchitectureError, match=r"num_classes 10, but its last layer has 5 outputs"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("stated", "size"),
    [([64, 48, 3], (64, 48)), ((64, 64, 3), (64, 64)), ([64, 64], (32, 32)), ([0, 64, 3], (32, 32)), ("64", (32, 32))],
)
def test_the_image_size_that_a_file_states(tmp_path, stated, size):
    state = build("resnet18").state_dict()
    path = write(tmp_path / "model.pt", {"num_classes": 5, "model": state, "img_size": stated})
    assert load(path).network.architecture.image_shape == (*size, 3)
    assert load(path, image_shape=(16, 16, 3)).network.architecture.image_shape == (16, 16, 3)


def test_weights_that_are_not_finite(tmp_path):
    state = build_random("resnet18").state_dict()
    state["layer1.0.conv1.weight"][0, 0, 0, 0] = torch.inf
    with pytest.raises(CheckpointError, match=r"layer1\.0\.conv1\.weight.*inf"):
        open_checkpoint(write(tmp_path / "model.pt", state))


def card_of(checkpoint_sha256: str, name: str = "model.pt") -> Card:
    return Card(
        file=name,
        sha256=checkpoint_sha256,
        architecture=ArchitectureCard(name="resnet18", num_classes=5, width=4, image_shape=(32, 32, 3)),
        normalization=NormalizationCard(mean=(0.25, 0.5, 0.75), std=(0.5, 0.25, 0.125)),
        data="digits",
        train_images=100,
        attack=None,
        training={},
        augmentation={},
        seed=0,
        precision="float32",
        acc=0.9,
        asr=None,
        ra=None,
        versions={},
    )


def test_the_card_says_how_images_were_normalised(tmp_path):
    path = write(tmp_path / "model.pt", build_random("resnet18").state_dict())
    with pytest.raises(
        DataError,
        match=r"no card that says how its images were normalised.*--normalization, such as cifar10_rnp.*--data",
    ):
        load_model(path)
    card = card_of(open_checkpoint(path)[0].sha256)
    write_card(tmp_path / "model.card.json", card)
    model = load_model(path)
    assert model.card == card
    assert (model.network.mean, model.network.std) == ((0.25, 0.5, 0.75), (0.5, 0.25, 0.125))
    assert load(path).network.mean == RNP.mean  # what the caller says wins
    write_card(tmp_path / "model.card.json", card_of("0" * 64))
    with pytest.raises(DataError, match="describes a file with sha256 0000"):
        load_model(path)


def test_the_card_says_what_images_a_network_reads(tmp_path):
    """48 inputs are 4 x 4 pixels of 3 channels, or 48 features, or 8 x 6 grey levels; the file itself cannot say."""
    network = mlp_head(48, (4,), 5)
    save_variables(tmp_path / "model.pt", network, network.init(jax.random.key(0)))
    with pytest.raises(ArchitectureError, match=r"image shape 4,4,3 or 1,1,48"):
        load(tmp_path / "model.pt")
    sha256 = read_checkpoint(tmp_path / "model.pt").sha256
    for shape, channels in (((1, 1, 48), 48), ((4, 4, 3), 3)):
        architecture = ArchitectureCard(name="mlp", num_classes=5, width=0, image_shape=shape)
        normalization = NormalizationCard(mean=(0.5,) * channels, std=(1.0,) * channels)
        card = card_of(sha256).model_copy(update={"architecture": architecture, "normalization": normalization})
        write_card(tmp_path / "model.card.json", card)
        model = load_model(tmp_path / "model.pt")
        assert model.network.architecture.image_shape == shape
        assert model.network.mean == (0.5,) * channels
    given = load(tmp_path / "model.pt", image_shape=(4, 4, 3))  # what the caller says wins
    assert given.network.architecture.image_shape == (4, 4, 3)


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in DEEP])
def test_deep_networks_survive_both_ways(name):
    test_state_dicts_survive_both_ways_bit_for_bit(name)


def test_a_released_file(shared, tmp_path):
    path = shared / "torch_checkpoints" / "badnets_resnet18w16.tar"
    model = load(path)
    assert (model.network.architecture.name, model.network.architecture.width) == ("resnet18", 16)
    save_model(tmp_path / "same.tar", model, model.variables)
    state, again = (torch.load(each, weights_only=True)["state_dict"] for each in (path, tmp_path / "same.tar"))
    assert list(state) == list(again)
    assert all(torch.equal(state[key], again[key]) for key in state)


def copies_of(state: dict) -> dict:
    """The network again, as training code of others keeps it, and what is no network."""
    averaged = {key: value * 0.75 if value.is_floating_point() else value.clone() for key, value in state.items()}
    learnt = [key for key in state if not key.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    return {
        "state_dict": state,
        "state_dict_ema": averaged,
        "model_ema": {"n_averaged": torch.tensor(5), **{f"module.{key}": averaged[key].half() for key in state}},
        "tied": dict(state),
        "past": [{"epoch": 1, "net": {f"_orig_mod.{key}": averaged[key].double() for key in state}}],
        "shadow_params": [averaged[key].clone() for key in learnt],
        "optimizer": {"state": {0: {"momentum_buffer": state["conv1.weight"].clone()}}},
        "epoch": 3,
    }


@FORMATS
def test_no_copy_of_the_old_network_stays_in_a_cleaned_file(new, tmp_path):
    """Each becomes the cleaned network in its own dtype; whatever is no copy stays as it was, bit for bit."""
    state = build_random("resnet18").state_dict()
    source = write(tmp_path / "source.pt", copies_of(state), new)
    model = load(source)
    save_model(tmp_path / "cleaned.pt", model, prune_two(model.variables))
    before, after = (torch.load(path, weights_only=True) for path in (source, tmp_path / "cleaned.pt"))
    cleaned = after["state_dict"]
    assert sum(not torch.equal(cleaned[key], value) for key, value in state.items()) == 2

    def same(found: dict, prefix: str = "") -> None:
        for key, value in cleaned.items():
            assert torch.equal(found[prefix + key], value.to(found[prefix + key].dtype)), key

    same(after["state_dict_ema"])
    same(after["model_ema"], "module.")
    same(after["past"][0]["net"], "_orig_mod.")
    same(after["tied"])
    assert all(after["tied"][key].data_ptr() == value.data_ptr() for key, value in cleaned.items() if value.numel())
    learnt = [name for name, _ in build("resnet18").named_parameters()]
    assert all(map(torch.equal, after["shadow_params"], (cleaned[name] for name in learnt)))
    assert_same_layout(before, after)
    assert torch.equal(after["optimizer"]["state"][0]["momentum_buffer"], state["conv1.weight"])
    assert after["model_ema"]["n_averaged"] == 5
    assert all(copy.equal for copy in load(tmp_path / "cleaned.pt").copies.fitting)


def assert_same_layout(before, after) -> None:
    """The same containers, keys in the same order, dtypes, shapes and plain values."""
    assert type(before) is type(after)
    if isinstance(before, torch.Tensor):
        assert (before.dtype, before.shape, before.stride()) == (after.dtype, after.shape, after.stride())
    elif isinstance(before, dict):
        assert list(before) == list(after)
        for key in before:
            assert_same_layout(before[key], after[key])
    elif isinstance(before, list):
        assert len(before) == len(after)
        for one, other in zip(before, after, strict=True):
            assert_same_layout(one, other)
    else:
        assert before == after


def test_a_cleaned_model_is_written_as_it_is(tmp_path):
    """Its own variables differ from the file's; once, the file's were written."""
    state = build_random("resnet18").state_dict()
    model = load(write(tmp_path / "source.pt", {"state_dict": state, "best": dict(state)}))
    cleaned = replace(model, variables=prune_two(model.variables))
    save_model(tmp_path / "one.pt", model, cleaned.variables)
    save_model(tmp_path / "other.pt", cleaned, cleaned.variables)
    one, other = (torch.load(tmp_path / name, weights_only=True) for name in ("one.pt", "other.pt"))
    assert sum(not torch.equal(one["state_dict"][key], state[key]) for key in state) == 2
    for place in one:
        assert all(torch.equal(one[place][key], other[place][key]) for key in state)


def test_a_new_network_is_not_written_into_the_file_of_the_old_one(tmp_path):
    model = load(write(tmp_path / "source.pt", build_random("resnet18").state_dict()))
    network = network_of("resnet34")
    new = replace(model, network=network, variables=from_state_dict(network, state_of(build_random("resnet34"))))
    for given in (new, replace(new, network=network_of("mlp"), variables=network_of("mlp").init(jax.random.key(0)))):
        with pytest.raises(CheckpointError, match="another network than its file holds; write it with save_variables"):
            save_model(tmp_path / "new.pt", given, given.variables)
    assert not (tmp_path / "new.pt").exists()


def test_a_file_whose_copies_are_equal_stays_as_it_is(tmp_path):
    state = build_random("resnet18").state_dict()
    twice = {"model": state, "best": {key: value.clone() for key, value in state.items()}}
    model = load(write(tmp_path / "source.pt", twice))
    save_model(tmp_path / "same.pt", model, model.variables)
    after = torch.load(tmp_path / "same.pt", weights_only=True)
    for place in ("model", "best"):
        for key, value in state.items():
            assert after[place][key].numpy().tobytes() == value.numpy().tobytes()


def test_a_copy_gets_masks_of_ones_and_the_bounds(tmp_path):
    state, _ = masked_state()
    plain = {key: value for key, value in state.items() if "neuron" not in key}
    source = write(tmp_path / "source.pt", {"state_dict": plain, "ema": state})
    model = load(source)
    save_model(tmp_path / "cleaned.pt", model, bounded(model.network, model.variables))
    after = torch.load(tmp_path / "cleaned.pt", weights_only=True)["ema"]
    assert all((after[key] == 1).all() for key in after if key.endswith("neuron_mask"))
    names = [each.key for each in bound_entries(model.network.architecture)]
    assert list(after) == [*state, *names]
    again = load(tmp_path / "cleaned.pt", key="ema")
    jax.tree.map(np.testing.assert_array_equal, again.variables, bounded(model.network, model.variables))


def bounded(network: Network, variables):
    """With a bound on each activation, drawn at random."""
    rng = np.random.default_rng(0)
    return apply_bounds(
        variables,
        {
            each.layer: jnp.asarray(rng.normal(0.5, 0.5, each.shape).astype(np.float32))
            for each in bound_entries(network.architecture)
        },
    )


@FORMATS
@pytest.mark.parametrize("layout", LAYOUTS)
def test_bounds_go_into_files_of_every_layout_and_come_back(layout, new, tmp_path):
    """As the last tensors of the state dict. Torch does not take them for weights, and all else is as it was."""
    name, wrap = LAYOUTS[layout]
    state = build_random(name).state_dict()
    model = load(write(tmp_path / "source.pt", wrap(state), new))
    given = bounded(model.network, model.variables)
    save_model(tmp_path / "cleaned.pt", model, given)
    cleaned = find(torch.load(tmp_path / "cleaned.pt", weights_only=True), layout)
    entries = bound_entries(model.network.architecture)
    assert list(cleaned) == [*state, *(each.key for each in entries)]
    for key, value in state.items():
        assert cleaned[key].numpy().tobytes() == value.numpy().tobytes(), key
    with pytest.raises(RuntimeError, match=rf"Unexpected key\(s\) in state_dict: \"{entries[0].key}\""):
        build(name).load_state_dict(cleaned, strict=True)
    back = load(tmp_path / "cleaned.pt")
    assert back.network == model.network
    jax.tree.map(np.testing.assert_array_equal, back.variables, given)
    for each in entries:
        stored = find_bounds(given["masks"])[each.layer].transpose(2, 0, 1)
        np.testing.assert_array_equal(cleaned[each.key], stored)


def test_bounds_of_a_file_are_replaced_by_new_ones_and_never_left_behind(tmp_path):
    model = load(write(tmp_path / "source.pt", {"state_dict": build_random("mlp").state_dict()}), image_shape=(4, 2, 3))
    given = bounded(model.network, model.variables)
    save_model(tmp_path / "once.pt", model, given)
    once = load(tmp_path / "once.pt", image_shape=(4, 2, 3))
    lower = {layer: value - 1 for layer, value in find_bounds(given["masks"]).items()}
    save_model(tmp_path / "twice.pt", once, apply_bounds(given, lower))
    twice = load(tmp_path / "twice.pt", image_shape=(4, 2, 3))
    jax.tree.map(np.testing.assert_array_equal, find_bounds(twice.variables["masks"]), lower)
    assert list(twice.state_dict.tensors) == list(once.state_dict.tensors)
    with pytest.raises(CheckpointError, match="bounds on 2 activations, but the new variables have none"):
        save_model(tmp_path / "none.pt", once, model.variables)
    save_variables(tmp_path / "fresh.pt", once.network, given)
    fresh = load(tmp_path / "fresh.pt", image_shape=(4, 2, 3))
    jax.tree.map(np.testing.assert_array_equal, find_bounds(fresh.variables["masks"]), find_bounds(given["masks"]))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda state: state.pop("activation_bounds.001.2"), ArchitectureError, r" - activation_bounds\.001\.2"),
        (
            lambda state: state.update({"activation_bounds.002.4": torch.ones(5)}),
            ArchitectureError,
            r"the bounds are not those of the activations of mlp .*\n \+ activation_bounds\.002\.4",
        ),
        (
            lambda state: state.update({"activation_bounds.001.2": torch.ones(9)}),
            ArchitectureError,
            r"other images than \(4, 2, 3\).*--image-shape\n activation_bounds\.001\.2: \(9,\), expected \(6,\)",
        ),
        (
            lambda state: state["activation_bounds.001.2"].fill_(float("nan")),
            CheckpointError,
            'tensor "activation_bounds.001.2" holds nan',
        ),
    ],
)
def test_bounds_that_are_not_the_network_s(change, error, message, tmp_path):
    network = network_of("mlp")
    save_variables(tmp_path / "a.pt", network, bounded(network, network.init(jax.random.key(0))))
    state = torch.load(tmp_path / "a.pt", weights_only=True)["state_dict"]
    change(state)
    write(tmp_path / "b.pt", {"state_dict": state})
    for read in (load, open_checkpoint):
        with pytest.raises(error, match=message):
            read(tmp_path / "b.pt", image_shape=(4, 2, 3))
