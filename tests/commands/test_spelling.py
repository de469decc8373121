import pytest

from rnp_jax.commands.spelling import spell_options

PRUNE = "--rnp.prune."
DEFEND = ["defend", "a.pt", "--method"]


@pytest.mark.parametrize(
    ("given", "text", "told"),
    [
        ([*DEFEND, "rnp", "--rnp.passes", "0"], "passes is 0, expected 1", "--rnp.passes is 0, expected 1"),
        ([*DEFEND, "rnp"], "image_shape is (), expected 3", "--image-shape is (), expected 3"),
        ([*DEFEND, "rnp"], "seed is -1", "--seed is -1"),
        ([*DEFEND, "rnp", "--defense.seed", "-1"], "defense.seed is -1", "--defense.seed is -1"),
        ([*DEFEND, "clp"], "defense.size 9 and --defense.holdout", "--defense.size 9 and --defense.holdout"),
        (
            [*DEFEND, "rnp", "--rnp.prune.number=-3", "--seed", "1"],
            "PruneConfig(ranking='path', number=-3): expected accuracy_budget and threshold in [0, 1] and number >= 0",
            f"{PRUNE}number -3: expected {PRUNE}accuracy-budget and {PRUNE}threshold in [0, 1] and {PRUNE}number >= 0",
        ),
        (
            [*DEFEND, "rnp"],
            "PruneConfig(number=-3): expected number >= 0",
            "settings of --rnp.prune: expected --rnp.prune.number >= 0",
        ),
        (
            [*DEFEND, "hid", "--hid.keep", "2"],
            "keep 2.0, rounds 1: expected keep in (0, 1) and rounds >= 1",
            "--hid.keep 2.0, rounds 1: expected --hid.keep in (0, 1) and --hid.rounds >= 1",
        ),
        (
            [*DEFEND, "hid", "--hid.keep", "2"],
            "prune.threshold.rule budget needs images, and a.keep none",
            "--hid.prune.threshold.rule budget needs images, and a.keep none",
        ),
        (
            ["attack", "badnets", "--out", "a.pt"],
            "TrainConfig(): expected epochs >= 1",
            "settings of --train: expected --train.epochs >= 1",
        ),
        (["study", "--rates", "3"], "rates is 3.0, expected 1", "--rates is 3.0, expected 1"),
    ],
)  # fmt: skip
def test_settings_are_told_as_options(given, text, told):
    assert spell_options(text, given) == told


@pytest.mark.parametrize(
    "text",
    [
        "a.pt: the file is empty",
        "number of images is 3, expected 4",
        "keep 2.0: this was not given",
        "Unknown(a=1): expected size >= 1",
        "--defense.size 9 is too large",
        "is a.pt a file",
    ],
)
def test_other_words_stay(text):
    assert spell_options(text, [*DEFEND, "hid", "--out", "x"]) == text


@pytest.mark.parametrize("arguments", [[], ["nothing"], [*DEFEND, "nothing"], ["defend", "--config", "missing.yaml"]])
def test_of_a_command_that_is_none_the_text_stays(arguments):
    assert spell_options("seed is -1", arguments) == "seed is -1"
