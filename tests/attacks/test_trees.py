import numpy as np

from rnp_jax.attacks.trees import to_params, to_tree

TREE = {"a": {"kernel": np.arange(6.0).reshape(2, 3), "bias": np.zeros(3)}, "b": {"c": {"kernel": np.ones(1)}}}


def test_a_tree_survives_and_two_do_not_mix():
    params = {**to_params(TREE, "first"), **to_params({"a": {"kernel": np.full(2, 7.0)}}, "second")}
    assert sorted(params) == ["first/a/bias", "first/a/kernel", "first/b/c/kernel", "second/a/kernel"]
    found = to_tree(params, "first")
    assert found.keys() == TREE.keys()
    np.testing.assert_array_equal(found["a"]["kernel"], TREE["a"]["kernel"])
    np.testing.assert_array_equal(found["b"]["c"]["kernel"], TREE["b"]["c"]["kernel"])
    np.testing.assert_array_equal(to_tree(params, "second")["a"]["kernel"], [7.0, 7.0])
    assert to_tree(params, "third") == {}
