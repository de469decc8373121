import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnp_jax import masks
from rnp_jax.errors import DataError
from tests.networks import network_of

LAYERS = {"bn1": 2, "layer1.0.bn1": 1, "layer2.0.bn1": 3, "layer10.2.bn1": 2}


def make_tree() -> dict:
    """Two maskable layers inside blocks, one beside them, and one without a filter mask."""
    leaf = {name: {"neuron": jnp.ones(n), "filter": jnp.arange(n) / 4} for name, n in LAYERS.items()}
    return {
        "layer10.2": {"bn1": leaf["layer10.2.bn1"]},
        "layer2.0": {"bn1": leaf["layer2.0.bn1"], "conv1": {"neuron": jnp.zeros(3)}},
        "layer1.0": {"bn1": leaf["layer1.0.bn1"]},
        "bn1": leaf["bn1"],
    }


filters_strategy = st.dictionaries(
    st.from_regex(r"layer[0-9]{1,2}\.[0-9]{1,2}\.bn[12]", fullmatch=True),
    st.lists(st.floats(0, 1, width=32), min_size=1, max_size=4).map(lambda row: np.array(row, np.float32)),
    min_size=1,
    max_size=6,
)
properties = settings(deadline=None, derandomize=True, max_examples=50)


def test_layers_come_in_natural_order():
    names = [name for name, _ in masks.layers(make_tree())]
    assert names == ["bn1", "layer1.0.bn1", "layer2.0.bn1", "layer2.0.conv1", "layer10.2.bn1"]
    assert list(masks.filters(make_tree())) == list(LAYERS)


@given(st.permutations(["bn1", "conv1", "layer1.0", "layer1.2", "layer1.10", "layer2.1", "linear"]))
@properties
def test_natural_order(names):
    expected = ["bn1", "conv1", "layer1.0", "layer1.2", "layer1.10", "layer2.1", "linear"]
    assert sorted(names, key=masks.natural_key) == expected


def test_filters_are_replaced_and_nothing_else_is():
    tree = make_tree()
    values = {name: jnp.full(n, 0.5) for name, n in LAYERS.items()}
    replaced = masks.with_filters(tree, values)
    assert all((mask == 0.5).all() for mask in masks.filters(replaced).values())
    assert jax.tree.structure(replaced) == jax.tree.structure(tree)
    assert replaced["layer2.0"]["conv1"] is tree["layer2.0"]["conv1"]
    assert tree["bn1"]["filter"].tolist() == [0, 0.25]
    variables = {"params": {"w": 1}, "masks": tree}
    assert masks.apply_filters(variables, values)["params"] is variables["params"]


@pytest.mark.parametrize(("placement", "held"), [("bn_scale", {"scale"}), ("channel", {"scale", "bias"})])
def test_what_a_mask_prunes_does_not_move(placement: str, held: set):
    params = {
        "bn1": {"scale": jnp.array([1.0, 0, 2, 0]), "bias": jnp.array([1.0, 1, 1, 0])},
        "conv1": {"kernel": jnp.zeros((3, 3, 2, 4))},
    }
    tree = {
        "bn1": {"neuron": jnp.ones(4), "filter": jnp.array([1.0, 1, 0, 1])},
        "conv1": {"neuron": jnp.ones(4)},
    }
    gate = masks.pruned_gate(params, tree, placement)
    moves = [1, 0, 0, 0] if placement == "bn_scale" else [1, 1, 0, 0]  # pruned: all that the mask multiplies is 0
    for name in ("scale", "bias"):
        np.testing.assert_array_equal(gate["bn1"][name], moves if name in held else [1])
    np.testing.assert_array_equal(gate["conv1"]["kernel"], np.ones((1, 1, 1, 1)))


