"""The page of what every attack does, from the registry and from the bundled checkpoints."""

import base64
import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from rnp_jax.attacks import ATTACKS, Attack, BadNets, Ssba, describe, save_artefact
from rnp_jax.card import CARD_SUFFIX, TRIGGER_SUFFIX, beside
from rnp_jax.cli import main
from rnp_jax.commands.gallery import GalleryOptions, _choose_images, run
from rnp_jax.config import DataOptions
from rnp_jax.data import load
from rnp_jax.training.trainers import JOINT
from tests.runs import CHECKPOINT

FOLDER = CHECKPOINT.parent


def exhibits_of(path):
    """Each section of the page by its attack's name; an attack may have several."""
    sections = re.findall(r"<section[^>]*>(.*?)</section>", path.read_text("utf-8"), re.DOTALL)
    assert sections
    return [(re.findall("<code>([^<]*)</code>", section)[0], section) for section in sections]


def images_of(section, title):
    figure = next(part for part in section.split("<figure>") if part.startswith(f"<b>{title}</b>"))
    data = re.findall(r'src="data:image/png;base64,([^"]*)"', figure)
    return np.stack([np.asarray(Image.open(io.BytesIO(base64.b64decode(each)))) for each in data])


def store(attack, folder):
    """The bundled checkpoint with another attack's card and artefact: the page reads nothing else."""
    path = folder / f"{describe(attack)['name']}.pt"
    shutil.copy(CHECKPOINT, path)
    card = json.loads(beside(CHECKPOINT, CARD_SUFFIX).read_text())
    card["attack"] |= describe(attack)
    beside(path, CARD_SUFFIX).write_text(json.dumps(card))
    save_artefact(beside(path, TRIGGER_SUFFIX), attack.init((32, 32, 3)))
    return path


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    """WaNet, two BadNets and what is learned before its victim trains are given; the rest is not."""
    folder = tmp_path_factory.mktemp("gallery")
    path = folder / "new" / "gallery.html"
    arguments = [FOLDER / "digits_wanet.pt", FOLDER / "digits_badnets_square.pt", FOLDER / "digits_badnets.pt"]
    arguments += [store(kind(), folder) for kind in ATTACKS.values() if kind.fit is not Attack.fit]
    assert main(["gallery", *map(str, arguments), "--out", str(path)]) == 0
    return exhibits_of(path)


@pytest.mark.slow
def test_every_registered_attack_is_there(gallery):
    assert sorted({name for name, _ in gallery}) == sorted(ATTACKS)


def test_images_are_those_of_the_test_set_and_the_trigger_is_on_them(gallery):
    section = next(section for name, section in gallery if name == "badnets" and "variant grid" in section)
    clean, triggered = images_of(section, "clean"), images_of(section, "with trigger")
    assert len(clean) == 3
    test = {image.tobytes() for image in load("digits", split="test").images}
    assert all(image.tobytes() in test for image in clean)
    params = BadNets().init((32, 32, 3))
    np.testing.assert_array_equal(triggered, np.where(params["mask"], params["pattern"], clean))
    np.testing.assert_array_equal(images_of(section, "pattern"), params["pattern"][None])
    difference = np.abs(triggered.astype(int) - clean)
    np.testing.assert_array_equal(images_of(section, "difference"), np.round(difference * (255 / difference.max())))
    crop = images_of(section, "enlarged")
    assert crop.shape[1] < 16
    np.testing.assert_array_equal(crop, triggered[:, -crop.shape[1] :, -crop.shape[2] :])
    assert "poisoned</b>" not in section  # poisoned images are triggered ones


def test_checkpoints_take_the_place_of_default_constants(gallery):
    sources = [section for name, section in gallery if name == "badnets"]
    assert [("digits_badnets_square.pt" in each, "digits_badnets.pt" in each) for each in sources] == [
        (True, False), (False, True),
    ]  # fmt: skip
    assert "drawn from the constants" not in "".join(sources)
    wanet = next(section for name, section in gallery if name == "wanet")
    assert "digits_wanet.pt" in wanet
    assert images_of(wanet, "cover").shape == (3, 32, 32, 3)
    assert images_of(wanet, "grid").shape == (1, 32, 32, 3)
    assert " px at most" in wanet


