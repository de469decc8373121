"""``train``: from a card whose set is poisoned again, and from a set of images, whose plain training is made short."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rnp_jax.card import CARD_SUFFIX, beside
from rnp_jax.cli import main
from rnp_jax.commands import train as command
from rnp_jax.data import load
from rnp_jax.report.schema import Result, read_result

ABL = (
    *("--abl.tuning.epochs", "2", "--abl.tuning.batch-size", "64", "--abl.finetune.epochs", "2"),
    *("--abl.unlearn.epochs", "1", "--abl.isolate", "0.05", "--abl.cutout", "0"),
    *("--augmentation.padding", "0", "--augmentation.no-flip", "--test-images", "100", "--batch-size", "20"),
)
FILES = {"cleaned.pt", "cleaned.card.json", "report.html", "result.json", "run.log", "config.yaml", "figures"}


@pytest.fixture(scope="module")
def carded(small_victim, tmp_path_factory) -> tuple[Path, Result]:
    """A network that ABL trained on the small victim's set."""
    out = tmp_path_factory.mktemp("train") / "out"
    assert main(["train", str(beside(small_victim, CARD_SUFFIX)), *ABL, "--out", str(out)]) == 0
    return out, read_result(out / "result.json")


def test_a_card_s_set_is_poisoned_again_and_its_checkpoint_is_the_network_before(carded, small_victim):
    out, result = carded
    assert {path.name for path in out.iterdir()} >= FILES
    assert not (out / command.PLAIN).exists()
    assert (result.method, result.checkpoint.path) == ("abl", str(small_victim))
    assert "1,297 untrusted images" in result.verdict.detail
    assert "It held 64 to be poisoned." in result.verdict.detail
    card = json.loads((out / "cleaned.card.json").read_text())
    assert card["training"]["defense"] == "abl"
    assert result.before.asr is not None


def test_what_was_isolated_is_held_against_the_truth(carded):
    names = list(carded[1].covariates)
    assert any("precision" in name for name in names)
    assert any("recall" in name for name in names)
    (auroc,) = (value for name, value in carded[1].covariates.items() if "AUROC" in name)
    assert auroc is not None
    assert 0 <= auroc <= 1


@pytest.fixture
def asked(small_victim, monkeypatch) -> SimpleNamespace:
    """In place of both trainings, which take minutes, a copy of the small victim; what each was asked for."""
    asked = SimpleNamespace(plain=[], method=[])

    def train_plainly(options, train_set, test, *_):
        asked.plain.append((options, len(train_set), len(test)))
        shutil.copy(small_victim, options.out)

    def defend(request, out, log):
        asked.method.append((request, out))
        return SimpleNamespace(verdict=None)

    monkeypatch.setattr(command, "make_victim", train_plainly)
    monkeypatch.setattr(command, "defend_checkpoint", defend)
    return asked


@pytest.fixture
def images(tmp_path) -> tuple[str, str]:
    """An untrusted set of 200 small digits as a file, and a file of others with test images."""
    data = load("digits", image_size=8)
    for name, chosen in (("set", slice(0, 200)), ("other", slice(200, 800))):
        np.savez(tmp_path / f"{name}.npz", images=data.images[chosen], labels=data.labels[chosen].astype(np.int64))
    return str(tmp_path / "set.npz"), str(tmp_path / "other.npz")


def test_a_set_of_images_is_trained_on_plainly_and_then_by_the_method(asked, images, tmp_path):
    data, test = images
    out = tmp_path / "out"
    given = ["train", data, "--data", test, *ABL, "--width", "4", "--train.epochs", "3", "--seed", "2"]
    assert main([*given, "--abl.isolate", "0.1", "--out", str(out)]) == 0
    ((plain, *_),), ((request, folder),) = asked.plain, asked.method
    assert (plain.attack, plain.width, plain.train.epochs, plain.seed) == ("none", 4, 3, 2)
    assert (plain.images.data, plain.augmentation.flip, plain.resume) == (data, False, False)
    assert (request.checkpoint, request.method.name, folder) == (str(out / command.PLAIN), "abl", str(out))
    assert (request.options.untrusted.data, request.options.images.data) == (data, test)
    assert (request.settings.isolate, request.options.seed) == (0.1, 2)


def test_an_interrupted_run_goes_on_and_one_with_other_options_does_not(asked, images, tmp_path):
    given = ["train", images[0], *ABL, "--out", str(tmp_path / "out")]
    assert main(given) == main(given) == 0
    assert (len(asked.plain), len(asked.method)) == (1, 2)
    assert main([*given, "--abl.isolate", "0.2"]) == 1
    assert (len(asked.plain), len(asked.method)) == (1, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--method", "rnp"), "--method rnp: it learns from clean images"),
        (("--untrusted.data", "digits"), "the training set is this command's own argument"),
        (("--model", "zzz"), "--model zzz"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_read(arguments, message, fails, tmp_path):
    assert message in fails("train", "nowhere.npz", *arguments, "--out", tmp_path / "out")


def test_a_card_without_its_checkpoint_and_options_that_a_card_makes_useless(small_victim, fails, tmp_path):
    card = beside(small_victim, CARD_SUFFIX)
    assert "--width: not read with a card" in fails("train", card, "--width", 4, "--out", tmp_path / "out")
    shutil.copy(card, tmp_path / card.name)
    message = fails("train", tmp_path / card.name, "--out", tmp_path / "out")
    assert "is the card of small.pt, which does not lie beside it" in message
    (tmp_path / "none.card.json").write_text("[]")
    assert "expected a card" in fails("train", tmp_path / "none.card.json", "--out", tmp_path / "out")
