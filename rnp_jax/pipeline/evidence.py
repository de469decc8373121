"""Evidence without the trigger: what new searches for triggers find in a model before and after a defense."""

import jax

from rnp_jax.defenses.method import Keep, compute_anew, do_by
from rnp_jax.detection.evidence import Finding, LabelEvidence
from rnp_jax.detection.evidence_search import gather_evidence
from rnp_jax.inversion import Inverted
from rnp_jax.pipeline.case import Case
from rnp_jax.pipeline.doubts import find_doubt
from rnp_jax.pipeline.measuring import Outcome
from rnp_jax.pipeline.request import Request
from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.report.schema import Evidence, SearchedLabel

_SEED = 0x65766964  # folded into the run's; a small number would give a key that methods split off theirs


def search_before_and_after(
    case: Case,
    outcome: Outcome,
    request: Request,
    log: RunLog,
    keep: Keep = compute_anew,
    found: Inverted | None = None,
    *,
    only_visible: bool = False,
) -> Finding | None:
    """What the searches find; None where they were not asked for, or do not apply.

    They apply to a network that reads images and was changed, not to a head on features and not to a new network. What
    they would find in a network that is hardly better than guessing says nothing.
    """
    when = request.options.evidence
    wanted = when == "always" or (when == "unknown" and case.trigger is None)
    if not wanted or case.untrusted or case.model.extractor is not None or request.method.changes == "nothing":
        return None
    if (doubt := find_doubt(case.model, outcome.before)) is not None and doubt.at_chance:
        return None
    log.say("searching for triggers before and after the defense")
    with log.stage("evidence"), log.epochs() as bars:
        return gather_evidence(
            case.network,
            case.model.variables,
            outcome.model.variables,
            case.data,
            jax.random.fold_in(jax.random.key(request.options.seed), _SEED),
            holdout=case.holdout,
            found=found,
            only_visible=only_visible,
            progress=bars,
            do=do_by(keep, "evidence"),
        )


def describe_evidence(finding: Finding | None, class_names: tuple[str, ...]) -> Evidence | None:
    """The finding as the document has it."""
    if finding is None:
        return None
    return Evidence(
        level=finding.level,
        visible=finding.visible,
        labels=tuple(_describe_label(each, True, class_names) for each in finding.suspects)
        + tuple(_describe_label(each, False, class_names) for each in finding.controls),
        ordinary_before=finding.ordinary[0],
        ordinary_after=finding.ordinary[1],
        reasons=finding.reasons,
    )


def _describe_label(found: LabelEvidence, suspected: bool, class_names: tuple[str, ...]) -> SearchedLabel:
    return SearchedLabel(
        label=found.label,
        name=str(class_names[found.label]),
        suspected=suspected,
        size_before=found.before,
        size_after_cold=found.cold,
        size_after_warm=found.warm,
        old_trigger_before=found.old_trigger[0],
        old_trigger_after=found.old_trigger[1],
        misled_before=found.misled[0],
        misled_after=found.misled[1],
        perturbation_before=found.perturbation[0],
        perturbation_after=found.perturbation[1],
        patch_before=found.patch[0],
        patch_after=found.patch[1],
        warp_before=found.warp[0],
        warp_after=found.warp[1],
        shift_before=found.shift[0],
        shift_after=found.shift[1],
    )