def test_a_learned_trigger_is_shown_from_its_checkpoint_and_never_made_up(gallery):
    assert JOINT
    for name, section in gallery:
        assert ("<img" not in section) == (ATTACKS[name] in JOINT), name
        if ATTACKS[name] in JOINT:
            assert f"rnp-jax attack {name} --out {name}.pt" in section
        if ATTACKS[name].fit is not Attack.fit:
            assert f"{name}.pt</div>" in section


def test_networks_of_an_artefact_are_a_line_each(gallery):
    section = dict(gallery)["ssba"]
    encoder = [array for name, array in Ssba().init((32, 32, 3)).items() if name.startswith("encoder/")]
    assert f"encoder: {len(encoder)} arrays of {sum(array.size for array in encoder):,} numbers" in section
    assert "secret: bool [" in section


def test_equal_triggers_are_shown_once_and_clean_models_left_out(tmp_path, capsys):
    for stem in ("digits_badnets", "digits_badnets_seed3", "digits_clean"):
        for file in FOLDER.glob(f"{stem}.*"):
            shutil.copy(file, tmp_path)
    options = GalleryOptions((str(tmp_path),), str(tmp_path / "gallery.html"), DataOptions(data="digits"))
    sections = [section for name, section in exhibits_of(run(options)) if name == "badnets"]
    assert len(sections) == 1
    assert len(images_of(sections[0], "clean")) == 3
    assert "digits_clean.pt: left out, clean" in capsys.readouterr().err


def test_the_asr_is_the_cards_and_a_checkpoint_of_the_shown_data_comes_first(tmp_path):
    for stem, data in (("abroad", "cifar10"), ("home", "digits")):
        shutil.copy(CHECKPOINT, tmp_path / f"{stem}.pt")
        card = json.loads(beside(CHECKPOINT, CARD_SUFFIX).read_text()) | {"data": data, "asr": 0.923}
        (tmp_path / f"{stem}{CARD_SUFFIX}").write_text(json.dumps(card))
    options = GalleryOptions((str(tmp_path),), str(tmp_path / "gallery.html"))
    ((_, section),) = [each for each in exhibits_of(run(options)) if each[0] == "badnets"]
    assert "<h2>BadNets</h2><p>A small patch near the lower right corner.</p>" in section
    assert "ASR <strong>92.3%</strong>" in section
    assert "trained on <strong>digits</strong>" in section
    assert "home.pt</div>" in section


def test_images_that_show_a_trigger_are_neither_dark_nor_bright_and_of_different_classes():
    grey = np.asarray([0, 255, 120, 128, 100, 30, 126], np.uint8)
    images = np.broadcast_to(grey[:, None, None, None], (7, 4, 4, 3))
    assert _choose_images(images, np.asarray([0, 0, 1, 1, 2, 3, 1])).tolist() == [3, 4, 5]


@pytest.mark.slow
def test_images_of_another_size(tmp_path, capsys):
    path = tmp_path / "gallery.html"
    arguments = ["--image-size", "8", "--test-images", "2", "--out", str(path)]
    assert main(["gallery", str(CHECKPOINT), *arguments]) == 0
    assert "digits_badnets.pt: left out, for images of another size" in capsys.readouterr().err
    sections = dict(exhibits_of(path))
    assert images_of(sections["badnets"], "with trigger").shape == (2, 8, 8, 3)
    assert "Impossible on these images: frequency is 6" in sections["sig"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.pt", "nowhere.pt: cannot be read"),
        ("bare.pt", "bare.pt: no card beside it"),
        ("folder", "folder: no checkpoint in it has a card"),
    ],
)
def test_what_is_no_carded_checkpoint(name, message, fails, tmp_path):
    (tmp_path / "folder").mkdir()
    shutil.copy(CHECKPOINT, tmp_path / "bare.pt")
    assert message in fails("gallery", tmp_path / name, "--out", tmp_path / "gallery.html")
    assert not (tmp_path / "gallery.html").exists()
