import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rnp_jax.attacks import ATTACKS, BadNets, Blend, describe
from rnp_jax.config import ComputeOptions, DataOptions, DefenseSetOptions, SourceOptions, TriggerOptions
from rnp_jax.data import load
from rnp_jax.errors import ArchitectureError, ConfigError, DataError
from rnp_jax.pipeline.opening import (
    choose_out,
    draw_evenly,
    make_attack,
    open_data,
    open_images,
    open_model,
    open_trigger,
    read_features,
    tell_parts,
)
from rnp_jax.types import Batch
from tests.runs import CHECKPOINT


@settings(deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 70))
def test_draws_are_even_over_the_classes(labels, count):
    row = np.array(labels)
    chosen = draw_evenly(row, count)
    assert len(chosen) == min(count, len(row))
    assert (np.diff(chosen) > 0).all()
    for label in np.unique(row):
        taken, there = (row[chosen] == label).sum(), (row == label).sum()
        members = np.flatnonzero(row == label)
        np.testing.assert_array_equal(chosen[row[chosen] == label], members[:taken])  # the first of the class
        if taken < there:  # no class gives two more than one that has more to give
            assert all((row[chosen] == other).sum() <= taken + 1 for other in np.unique(row))


def test_constants_as_text_are_constants_as_values():
    text = {"variant": "square", "size": "5", "margin": "None"}
    assert make_attack("badnets", text) == BadNets(variant="square", size=5, margin=None)
    assert make_attack("blend", {"alpha": "0.25"}) == Blend(alpha=0.25)
    for name, kind in ATTACKS.items():
        assert make_attack(name, {}) == kind()
        assert make_attack(name, describe(kind())["constants"]) == kind()


@pytest.mark.parametrize(
    ("name", "constants", "message"),
    [
        ("badnets", {"sise": "3"}, "badnets has no constant sise; it has variant, size, margin"),
        ("badnets", {"size": "big"}, "badnets: constant size"),
        ("badnets", {"size": "4"}, "multiple of 3"),
        ("wanett", {}, "did you mean wanet"),
    ],
)
def test_attacks_that_cannot_be_made(name, constants, message):
    with pytest.raises(ConfigError, match=message):
        make_attack(name, constants)


