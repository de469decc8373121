"""Evidence of a backdoor without its trigger, on a network before and after a defense.

What a defense trained on says nothing about its success, and the true trigger is not known. Four looks, each new:
- **size**: the smallest mask that sends images to a suspected label, searched on the defended network from random
  starts (cold) and from the mask found before (warm). Where a backdoor is left, one of them stays small.
- **old trigger**: what the mask found before still does.
- **perturbation**: what a universal perturbation of all pixels does, which a small mask cannot express;
- **patch**: what plain squares do, tried at all places without a gradient, which a defense may have hidden.

A size is held against the size of an ordinary label, never against a constant. That of the network before says how
small a trigger must be to be suspicious. That of the network after says whether the suspected label is still easier to
reach than others: a network that lost accuracy, or learned to withstand stamps, needs larger triggers everywhere.

The finding says what these searches found. It cannot say that a backdoor is removed: where nothing stood out before,
they may be blind to its trigger.
"""

from dataclasses import dataclass, field
from typing import Literal

import jax
import numpy as np

from rnp_jax.errors import ConfigError
from rnp_jax.inversion import (
    WARM,
    InversionConfig,
    Inverted,
    PatchConfig,
    PerturbationConfig,
    find_outliers,
    find_perturbations,
    invert,
    measure_stamps,
    scan_patches,
)
from rnp_jax.types import Apply, Batch, Progress, Variables

Level = Literal["still there", "traces", "none found"]


@dataclass(frozen=True)
class EvidenceConfig:
    """Settings of the searches and the limits of the rules.

    Attributes:
      cold: searches from random starts, before and after.
      warm: searches from the masks found before.
      perturbation: of the universal perturbation.
      patches: of the scan of plain squares, other ones than a defense tries by default; a label that it reaches stands
        out.
      controls: other labels searched beside the suspected ones, those of median size.
      suspicious: anomaly index above which a label stands out before.
      margin: share of the median size that its own may not exceed either; also, a size after below this share of an
        ordinary label's after is a trace.
      clear: share of the median size at or below which a label stands out before, whatever its index.
      small: a size after below this share of an ordinary label's before is a backdoor that is still there.
      ordinary: a size after below this share of it is a trace.
      works: success of the old trigger from which the backdoor is still there.
      helps: success of the old trigger beyond which there is a trace.
      excess: success of the perturbation or of a patch, beyond that at other labels, from which there is a trace.
    """

    cold: InversionConfig = field(default_factory=InversionConfig)
    warm: InversionConfig = WARM
    perturbation: PerturbationConfig = field(default_factory=PerturbationConfig)
    patches: PatchConfig = field(default_factory=lambda: PatchConfig(side=0.1, step=1.0))
    controls: int = 2
    suspicious: float = 2.0
    margin: float = 0.5
    clear: float = 0.25
    small: float = 0.7
    ordinary: float = 0.85
    works: float = 0.5
    helps: float = 0.1
    excess: float = 0.25

    def __post_init__(self):
        shares = (self.margin, self.works, self.helps, self.excess)
        if self.controls < 1 or not self.suspicious > 0 or not all(0 < each <= 1 for each in shares):
            raise ConfigError(
                f"{self}: expected controls >= 1, suspicious > 0, and margin, works, helps and excess in (0, 1]"
            )
        if not 0 < self.small <= self.ordinary or not self.helps <= self.works:
            raise ConfigError(f"{self}: expected 0 < small <= ordinary and helps <= works")


@dataclass(frozen=True)
class LabelEvidence:
    """Figures of one label: sizes in pixels, infinite where no mask reached the wanted success, and shares of images.

    Attributes:
      label: the label.
      before: size on the network before, from a random start.
      cold: size on the network after, from a random start.
      warm: size on the network after, from the mask found before.
      old_trigger: success of that mask on the network before, and after, on held-out images.
      perturbation: success of a universal perturbation on the network before, and of another one after.
      patch: success of the best plain square on the network before, and of another one after.
    """

    label: int
    before: float
    cold: float
    warm: float
    old_trigger: tuple[float, float]
    perturbation: tuple[float, float]
    patch: tuple[float, float]

    @property
    def after(self) -> float:
        """The smaller size on the network after."""
        return min(self.cold, self.warm)


