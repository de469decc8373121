"""The searches behind the evidence: those of the suspicious network once, then those of each defended one."""

from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Float

from rnp_jax.defenses.method import Do, just_do
from rnp_jax.detection.evidence import EvidenceConfig, Finding, LabelEvidence, judge_evidence
from rnp_jax.errors import ConfigError
from rnp_jax.inversion import (
    Inverted,
    Patches,
    Shifts,
    Stamps,
    Warps,
    find_outliers,
    find_perturbations,
    find_shifts,
    find_warps,
    invert,
    measure_effects,
    scan_patches,
)
from rnp_jax.inversion.checks import find_places
from rnp_jax.models import Network
from rnp_jax.types import Batch, Progress, Variables


@dataclass(frozen=True, eq=False)
class Earlier:
    """What was found in the suspicious network, of the L labels that are examined.

    Attributes:
      suspects: the labels that stood out, or the one of the smallest size.
      controls: ordinary labels.
      visible: whether a label stood out.
      stamps: the smallest mask and its pattern of every label, suspects first.
      sizes: of the masks [L], in pixels, infinite where the wanted success was not reached.
      figures: by form, success of the masks, of the perturbations, of the plain squares and of the warps, shares of the
        feature shifts, and shares of images that the masks mislead [F, L].
    """

    suspects: tuple[int, ...]
    controls: tuple[int, ...]
    visible: bool
    stamps: Stamps
    sizes: Float[np.ndarray, "L"]
    figures: Float[np.ndarray, "F L"]

    @property
    def labels(self) -> tuple[int, ...]:
        """Suspects, then controls."""
        return (*self.suspects, *self.controls)


def gather_evidence(
    network: Network,
    before: Variables,
    after: Variables,
    data: Batch,
    key: jax.Array,
    config: EvidenceConfig | None = None,
    *,
    holdout: Batch | None = None,
    found: Inverted | None = None,
    only_visible: bool = False,
    progress: Progress | None = None,
    do: Do = just_do,
) -> Finding | None:
    """Searches both networks for triggers and compares what it finds.

    Args:
      network: the function of the variables; its last layer is linear.
      before: the suspicious network.
      after: the same network, defended.
      data: clean images to search on, uint8 [N, H, W, C] and int32 [N].
      key: random starts and the order of the images; not the defense's own.
      config: settings; by default ``EvidenceConfig()``.
      holdout: clean images that success is measured on; by default ``data``.
      found: an earlier search of all labels of ``before``, which spares one: it chooses the labels that are examined,
        and is no evidence itself, so it may be the defense's own. By default it is made.
      only_visible: whether to end, with None, after the searches of ``before`` where no label stands out by them.
      progress: called after every group of labels of a search.
      do: calls each search.

    Raises:
      DataError: no images, images that are not uint8 [N, H, W, C], or no image outside a label's class.
      ConfigError: a network of fewer than two labels.
    """
    keys = jax.random.split(key)
    measured = {"holdout": holdout, "progress": progress, "do": do}
    earlier = search_before(network, before, data, keys[0], config, found=found, **measured)
    if only_visible and not earlier.visible:
        return None
    return search_after(network, after, earlier, data, keys[1], config, **measured)


def search_before(
    network: Network,
    variables: Variables,
    data: Batch,
    key: jax.Array,
    config: EvidenceConfig | None = None,
    *,
    holdout: Batch | None = None,
    found: Inverted | None = None,
    progress: Progress | None = None,
    do: Do = just_do,
) -> Earlier:
    """Searches the suspicious network; ``gather_evidence`` says what the arguments are and what is raised."""
    config = config or EvidenceConfig()
    choosing, cold, other = jax.random.split(key, 3)
    measured = {"holdout": holdout, "progress": progress}
    seen = found if found is not None else do(invert, network, variables, data, choosing, config.cold, **measured)
    looks = _look(network, variables, data, other, config, None, holdout, do)
    suspects, controls, visible = choose_examined(seen, config, looks.find_outliers(config))
    labels = (*suspects, *controls)
    if found is not None:
        seen = do(invert, network, variables, data, cold, config.cold, labels=labels, **measured)
    place, stamps = find_places(seen.labels, labels), seen.select(labels)
    figures = looks.measure(network, variables, stamps, labels, data, other, config, holdout, do)
    return Earlier(suspects, controls, visible, stamps, _sizes(seen)[place], figures)


