"""Which published code wrote a file, by what its author put beside the weights."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from rnp_jax.torch_io.nodes import ModuleNode, Node
from rnp_jax.torch_io.whole_module import SCRIPTED


class Source(NamedTuple):
    """A project whose training code writes such files.

    Attributes:
      name: of the project.
      keys: which of the root, together, give it away.
      note: what its users should know; empty if nothing.
    """

    name: str
    keys: frozenset[str]
    note: str = ""


_BACKDOORBENCH = "CIFAR-10 is normalised as cifar10_bb, GTSRB and CelebA not at all (identity)"
_RNP = "CIFAR-10 is normalised as cifar10_rnp"
_NOT_NORMALISED = "CIFAR-10 is not normalised (identity)"

SOURCES: tuple[Source, ...] = tuple(
    Source(name, frozenset(keys.split()), note)
    for name, keys, note in (
        ("BackdoorBench, attack_result.pt", "model_name num_classes model clean_data bd_train", _BACKDOORBENCH),
        ("BackdoorBench, attack_result.pt", "model_name num_classes model bd_test", _BACKDOORBENCH),
        ("BackdoorBench, defense_result.pt", "model_name num_classes model", _BACKDOORBENCH),
        ("Input-Aware", "netC netG netM", ""),
        ("WaNet", "netC identity_grid noise_grid", "GTSRB is not normalised (identity)"),
        ("LIRA, second phase", "atkmodel netC", ""),
        ("LIRA, first phase, or BackdoorBox's LIRA", "atkmodel clsmodel", "the classifier is clsmodel"),
        ("BackdoorBox, LIRA", "atkmodel model", ""),
        ("BackdoorBox, IAD", "model modelG modelM", ""),
        ("BackdoorBox, Blind", "model nc_model", ""),
        ("NAD", "epoch state_dict best_clean_acc best_bad_acc", _NOT_NORMALISED),
        ("NAD", "epoch state_dict best_prec optimizer", _NOT_NORMALISED),
        ("ABL", "epoch state_dict best_infect optimizer", _NOT_NORMALISED),
        ("RNP or ABL", "epoch state_dict clean_acc bad_acc optimizer", _RNP),
        ("rnp_jax", "epoch state_dict clean_acc bad_acc", "its card says how images are normalised"),
        ("TrojAI", "class_name state_dict", ""),
        (
            "I-BAU or kuangliu's pytorch-cifar",
            "net acc epoch",
            "I-BAU's images are not normalised (identity), CIFAR-10's in pytorch-cifar as cifar10_rnp",
        ),
    )
)
"""In the order in which they are tried: the more keys, the earlier."""


def name_source(tree: Node, names: Mapping[str, Any]) -> Source:
    """The project that wrote a file.

    Args:
      tree: the checkpoint's.
      names: of the state dict's tensors, as the file has them.
    """
    none: frozenset[str] = frozenset()
    root = {key for key in tree if isinstance(key, str)} if isinstance(tree, dict) else set()
    for source in SOURCES:
        if source.keys <= root:
            return source
    if any(name.endswith((".neuron_noise", ".neuron_mask")) for name in names):
        return Source("ANP, or RNP's masked networks", none, _RNP)
    if any(".classifier.fc." in f".{name}" for name in names):
        return Source("TrojanZoo", none)
    if isinstance(tree, ModuleNode):
        scripted = tree.class_name.startswith(SCRIPTED)
        return Source("a TorchScript program" if scripted else "a whole module, as torch.save(model) writes it", none)
    if root >= set(names):
        return Source("a plain state dict, as BackdoorBox, backdoor-toolbox and many others write", none)
    return Source("not known", none)