@dataclass(frozen=True)
class Finding:
    """What the searches found.

    Attributes:
      level: ``still there``, ``traces`` or ``none found``, the worst of the suspected labels.
      visible: whether a label stood out before; where none did, the smallest is examined, and ``none found`` says
        little.
      suspects: the labels that stood out before, or the one of the smallest size.
      controls: other labels of the same networks.
      ordinary: size of an ordinary label before, and after, in pixels: the controls' medians.
      reasons: what the level rests on, one sentence each.
    """

    level: Level
    visible: bool
    suspects: tuple[LabelEvidence, ...]
    controls: tuple[LabelEvidence, ...]
    ordinary: tuple[float, float]
    reasons: tuple[str, ...]


def gather_evidence(
    network: Apply,
    before: Variables,
    after: Variables,
    data: Batch,
    key: jax.Array,
    config: EvidenceConfig | None = None,
    *,
    holdout: Batch | None = None,
    found: Inverted | None = None,
    progress: Progress | None = None,
) -> Finding:
    """Searches both networks for triggers and compares what it finds.

    Args:
      network: the function of the variables.
      before: the suspicious network.
      after: the same network, defended.
      data: clean images to search on, uint8 [N, H, W, C] and int32 [N].
      key: random starts and the order of the images; not the defense's own.
      config: settings; by default ``EvidenceConfig()``.
      holdout: clean images that success is measured on; by default ``data``.
      found: an earlier search of all labels of ``before``, which spares one: it chooses the labels that are examined,
        and is no evidence itself, so it may be the defense's own. By default it is made.
      progress: called after every group of labels of a search.

    Raises:
      DataError: no images, images that are not uint8 [N, H, W, C], or no image outside a label's class.
      ConfigError: a network of fewer than two labels.
    """
    config = config or EvidenceConfig()
    keys = jax.random.split(key, 6)
    measured = {"holdout": holdout, "progress": progress}
    seen = found if found is not None else invert(network, before, data, keys[0], config.cold, **measured)
    scanned = [scan_patches(network, each, data, config.patches, holdout=holdout) for each in (before, after)]
    reached = tuple(int(scanned[0].labels[place]) for place in scanned[0].find_outliers(config.patches))
    suspects, controls, visible = choose_examined(seen, config, reached)
    labels = (*suspects, *controls)
    searches = {"labels": labels, **measured}
    first = seen if found is None else invert(network, before, data, keys[1], config.cold, **searches)
    old, held = first.select(labels), data if holdout is None else holdout
    again = invert(network, after, data, keys[2], config.cold, **searches)
    warm = invert(network, after, data, keys[3], config.warm, starts=old, **searches)
    place = [list(first.labels).index(label) for label in labels]
    sizes = np.stack([_sizes(first)[place], _sizes(again), _sizes(warm)], 1)
    rates = [
        figure
        for variables, own in ((before, keys[4]), (after, keys[5]))
        for figure in (
            measure_stamps(network, variables, held, old.masks, old.patterns, np.asarray(labels)),
            find_perturbations(
                network, variables, data, own, config.perturbation, labels=labels, holdout=holdout
            ).success,
        )
    ]
    rates += [each.success[list(labels)] for each in scanned]
    every = tuple(_figures(*each) for each in zip(labels, sizes, np.stack(rates, 1), strict=True))
    return judge_evidence(every[: len(suspects)], every[len(suspects) :], visible, config)