def test_output_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert choose_out(None, "models/a.tar", "defend", "report.html") == Path("runs/defend-a")
    assert choose_out("here", "a.pt", "defend", "report.html") == Path("here")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "result.json").touch()  # of a run that was killed before its last file
    assert choose_out("here", "a.pt", "defend", "report.html") == Path("here")
    (tmp_path / "here" / "report.html").touch()
    with pytest.raises(DataError, match="here already contains a finished result"):
        choose_out("here", "a.pt", "defend", "report.html")
    with pytest.raises(DataError, match=r"report\.html is not a folder"):
        choose_out("here/report.html", "a.pt", "defend", "report.html")
    with pytest.raises(ConfigError, match="--out is runs/defend-a\udcff, which is not UTF-8"):
        choose_out(None, "a\udcff.pt", "defend", "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


@pytest.fixture(scope="module")
def model():
    return open_model(str(CHECKPOINT), SourceOptions(), ComputeOptions())


def test_the_card_says_what_the_options_leave_open(model):
    assert model.network.architecture.image_shape == model.card.architecture.image_shape == (32, 32, 3)
    assert model.network.mean == model.card.normalization.mean
    test = open_data(model, DataOptions(test_images=30), "test")
    assert np.bincount(test.labels).tolist() == [3] * 10
    trigger = open_trigger(model, TriggerOptions(), test)
    assert trigger is not None
    assert (trigger.attack, trigger.goal.target, len(trigger.test.labels)) == (BadNets(), 0, 27)
    assert len(open_data(model, DataOptions(test_images=30), "train")) == 1297
    other = open_model(str(CHECKPOINT), SourceOptions(image_shape=(16, 16, 3), normalization="half"), ComputeOptions())
    assert (other.network.architecture.image_shape, other.network.mean) == ((16, 16, 3), (0.5, 0.5, 0.5))
    assert open_data(other, DataOptions(), "test").image_shape == (16, 16, 3)


@pytest.mark.parametrize(
    "options",
    [
        TriggerOptions(target=1),
        TriggerOptions(mapping="all_to_all"),
        TriggerOptions(constants={"size": "6"}),
        TriggerOptions(attack="none", artefact="trigger.npz"),
        TriggerOptions(attack="none", target=2),
    ],
)
def test_options_that_nothing_would_read(model, options):
    test = open_data(model, DataOptions(test_images=10), "test")
    with pytest.raises(ConfigError, match=f"--attack {options.attack} does not use .* and --artefact: name the attack"):
        open_trigger(model, options, test)


def test_all_to_all_counts_every_image(model):
    test = open_data(model, DataOptions(test_images=20), "test")
    trigger = open_trigger(model, TriggerOptions(attack="badnets", mapping="all_to_all"), test)
    assert trigger is not None
    assert trigger.goal.one_target is None
    np.testing.assert_array_equal(trigger.test.wanted, (test.labels + 1) % 10)
    assert open_trigger(model, TriggerOptions(attack="none"), test) is None


@pytest.mark.parametrize("holdout", [0.0, 0.25])
def test_the_images_of_a_defender(model, holdout):
    data, held, test = open_images(
        model, DataOptions(test_images=30), DefenseSetOptions(size=40, holdout=holdout, seed=3)
    )
    parts = [data] if held is None else [data, held]
    assert [len(part.labels) for part in parts] == ([40] if holdout == 0 else [30, 10])
    assert np.bincount(np.concatenate([part.labels for part in parts])).tolist() == [4] * 10
    assert len({image.tobytes() for part in parts for image in part.images} | {i.tobytes() for i in test.images}) == 70


def test_a_head_reads_the_features_of_its_extractor(head):
    model = open_model(str(head), SourceOptions(), ComputeOptions())
    assert model.extractor is not None
    assert (model.extractor.name, model.network.architecture.image_shape) == (CHECKPOINT.stem, (1, 1, 64))
    test = open_data(model, DataOptions(test_images=20), "test")
    assert test.images.shape == (20, 32, 32, 3)
    read = model.read(test.batch)
    np.testing.assert_array_equal(read.images, read_features(model.extractor, test.images))
    np.testing.assert_array_equal(read.images[:, 0, 0], model.extractor(test.images))
    np.testing.assert_array_equal(read.labels, test.labels)


def test_a_network_reads_images_as_they_are(model):
    batch = Batch(np.zeros((2, 32, 32, 3), np.uint8), np.zeros(2, np.int32))
    assert model.extractor is None
    assert model.read(batch) is batch


def copy_head(head: Path, folder: Path) -> str:
    for suffix in (".pt", ".card.json", ".trigger.npz"):
        shutil.copy(head.with_suffix(suffix), folder)
    return str(folder / head.name)


def test_a_head_whose_extractor_is_not_there(head, tmp_path):
    path = copy_head(head, tmp_path)
    with pytest.raises(
        DataError, match=r"digits_badnets\.pt does not exist; .* this extractor, digits_badnets: .* with --ex"
    ):
        open_model(path, SourceOptions(), ComputeOptions())
    given = open_model(path, SourceOptions(extractor=str(CHECKPOINT)), ComputeOptions())
    assert given.extractor is not None
    assert given.network == open_model(str(head), SourceOptions(), ComputeOptions()).network


@pytest.mark.parametrize("where", ["beside", "given"])
def test_a_head_whose_extractor_is_another(where, head, tmp_path):
    path, other = copy_head(head, tmp_path), CHECKPOINT.with_name("digits_clean.pt")
    for suffix in (".pt", ".card.json"):
        shutil.copy(other.with_suffix(suffix), (tmp_path / CHECKPOINT.name).with_suffix(suffix))
    source = SourceOptions() if where == "beside" else SourceOptions(extractor=str(other))
    with pytest.raises(DataError, match=r"sha256 [0-9a-f]{64}, but the head was trained on features of digits_badnets"):
        open_model(path, source, ComputeOptions())


def test_a_head_without_a_card_needs_its_extractor(head, tmp_path):
    shutil.copy(head, tmp_path)
    path = str(tmp_path / head.name)
    with pytest.raises(ArchitectureError, match="vectors of 64 features; say which with image shape"):
        open_model(path, SourceOptions(), ComputeOptions())
    model = open_model(path, SourceOptions(extractor=str(CHECKPOINT)), ComputeOptions())
    assert model.extractor is not None
    assert model.card is None
    with pytest.raises(ConfigError, match="no data: give --data"):
        open_data(model, DataOptions(), "test")


def test_an_extractor_of_another_width(head, tmp_path):
    shutil.copy(head, tmp_path)  # no card: nothing says which extractor it needs
    wide = SourceOptions(extractor=str(CHECKPOINT.with_name("cifar10_badnets.pt")))
    with pytest.raises(ArchitectureError, match=r"head\.pt is not a head on the 128 features of cifar10_badnets: .*64"):
        open_model(str(tmp_path / head.name), wide, ComputeOptions())
    with pytest.raises(ArchitectureError, match=r"is not a head on the 64 features of digits_badnets: .*resnet18"):
        open_model(str(CHECKPOINT), SourceOptions(extractor=str(CHECKPOINT)), ComputeOptions())
    with pytest.raises(DataError, match=r"cifar10_badnets gives 128 features, but .*head\.pt reads 64"):
        open_model(str(tmp_path / head.name), replace(wide, image_shape=(8, 8, 1)), ComputeOptions())


def write_digits(path: Path, counts: list[int]) -> Path:
    """So many images of each class as PNG files, one folder a class."""
    data = load("digits")
    for label, count in enumerate(counts):
        (path / str(label)).mkdir(parents=True)
        for i, row in enumerate(np.flatnonzero(data.labels == label)[:count]):
            Image.fromarray(data.images[row]).save(path / str(label) / f"{i:03}.png")
    return path


def test_what_the_defender_leaves_is_measured_on_where_that_is_asked_for(model, tmp_path):
    """Of 10 of each class 2 are test images and 8 the rest, of which the defender draws 3."""
    folder = write_digits(tmp_path / "own", [10] * 10)
    options, few = DataOptions(data=str(folder)), DefenseSetOptions(size=30, holdout=0.0)
    data, _, test = open_images(model, options, few)
    same, _, more = open_images(model, options, few, unused=True)
    np.testing.assert_array_equal(data.images, same.images)
    assert (len(data.labels), len(test), len(more)) == (30, 20, 70)
    np.testing.assert_array_equal(more.images[:20], test.images)
    assert not {image.tobytes() for image in data.images} & {image.tobytes() for image in more.images}
    limited = open_images(model, replace(options, test_images=10), few, unused=True)[2]
    assert len(limited) == 10


@pytest.mark.parametrize("kind", ["folder", "npz"])
def test_500_images_without_parts_are_enough(model, tmp_path, kind):
    path = write_digits(tmp_path / "own", [50] * 10)
    if kind == "npz":
        whole = load(path, undivided=True)
        path = tmp_path / "own.npz"
        np.savez(path, images=whole.images, labels=whole.labels)
    data, held, test = open_images(model, DataOptions(data=str(path)), DefenseSetOptions())
    assert held is not None
    sizes = [np.bincount(part.labels, minlength=10).tolist() for part in (data, held, test)]
    assert sizes == [[32] * 10, [8] * 10, [10] * 10]
    every = np.concatenate([data.images, held.images, test.images])
    assert len(np.unique(every, axis=0)) == len(np.unique(load(path, undivided=True).images, axis=0))
    assert tell_parts(data, held, test) == (
        "the 500 images have no test part of their own: 320 to learn from, 80 to choose by, 100 to measure on"
    )
    fewer = open_images(model, DataOptions(data=str(path), test_images=50), DefenseSetOptions(size=40, holdout=0))
    assert tell_parts(*fewer) == ("the 500 images have no test part of their own: 40 to learn from, 50 to measure on")
    evaluated = open_data(model, DataOptions(data=str(path)), "test", undivided=True)
    assert (len(evaluated), evaluated.source_images) == (500, 500)


def test_classes_that_are_short_are_made_up_for_where_there_are_no_parts(model, tmp_path):
    path = write_digits(tmp_path / "own", [10, *[70] * 9])
    data, held, test = open_images(model, DataOptions(data=str(path)), DefenseSetOptions(size=200, holdout=0))
    assert (held, len(test)) == (None, 128)
    assert np.bincount(data.labels).tolist() == [8, 22, 22, 22, 21, 21, 21, 21, 21, 21]


def test_parts_of_their_own_stay_what_they_are(model, tmp_path):
    train, test = load("digits"), load("digits", split="test")
    np.savez(
        tmp_path / "own.npz",
        x_train=train.images[:100], y_train=train.labels[:100], x_test=test.images, y_test=test.labels,
    )  # fmt: skip
    given = DataOptions(data=str(tmp_path / "own.npz"))
    with pytest.raises(DataError, match="500 images wanted for the defense set, but there are only 100"):
        open_images(model, given, DefenseSetOptions())
    assert len(open_data(model, given, "test", undivided=True)) == 500
    assert tell_parts(*open_images(model, given, DefenseSetOptions(size=20))) is None


@pytest.mark.parametrize("split", ["train", "test"])
def test_data_with_fewer_classes_than_the_model_have_names_for_all_and_lack_some(model, tmp_path, split):
    images = np.random.default_rng(0).integers(0, 256, (30, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "few.npz", images=images, labels=np.arange(30) % 3)
    data = open_data(model, DataOptions(data=str(tmp_path / "few.npz")), split)
    assert (data.class_names, data.lacking) == (tuple(map(str, range(10))), 7)
    names = [f"class {i}" for i in range(10)]
    np.savez(tmp_path / "named.npz", images=images, labels=np.arange(30) % 3, class_names=names)
    named = open_data(model, DataOptions(data=str(tmp_path / "named.npz")), split)
    assert (named.class_names, named.lacking) == (tuple(names), 0)