def test_a_pruned_unit_moves_neither_weights_nor_bias():
    params = {"0": {"kernel": jnp.array([[0.0, 1, 1], [0, 0, 1]]), "bias": jnp.zeros(3)}}
    tree = {"0": {"neuron": jnp.ones(3), "filter": jnp.array([1.0, 1, 0])}}
    gate = masks.pruned_gate(params, tree, "unit")
    np.testing.assert_array_equal(gate["0"]["kernel"], [[0, 1, 0]])
    np.testing.assert_array_equal(gate["0"]["bias"], [0, 1, 0])


@pytest.mark.parametrize("name", [None, "layer9.9.bn9"])
def test_filters_that_do_not_fit_are_listed(name):
    values = {layer: jnp.ones(n) for layer, n in LAYERS.items() if layer != "bn1"}
    values |= {name: jnp.ones(1)} if name else {}
    with pytest.raises(KeyError, match=r"\+ \[('layer9.9.bn9')?\] - \['bn1'\]"):
        masks.with_filters(make_tree(), values)


@given(filters_strategy)
@properties
def test_flatten_and_back(values):
    row = masks.flatten(values)
    back = masks.unflatten(row, values)
    assert set(back) == set(values)
    for name, value in values.items():
        np.testing.assert_array_equal(back[name], value)
    index = masks.index(values)
    assert len(index) == len(row)
    assert [values[name][i] for name, i in index] == row.tolist()


@given(filters_strategy, st.data())
@properties
def test_keep_zeroes_the_positions_and_no_other(like, data):
    index = masks.index(like)
    pruned = data.draw(st.sets(st.integers(0, len(index) - 1)))
    kept = masks.keep(like, sorted(pruned))
    assert {index[i] for i in pruned} == {(name, i) for name, row in kept.items() for i in np.flatnonzero(row == 0)}
    assert {value for row in kept.values() for value in row.tolist()} <= {0, 1}


def test_ones_and_clip():
    values = {"a": jnp.array([-1.0, 0.5, 2.0])}
    assert masks.ones(values)["a"].tolist() == [1, 1, 1]
    assert masks.clip(values)["a"].tolist() == [0, 0.5, 1]


def test_the_gate_has_each_parameter_s_neurons_last():
    params = {
        "block": {"conv": {"kernel": jnp.ones((3, 3, 2, 4)), "bias": jnp.ones(4)}},
        "fc": {"kernel": jnp.ones((4, 2))},
    }
    tree = {"block": {"conv": {"neuron": jnp.array([1.0, 0, 1, 1])}}, "fc": {"neuron": jnp.array([0.0, 1])}}
    gated = jax.tree.map(jnp.multiply, params, masks.neuron_gate(params, tree))
    assert gated["block"]["conv"]["kernel"].sum((0, 1, 2)).tolist() == [18, 0, 18, 18]
    assert gated["block"]["conv"]["bias"].tolist() == [1, 0, 1, 1]
    assert gated["fc"]["kernel"].sum(0).tolist() == [0, 4]


@pytest.mark.parametrize("name", ["resnet18", "mlp"])
def test_the_gate_fits_a_network(name):
    network = network_of(name)
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    gate = jax.eval_shape(masks.neuron_gate, shapes["params"], shapes["masks"])
    product = jax.eval_shape(lambda a, b: jax.tree.map(jnp.multiply, a, b), shapes["params"], gate)
    assert jax.tree.map(lambda leaf: leaf.shape, product) == jax.tree.map(lambda leaf: leaf.shape, shapes["params"])


def bakeable() -> dict:
    half = {"neuron": jnp.ones(2), "filter": jnp.array([0.5, 0])}
    params = {
        "bn": {"scale": jnp.array([2.0, 4]), "bias": jnp.array([6.0, 8])},
        "conv": {"kernel": jnp.ones((1, 1, 3, 2)), "bias": jnp.array([1.0, 1])},
        "fc": {"kernel": jnp.ones((3, 2))},
    }
    return {"params": params, "masks": {"bn": half, "conv": half, "fc": {"neuron": jnp.ones(2)}}}