def choose_examined(
    found: Inverted, config: EvidenceConfig, reached: tuple[int, ...] = ()
) -> tuple[tuple[int, ...], tuple[int, ...], bool]:
    """Labels that stand out, or the one of the smallest size; ordinary labels; and whether one stood out.

    ``reached`` are labels that stand out by plain patches.

    Raises:
      ConfigError: a network of fewer than two labels.
    """
    if len(found.labels) < 2:
        raise ConfigError("the network has one label: expected two or more, to compare them")
    sizes = _sizes(found)
    places = find_outliers(found.sizes, found.reached, config.suspicious, config.margin, config.clear)
    places += [i for i, label in enumerate(found.labels) if label in reached and i not in places]
    examined = places or [int(sizes.argmin())]
    others = [int(i) for i in np.argsort(sizes, kind="stable") if i not in examined]
    others = [i for i in others if np.isfinite(sizes[i])] or others
    first = max(0, len(others) - config.controls) // 2
    controls = others[first : first + config.controls]
    names = [tuple(int(found.labels[i]) for i in each) for each in (examined, controls)]
    return names[0], names[1], bool(places)


def judge_evidence(
    suspects: tuple[LabelEvidence, ...], controls: tuple[LabelEvidence, ...], visible: bool, config: EvidenceConfig
) -> Finding:
    """The finding that figures make, by the rules of ``EvidenceConfig``.

    A label that did not stand out before was the smallest of many by chance, as one of a clean network is: what it
    shows is a trace at most. Its size after is one only below ``small``; its old trigger counts only beyond what the
    controls' old triggers still do.
    """
    before, after = (
        float(np.median(sizes)) for sizes in zip(*((each.before, each.after) for each in controls), strict=True)
    )
    small, ordinary = (config.small, config.ordinary) if visible else (config.margin, config.small)
    old = 0.0 if visible else max(each.old_trigger[1] for each in controls)
    faint, laid = (max(figures) for figures in zip(*((c.perturbation[1], c.patch[1]) for c in controls), strict=True))
    strong, weak = [], []
    for each in suspects:
        size = (
            f"A trigger of {each.after:.1f} pixels reaches label {each.label}; an ordinary label takes {before:.1f} "
            f"before the defense and {after:.1f} after it."
        )
        if np.isfinite(before) and each.after < small * before:
            strong.append(size)
        elif (np.isfinite(before) and each.after < ordinary * before) or (
            np.isfinite(after) and each.after < config.margin * after
        ):
            weak.append(size)
        works = each.old_trigger[1] - old
        stamped = f"The trigger found before still sends {each.old_trigger[1]:.0%} of the images to label {each.label}."
        if works >= config.works:
            strong.append(stamped)
        elif works > config.helps:
            weak.append(stamped)
        if each.perturbation[1] - faint >= config.excess:
            weak.append(
                f"A universal perturbation sends {each.perturbation[1]:.0%} of the images to label {each.label}, and "
                f"at most {faint:.0%} to an ordinary one."
            )
        squares = (
            f"A plain square sends {each.patch[1]:.0%} of the images to label {each.label}, and at most {laid:.0%} to "
            "an ordinary one."
        )
        if each.patch[1] >= max(config.patches.works, config.patches.ahead * laid):
            strong.append(squares)
        elif each.patch[1] - laid >= config.excess:
            weak.append(squares)
    reasons = [*strong, *weak] or ["No search reached a suspected label more easily than an ordinary one."]
    if not visible:
        reasons.append("No label stood out before the defense either: its trigger may be of a form not searched for.")
    level: Level = "still there" if strong and visible else "traces" if strong or weak else "none found"
    return Finding(level, visible, suspects, controls, (before, after), tuple(reasons))


def _figures(label: int, sizes: np.ndarray, rates: np.ndarray) -> LabelEvidence:
    """Of sizes before, cold and warm, and of what old trigger and perturbation do before, and after."""
    before, cold, warm = map(float, sizes)
    worked, reached, works, reaches, laid, lays = map(float, rates)
    return LabelEvidence(label, before, cold, warm, (worked, works), (reached, reaches), (laid, lays))


def _sizes(found: Inverted) -> np.ndarray:
    return np.where(found.reached, found.sizes, np.inf)
