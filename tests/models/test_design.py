import pytest

from rnp_jax.models.design import marked_by, scaled


def test_marks_are_keys_that_are_there_and_keys_that_are_not():
    matches = marked_by("a", "b", absent=("c",))
    assert matches({"a": (1,), "b": (1,)})
    assert not matches({"a": (1,)})
    assert not matches({"a": (1,), "b": (1,), "c": (1,)})


@pytest.mark.parametrize(
    ("channels", "width", "expected"), [(96, 32, 96), (96, 4, 12), (320, 16, 160), (24, 1, 1), (16, 1, 1)]
)
def test_channels_scale_with_the_width_and_do_not_vanish(channels, width, expected):
    assert scaled(channels, width, 32) == expected
    assert scaled(3, 32, 32) == 3