@pytest.mark.parametrize(("placement", "bias"), [("bn_scale", [6, 8]), ("channel", [3, 0])])
def test_baking_moves_masks_into_weights(placement, bias):
    baked = masks.bake(bakeable(), placement)
    assert baked["params"]["bn"]["scale"].tolist() == [1, 0]
    assert baked["params"]["bn"]["bias"].tolist() == bias
    assert baked["params"]["conv"]["kernel"].sum((0, 1, 2)).tolist() == [1.5, 0]
    assert baked["params"]["conv"]["bias"].tolist() == [0.5, 0]
    assert baked["params"]["fc"]["kernel"].sum() == 6
    assert all((mask == 1).all() for mask in masks.filters(baked["masks"]).values())
    again = masks.bake(baked, placement)
    assert all(map(np.array_equal, jax.tree.leaves(again), jax.tree.leaves(baked)))


def test_baking_leaves_alone_what_no_mask_changes():
    variables = bakeable()
    variables["masks"]["conv"] = {"neuron": jnp.ones(2), "filter": jnp.ones(2)}
    baked = masks.bake(variables)
    assert baked["params"]["conv"]["kernel"] is variables["params"]["conv"]["kernel"]
    assert baked["params"]["bn"]["scale"].tolist() == [1, 0]
    assert masks.bake(baked) is baked


def test_mask_values_go_through_the_release_s_text_file(tmp_path):
    values = {"layer2.0.bn1": jnp.array([0.12344, 1.0]), "bn1": jnp.array([0.60006, 0.0, 0.5])}
    masks.write_mask_values(tmp_path / "mask_values.txt", values)
    lines = (tmp_path / "mask_values.txt").read_text().splitlines()
    assert lines[:2] == ["No \t Layer Name \t Neuron Idx \t Mask Score ", "0 \t bn1 \t 0 \t 0.6001 "]
    assert lines[-1] == "4 \t layer2.0.bn1 \t 1 \t 1.0000 "
    back = masks.read_mask_values(tmp_path / "mask_values.txt", values)
    assert masks.flatten(back) == pytest.approx([0.6001, 0, 0.5, 0.1234, 1])
    assert masks.flatten(back).dtype == np.float32


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("0 \t bn1 \t 0 \t 0.5 \n", r"- \[\('bn1', 1\)\]"),
        ("0 \t bn1 \t 0 \t 0.5 \n1 \t bn1 \t 1 \t 0.5 \n2 \t bn9 \t 0 \t 1 \n", r"\+ \[\('bn9', 0\)\]"),
        ("0 bn1 0 0.5\n", "separated by tabs"),
        ("0 \t bn1 \t 0 \t half \n", "separated by tabs"),
    ],
)
def test_text_files_of_other_networks_or_formats(rows, message, tmp_path):
    (tmp_path / "mask_values.txt").write_text("No \t Layer Name \t Neuron Idx \t Mask Score \n" + rows)
    with pytest.raises(DataError, match=message):
        masks.read_mask_values(tmp_path / "mask_values.txt", {"bn1": jnp.ones(2)})


def test_a_released_text_file(shared):
    """Its rows are in the order of the masks recorded beside it, ours in natural order."""
    with np.load(shared / "golden" / "badnets.npz") as recorded:
        row, names = recorded["masks_per_epoch"][-1], [str(name) for name in recorded["mask_names"]]
    variables = jax.eval_shape(network_of("resnet18", width=16, num_classes=10).init, jax.random.key(0))
    like = masks.filters(variables["masks"])
    ends = np.cumsum([like[name.removesuffix(".neuron_mask")].shape[0] for name in names])
    expected = {
        name.removesuffix(".neuron_mask"): part for name, part in zip(names, np.split(row, ends[:-1]), strict=True)
    }
    shapes = {name: np.empty(leaf.shape) for name, leaf in like.items()}
    found = masks.read_mask_values(shared / "golden" / "badnets.mask_values.txt", shapes)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=5.1e-5)
