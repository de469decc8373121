"""What a defender is given of a source of images, and what is measured on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rnp_jax.config import ComputeOptions, DataOptions, DefenseSetOptions, SourceOptions
from rnp_jax.data import load
from rnp_jax.errors import DataError
from rnp_jax.pipeline.images import draw_evenly, open_data, open_images, tell_parts
from rnp_jax.pipeline.opening import open_model
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


@pytest.fixture(scope="module")
def model():
    return open_model(str(CHECKPOINT), SourceOptions(), ComputeOptions())


@pytest.mark.parametrize("holdout", [0.0, 0.25])
def test_the_images_of_a_defender(model, holdout):
    data, held, test = open_images(
        model, DataOptions(test_images=30), DefenseSetOptions(size=40, holdout=holdout, seed=3)
    )
    parts = [data] if held is None else [data, held]
    assert [len(part.labels) for part in parts] == ([40] if holdout == 0 else [30, 10])
    assert np.bincount(np.concatenate([part.labels for part in parts])).tolist() == [4] * 10
    assert len({image.tobytes() for part in parts for image in part.images} | {i.tobytes() for i in test.images}) == 70


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
