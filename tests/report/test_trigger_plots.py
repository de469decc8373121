import numpy as np
import pytest

from rnp_jax.errors import ResultError
from rnp_jax.report import palette
from rnp_jax.report.figures import render_svg
from rnp_jax.report.trigger_plots import (
    GROUND,
    MAX_PICTURES,
    KnownTrigger,
    TriggerMaps,
    check_maps,
    plot_norms,
    plot_triggers,
)


def make(count: int = 5, channels: int = 3, known: bool = False) -> TriggerMaps:
    rng = np.random.default_rng(0)
    masks = rng.random((count, 4, 6)) / 2
    masks[1] /= 10
    patterns = rng.random((count, 4, 6, channels))
    suspected = np.arange(count) == 1
    truth = KnownTrigger(masks[1] > 0.02, np.full((4, 6, channels), 200, np.uint8)) if known else None
    names = tuple(f"class {i}" for i in range(count))
    return TriggerMaps(names, masks, patterns, masks.sum((1, 2)), np.where(suspected, 8.25, -0.5), suspected, truth)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_label_shows_its_mask_and_what_it_lets_through(channels: int):
    maps = make(channels=channels)
    axes = [ax for ax in plot_triggers(maps).axes if ax.images]
    assert len(axes) == 10
    above, below = axes[:5], axes[5:]
    for i in range(5):
        np.testing.assert_allclose(above[i].images[0].get_array(), 1 - maps.masks[i] / maps.masks[i].max())
        mask = maps.masks[i][..., None]
        expected = mask * maps.patterns[i] + (1 - mask) * GROUND
        np.testing.assert_allclose(below[i].images[0].get_array(), expected[..., 0] if channels == 1 else expected)
        assert below[i].get_xlabel().startswith(f"{maps.norms[i]:.3g} px")
    assert [ax.title.get_color() == palette.ASR for ax in above] == [False, True, False, False, False]


def test_the_true_trigger_stands_last():
    maps = make(known=True)
    axes = [ax for ax in plot_triggers(maps).axes if ax.images]
    assert len(axes) == 12
    np.testing.assert_array_equal(axes[5].images[0].get_array(), ~maps.known.changed)
    np.testing.assert_array_equal(axes[11].images[0].get_array(), maps.known.example)
    assert axes[5].get_title(loc="center") == "true trigger"


def test_of_many_labels_the_smallest_masks_are_shown_in_order():
    maps = make(30)
    figure = plot_triggers(maps)
    titles = [ax.get_title(loc="center") for ax in figure.axes if ax.images][:MAX_PICTURES]
    assert titles == [f"class {i}" for i in sorted(np.argsort(maps.norms)[:MAX_PICTURES])]
    assert figure.get_suptitle() == f"the {MAX_PICTURES} smallest masks of 30 labels"


def test_an_empty_mask_is_blank_and_no_black_square():
    maps = make()
    maps.masks[0] = 0
    axes = [ax for ax in plot_triggers(maps).axes if ax.images]
    for ax, level in ((axes[0], 1), (axes[5], GROUND)):
        np.testing.assert_array_equal(ax.images[0].get_array(), level)


def test_bars_are_the_norms_and_lines_the_median_and_the_limit():
    maps = make(7)._replace(norms=np.array([10.0, 1.0, 11, 9, 10, 12, 8]))
    ax = plot_norms(maps, 2.0).axes[0]
    assert [bar.get_height() for bar in ax.patches] == maps.norms.tolist()
    median, limit = (line.get_ydata()[0] for line in ax.lines)
    assert median == 10
    assert limit == pytest.approx(10 - 2 * 1.4826 * 1)
    assert [text.get_text() for text in ax.texts] == ["-0.5", "8.2", *["-0.5"] * 5]


def test_a_hundred_labels_name_some_and_mark_the_suspected():
    ax = plot_norms(make(100), 2.0).axes[0]
    assert len(ax.get_xticks()) == 34
    assert [text.get_text() for text in ax.texts] == ["8.2"]


def test_infinite_indices_and_hostile_names_are_drawn():
    maps = make()._replace(
        names=("$x", "\u0007", "a" * 90, "<b>", "ok"), indices=np.array([np.inf, -np.inf, -0.04, 1, 2])
    )
    for figure in (plot_triggers(maps), plot_norms(maps, 2.0)):
        first = render_svg(figure)
        assert first.startswith(b"<?xml")
    assert [text.get_text() for text in plot_norms(maps, 2.0).axes[0].texts][:3] == [
        "\N{INFINITY}", "-\N{INFINITY}", "0.0"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"names": ()}, "for 0 labels"),
        ({"patterns": np.zeros((5, 4, 6, 2))}, r"\(5, 4, 6, 2\) for 5 labels"),
        ({"masks": np.zeros((5, 6, 4))}, r"masks of shape \(5, 6, 4\)"),
        ({"norms": np.zeros(4)}, r"\[4, 5, 5\] norms"),
        ({"masks": np.full((5, 4, 6), 1.5)}, "masks range from 1.5 to 1.5"),
        ({"patterns": np.full((5, 4, 6, 3), np.nan)}, "patterns range from nan"),
        ({"known": KnownTrigger(np.zeros((4, 4), bool), np.zeros((4, 6, 3), np.uint8))}, "the known trigger"),
    ],
)
def test_maps_that_cannot_be_shown_are_refused(change: dict, reason: str):
    check_maps(make(known=True))
    with pytest.raises(ResultError, match=reason):
        check_maps(make()._replace(**change))
