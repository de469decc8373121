import numpy as np
import pytest

from rnp_jax.errors import ConfigError
from rnp_jax.pipeline.settling import Candidate, settle

A: Candidate = (("architecture", "a"),)
B: Candidate = (("architecture", "b"),)
C: Candidate = (("architecture", "a"), ("normalization", "imagenet"))

LABELS = np.arange(200) % 10


def predict(right: int, first: int = 0) -> np.ndarray:
    """Labels of which ``right`` from the position ``first`` on are correct."""
    predicted = (LABELS + 1) % 10
    predicted[first : first + right] = LABELS[first : first + right]
    return predicted


def settle_between(answers: dict[Candidate, np.ndarray]):
    return settle(list(answers), LABELS, answers.__getitem__, "model.pt")


def test_the_best_is_taken_where_the_difference_is_beyond_noise():
    found = settle_between({A: predict(20), B: predict(180)})
    assert found.choice == B
    assert [(candidate, acc.count) for candidate, acc in found.tried] == [(B, 180), (A, 20)]
    assert found.sentence == (
        "The file does not say --architecture: --architecture b is the best of 2 candidates, with 90.0% of 200 clean "
        "images; the next best, --architecture a, has 10.0%."
    )


@pytest.mark.parametrize(("ahead", "settled"), [(9, False), (10, True)])
def test_a_lead_counts_on_the_images_that_only_one_classifies_rightly(ahead, settled):
    answers = {A: predict(150), B: predict(150 + ahead)}
    if settled:
        assert settle_between(answers).choice == B
    else:
        with pytest.raises(ConfigError, match="--architecture b is not ahead of --architecture a by more than chance"):
            settle_between(answers)


def test_a_lead_of_ten_images_is_noise_where_the_two_disagree_on_many():
    with pytest.raises(ConfigError, match="by more than chance"):
        settle_between({A: predict(95), B: predict(105, first=95)})


def test_a_tie_asks_for_the_options_and_gives_every_figure():
    with pytest.raises(ConfigError) as caught:
        settle_between({A: predict(180), C: predict(180), B: predict(20)})
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("model.pt does not say --architecture and --normalization, and 200 clean images")
    assert [line.split(": ")[0].strip() for line in lines[1:]] == [
        "--architecture a",
        "--architecture a --normalization imagenet",
        "--architecture b",
    ]
    assert "90.0% (85.1% to 93.4%)" in lines[1]


def test_normalisations_that_the_images_cannot_tell_apart_are_no_dead_end():
    one, other = ((("normalization", name),) for name in ("imagenet", "cifar10_bb"))
    with pytest.raises(ConfigError, match="Give --normalization; if you do not know it, take the first"):
        settle_between({one: predict(180), other: predict(180)})
    with pytest.raises(ConfigError, match=r"Give --architecture\. The"):
        settle_between({A: predict(180), B: predict(180)})


def test_nothing_is_taken_where_none_is_better_than_guessing():
    with pytest.raises(ConfigError, match=r"none of them is better than guessing \(10.0%\)"):
        settle_between({A: predict(0), B: predict(25)})
