"""Networks that are part of a trigger: nested trees of arrays as the flat names of an artefact, and back."""

import jax
import numpy as np

from rnp_jax.attacks.base import Params
from rnp_jax.types import Tree


def to_params(tree: Tree, name: str) -> Params:
    """The arrays of a tree as ``name/layer/kernel``."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {"/".join([name, *(str(part.key) for part in path)]): np.asarray(leaf) for path, leaf in leaves}


def to_tree(params: Params, name: str) -> Tree:
    """The tree that ``to_params`` wrote down under this name."""
    tree: Tree = {}
    for path, value in params.items():
        root, *parts = path.split("/")
        if root != name:
            continue
        node = tree
        for part in parts[:-1]:
            node = node.setdefault(part, {})
        node[parts[-1]] = value
    return tree