def search_after(
    network: Network,
    variables: Variables,
    earlier: Earlier,
    data: Batch,
    key: jax.Array,
    config: EvidenceConfig | None = None,
    *,
    holdout: Batch | None = None,
    progress: Progress | None = None,
    do: Do = just_do,
) -> Finding:
    """Searches a defended network and compares; ``gather_evidence`` says what the arguments are and what is raised."""
    config = config or EvidenceConfig()
    cold, warm, other = jax.random.split(key, 3)
    labels, stamps = earlier.labels, earlier.stamps
    searches = {"labels": labels, "holdout": holdout, "progress": progress}
    again = do(invert, network, variables, data, cold, config.cold, **searches)
    regrown = do(invert, network, variables, data, warm, config.warm, starts=stamps, **searches)
    looks = _look(network, variables, data, other, config, labels, holdout, do)
    figures = looks.measure(network, variables, stamps, labels, data, other, config, holdout, do)
    sizes = np.stack([earlier.sizes, _sizes(again), _sizes(regrown)], 1)
    pairs = np.stack([earlier.figures, figures], 2).swapaxes(0, 1)  # [L, F, 2]
    rows = zip(labels, sizes.tolist(), pairs.tolist(), strict=True)
    every = tuple(LabelEvidence(label, *own, *map(tuple, forms)) for label, own, forms in rows)
    count = len(earlier.suspects)
    return judge_evidence(every[:count], every[count:], earlier.visible, config)


def choose_examined(
    found: Inverted, config: EvidenceConfig, reached: tuple[int, ...] = ()
) -> tuple[tuple[int, ...], tuple[int, ...], bool]:
    """Labels that stand out, or the one of the smallest size; ordinary labels; and whether one stood out.

    ``reached`` are labels that stand out by another form.

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


@dataclass(frozen=True, eq=False)
class _Looks:
    """What the forms that need no mask say of the labels that were looked at."""

    patches: Patches
    warps: Warps
    shifts: Shifts

    def find_outliers(self, config: EvidenceConfig) -> tuple[int, ...]:
        """The labels that stand out by one of them, each once."""
        found = [int(self.patches.labels[place]) for place in self.patches.find_outliers(config.patches)]
        found += [int(self.warps.labels[place]) for place in self.warps.find_outliers(config.warp)]
        return tuple(dict.fromkeys(found + self.shifts.find_outliers(config.shift)))

    def measure(
        self,
        network: Network,
        variables: Variables,
        stamps: Stamps,
        labels: tuple[int, ...],
        data: Batch,
        key: jax.Array,
        config: EvidenceConfig,
        holdout: Batch | None,
        do: Do,
    ) -> Float[np.ndarray, "F L"]:
        """`Earlier.figures` of these labels: of the stamps given, of new perturbations, and of what was looked at."""
        held, asked = data if holdout is None else holdout, np.asarray(labels)
        success, misled = measure_effects(network, variables, held, stamps.masks, stamps.patterns, asked)
        perturbed = do(
            find_perturbations, network, variables, data, key, config.perturbation, labels=labels, holdout=holdout
        )
        return np.stack([
            success,
            perturbed.success,
            *(_pick(each, labels) for each in (self.patches, self.warps)),
            self.shifts.shares[asked],
            misled,
        ])  # fmt: skip


def _look(
    network: Network,
    variables: Variables,
    data: Batch,
    key: jax.Array,
    config: EvidenceConfig,
    labels: tuple[int, ...] | None,
    holdout: Batch | None,
    do: Do,
) -> _Looks:
    own = jax.random.fold_in(key, 1)
    return _Looks(
        do(scan_patches, network, variables, data, config.patches, labels=labels, holdout=holdout),
        do(find_warps, network, variables, data, own, config.warp, labels=labels, holdout=holdout),
        do(find_shifts, network, variables, data, config.shift),
    )


def _pick(found: Patches | Warps, labels: tuple[int, ...]) -> Float[np.ndarray, "L"]:
    return found.success[find_places(found.labels, labels)]


def _sizes(found: Inverted) -> Float[np.ndarray, "K"]:
    return np.where(found.reached, found.sizes, np.inf)
