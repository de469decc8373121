"""Evidence of a backdoor without its trigger, on a network before and after a defense.

What a defense trained on says nothing about its success, and the true trigger is not known. Six looks, each new:
- **size**: the smallest mask that sends images to a suspected label, searched on the defended network from random
  starts (cold) and from the mask found before (warm). Where a backdoor is left, one of them stays small.
- **old trigger**: what the mask found before still does: to how many images it gives the label, and how many right
  answers it makes wrong ones, which a defense that leads the trigger elsewhere leaves.
- **perturbation**: what a universal perturbation of all pixels does, which a small mask cannot express;
- **patch**: what plain squares do, tried at all places without a gradient, which a defense may have hidden;
- **warp**: what one smooth displacement of all pixels does, which no mask expresses;
- **shift**: the smallest change of the features that sends other classes to the label, whatever the trigger's form.

A size is held against the size of an ordinary label, never against a constant. That of the network before says how
small a trigger must be to be suspicious. That of the network after says whether the suspected label is still easier to
reach than others: a network that lost accuracy, or learned to withstand stamps, needs larger triggers everywhere, and
a search that goes on from a mask found before makes every label's smaller.

The finding says what these searches found. It cannot say that a backdoor is removed: where nothing stood out before,
they may be blind to its trigger.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from rnp_jax.errors import ConfigError
from rnp_jax.inversion import WARM, InversionConfig, PatchConfig, PerturbationConfig, ShiftConfig, WarpConfig
from rnp_jax.inversion.anomaly import stands_out

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
      warp: of the universal warp; a label that it reaches stands out.
      shift: of the feature shift; a label whose shift is far smaller than others' stands out.
      controls: other labels searched beside the suspected ones, those of median size.
      suspicious: anomaly index above which a label stands out before.
      margin: share of the median size that its own may not exceed either; also, a size after below this share of an
        ordinary label's after is a trace, and only a size before below it makes the old trigger one of its own.
      clear: share of the median size at or below which a label stands out before, whatever its index.
      small: a size after below this share of an ordinary label's, before or after, whichever is smaller, is a backdoor
        that is still there.
      ordinary: a size after below this share of it is a trace.
      works: success of the old trigger from which the backdoor is still there.
      helps: success of the old trigger beyond which there is a trace.
      excess: success of the perturbation, of a patch or of the warp, beyond that at other labels, from which there is a
        trace; and share of right answers that the old trigger makes wrong ones, from which there is one.
    """

    cold: InversionConfig = field(default_factory=InversionConfig)
    warm: InversionConfig = WARM
    perturbation: PerturbationConfig = field(default_factory=PerturbationConfig)
    patches: PatchConfig = field(default_factory=lambda: PatchConfig(side=0.1, step=1.0))
    warp: WarpConfig = field(default_factory=WarpConfig)
    shift: ShiftConfig = field(default_factory=ShiftConfig)
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
      warp: success of a universal warp on the network before, and of another one after.
      shift: size of the feature shift as a share of the median label's, before and after.
      misled: share of right answers that the mask found before makes wrong ones, on the network before and after.
    """

    label: int
    before: float
    cold: float
    warm: float
    old_trigger: tuple[float, float]
    perturbation: tuple[float, float]
    patch: tuple[float, float]
    warp: tuple[float, float]
    shift: tuple[float, float]
    misled: tuple[float, float]

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


def judge_evidence(
    suspects: tuple[LabelEvidence, ...], controls: tuple[LabelEvidence, ...], visible: bool, config: EvidenceConfig
) -> Finding:
    """The finding that figures make, by the rules of ``EvidenceConfig``.

    Where no label stood out before, the one examined was the smallest of many by chance, as one of a clean network is:
    what it shows is a trace at most. Of a label whose mask was not small before, whatever else it stood out by, a
    size after is held to stricter limits, and the old trigger counts only beyond what the controls' still do: the mask
    is one that any label has.
    """
    before, after = (
        float(np.median(sizes)) for sizes in zip(*((each.before, each.after) for each in controls), strict=True)
    )
    strong, weak = [], []
    for each in suspects:
        small = visible and each.before <= config.margin * before
        for found in (
            _judge_size(each, (before, after), small, config),
            _judge_old_trigger(each, controls, small, config),
            _judge_misled(each, controls, small, config),
            *_judge_forms(each, controls, config),
        ):
            strong += [found.reason] * found.strong
            weak += [found.reason] * (found.weak and not found.strong)
    reasons = [*strong, *weak] or ["No search reached a suspected label more easily than an ordinary one."]
    if not visible:
        reasons.append("No label stood out before the defense either: its trigger may be of a form not searched for.")
    level: Level = "still there" if strong and visible else "traces" if strong or weak else "none found"
    return Finding(level, visible, suspects, controls, (before, after), tuple(reasons))


class _Judged(NamedTuple):
    """What one form says of one label."""

    reason: str
    strong: bool
    weak: bool


def _judge_size(found: LabelEvidence, ordinary: tuple[float, float], stood: bool, config: EvidenceConfig) -> _Judged:
    before, after = ordinary
    small, enough = (config.small, config.ordinary) if stood else (config.margin, config.small)
    reason = (
        f"A trigger of {found.after:.1f} pixels reaches label {found.label}; an ordinary label takes {before:.1f} "
        f"before the defense and {after:.1f} after it."
    )
    least = min(before, after)  # a network may need smaller triggers for every label after, and warm searches find them
    traces = (np.isfinite(least) and found.after < enough * least) or (
        np.isfinite(after) and found.after < config.margin * after
    )
    return _Judged(reason, bool(np.isfinite(least) and found.after < small * least), bool(traces))


def _judge_old_trigger(
    found: LabelEvidence, controls: tuple[LabelEvidence, ...], stood: bool, config: EvidenceConfig
) -> _Judged:
    works = found.old_trigger[1] - (0.0 if stood else max(each.old_trigger[1] for each in controls))
    reason = f"The trigger found before still sends {found.old_trigger[1]:.0%} of the images to label {found.label}."
    return _Judged(reason, works >= config.works, works > config.helps)


def _judge_misled(
    found: LabelEvidence, controls: tuple[LabelEvidence, ...], stood: bool, config: EvidenceConfig
) -> _Judged:
    misled = found.misled[1] - (0.0 if stood else max(each.misled[1] for each in controls))
    reason = f"The trigger found before for label {found.label} makes {found.misled[1]:.0%} of the right answers wrong."
    return _Judged(reason, False, misled >= config.excess)


def _judge_forms(
    found: LabelEvidence, controls: tuple[LabelEvidence, ...], config: EvidenceConfig
) -> Iterator[_Judged]:
    """The perturbation, the square, the warp and the shift, each held against that of ordinary labels."""
    limits = {
        "perturbation": ("universal perturbation", None),
        "patch": ("plain square", config.patches),
        "warp": ("smooth warp", config.warp),
    }
    for form, (name, limit) in limits.items():
        success, others = getattr(found, form)[1], max(getattr(each, form)[1] for each in controls)
        reason = (
            f"A {name} sends {success:.0%} of the images to label {found.label}, and at most {others:.0%} to an "
            "ordinary one."
        )
        strong = limit is not None and stands_out(success, others, limit.works, limit.ahead)
        yield _Judged(reason, strong, success - others >= config.excess)
    reason = (
        f"A shift of the features of {found.shift[1]:.0%} of the median label's size leads to label {found.label}, and "
        f"at least one of {min(each.shift[1] for each in controls):.0%} to an ordinary one."
    )
    smaller = found.shift[1] < min(each.shift[1] for each in controls)
    yield _Judged(reason, False, smaller and found.shift[1] <= config.shift.margin)
