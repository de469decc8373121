"""The defenses by name: what a report calls them, in which order, and what their masks or scores are."""

from typing import NamedTuple


class Method(NamedTuple):
    """A defense, or a row that defenses are compared with.

    Attributes:
      title: its name in tables and figures.
      basis: what its masks or scores are, or for a defense without them what it does to the weights, a sentence with
        the source; empty where it has none.
    """

    title: str
    basis: str = ""


METHODS = {
    "none": Method("No defense"),
    "holder": Method(
        "Hölder",
        "The score of a filter is the largest change of its activation that small steps along its gradient cause, over "
        "the step's length to the power \N{GREEK SMALL LETTER ALPHA} (Hölder Pruning, ICLR 2025 submission).",
    ),
    "hid": Method(
        "HID",
        "The score of a hidden unit is its Hölder constant on features that were learned without labels; the pruned "
        "head then picks the clean samples to go on with (Hölder Iterative Defence, ICLR 2025 submission).",
    ),
    "clp": Method(
        "CLP",
        "The score of a filter is the largest singular value of its weights, times the scale of its batch norm: an "
        "upper bound of its Lipschitz constant that needs no data (Channel Lipschitzness based Pruning, ECCV 2022).",
    ),
    "anp": Method(
        "ANP",
        "The mask of a filter is what keeps the clean loss low while weights are perturbed by an adversary; filters "
        "that are sensitive to it have masks near 0 (Adversarial Neuron Pruning, NeurIPS 2021).",
    ),
    "fp": Method(
        "FP",
        "The score of a filter rises as its mean activation on clean images falls: what clean images leave idle is "
        "suspected (Fine-Pruning, RAID 2018).",
    ),
    "ft": Method(
        "FT",
        "All weights are trained on the clean images, in the hope that the backdoor is forgotten (fine-tuning as in "
        "BackdoorBench, NeurIPS 2022).",
    ),
    "nad": Method(
        "NAD",
        "All weights are trained to attend to clean images as a fine-tuned copy of the network does "
        "(Neural Attention Distillation, ICLR 2021).",
    ),
    "ft_sam": Method(
        "FT-SAM",
        "All weights are trained on the clean images to where the loss stays low all around them, relative to their "
        "size (fine-tuning with sharpness-aware minimisation, ICCV 2023).",
    ),
    "ibau": Method(
        "I-BAU",
        "Perturbations of all images that mislead the network are found and unlearned, by turns "
        "(Adversarial Unlearning of Backdoors via Implicit Hypergradient, ICLR 2022).",
    ),
    "rnp": Method(
        "RNP",
        "The mask of a filter is what brings back clean accuracy to a network that has unlearned its clean task; "
        "filters that do not help have masks near 0 (Reconstructive Neuron Pruning, ICML 2023).",
    ),
    "random": Method("Random", "The score of a filter is random: a control that any method should beat."),
    "oracle": Method(
        "Oracle",
        "The score of a filter is the change of its activation under the attacker's trigger, which no defender has: "
        "a bound, not a defense.",
    ),
}
"""In the order of a comparison's rows, but for the controls, which come last."""

CONTROLS = ("random", "oracle")
ORACLE_NOTE = "not available to a defender: it sees the trigger"


def title(method: str) -> str:
    """The method's name as a reader knows it; an unknown one's own."""
    return METHODS[method].title if method in METHODS else method


def basis(method: str) -> str:
    """What its masks or scores are; empty where that is not known."""
    return METHODS[method].basis if method in METHODS else ""


def order(method: str) -> tuple[int, str]:
    """Sort key: no defense, the known defenses, unknown ones by name, random, the oracle."""
    known = list(METHODS)
    if method in CONTROLS:
        return len(known) + 1 + CONTROLS.index(method), ""
    return (known.index(method), "") if method in known else (len(known), method)
