"""What attempts amount to, in a verdict that never calls a network clean."""

import pytest

from rnp_jax.pipeline.reactivation_document import MEANINGS, STATUS, conclude, find_worst
from rnp_jax.reactivation import Attempt, Outcome
from rnp_jax.reactivation.ruling import ORDER
from rnp_jax.report.reactivation import LEVELS, Ruled
from tests.report.examples import share

LOW = share(9, 1000)


def attempt(after: int, floor: int | None, name: str = "ra") -> Attempt:
    return Attempt(
        name=name,
        after=Outcome(asr=share(after, 1000)),
        floor=None if floor is None else Outcome(asr=share(floor, 1000)),
    )


def test_every_finding_has_a_status_a_meaning_and_a_colour():
    assert set(ORDER) == set(STATUS) == set(MEANINGS) == set(LEVELS)
    assert [finding for finding, status in STATUS.items() if status == 0] == ["not recovered"]


def test_the_worst_finding_counts():
    rulings = [Ruled(name="a", finding=finding, sentence="") for finding in ("explains", "not recovered", "undecided")]
    assert find_worst(rulings, LOW, LOW) == "undecided"
    assert find_worst(rulings[:1], LOW, LOW) == "explains"
    assert find_worst(rulings, share(900, 1000), LOW) == "still works"
    assert find_worst([], LOW, None) == "explains"


@pytest.mark.parametrize(
    ("finding", "attempts", "said"),
    [
        ("superficial", [attempt(720, 10)], "The backdoor comes back: RA reaches ASR 72.00%, on a clean network 1.00%"),
        ("undecided", [attempt(240, 20)], "It cannot be told whether the backdoor comes back: RA reaches ASR 24.00%"),
        (
            "no reference",
            [attempt(180, None)],
            "Without a clean reference it cannot be told whether the backdoor comes back",
        ),
        ("not recovered", [attempt(30, 20)], "No attempt brought the backdoor back: RA reaches ASR 3.00%"),
        ("explains", [Attempt(name="lmc")], "No attempt was made that could bring the backdoor back"),
        ("still works", [attempt(990, 10)], "The trigger still works: ASR 0.90% before any attempt"),
    ],
)
def test_the_verdict_names_the_figures_and_never_says_clean(finding, attempts, said):
    verdict = conclude(finding, LOW, LOW, attempts)
    assert said in verdict.headline
    assert verdict.level == LEVELS[finding]
    assert not verdict.supported
    assert "is clean" not in verdict.headline
    assert "the network is clean" not in verdict.detail.replace("no proof that the network is clean", "")


def test_the_verdict_names_only_the_attempts_that_it_rests_on():
    headline = conclude(
        "superficial", LOW, LOW, [attempt(30, 20), attempt(720, 10, "wba"), Attempt(name="lmc")]
    ).headline
    assert "WBA" in headline
    assert "RA reaches" not in headline
