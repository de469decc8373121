"""The gallery as text, and in a browser."""

import re

import numpy as np
import pytest
from selenium.webdriver.common.by import By

from rnp_jax.errors import ResultError
from rnp_jax.report.gallery import Exhibit, render_gallery, write_gallery
from rnp_jax.report.pictures import Pictures
from tests.report.browsing import assert_sound, show

HOSTILE = "</title></style><script>document.title='owned'</script><img src=x onerror=1>&'\"\u202e"
TEXTS = ("name", "title", "looks", "paper", "source", "deviation", "note", "command")


def pictures(title, count=3, side=16, channels=3, caption=""):
    images = np.random.default_rng(len(title)).integers(0, 256, (count, side, side, channels), dtype=np.uint8)
    return Pictures(title, images, caption)


@pytest.fixture
def exhibits():
    views = [pictures("clean"), pictures("with trigger"), pictures("difference", caption="× 12.8")]
    shown = Exhibit(
        name="wanet",
        title="WaNet",
        looks="A warp.",
        measured={"ASR": "93.8%", "trained on": "digits"},
        paper="Nguyen & Tran, 2021",
        kinds=("dirty label", "in the step"),
        constants={"grid_size": "4", "strength": "0.5"},
        source="drawn from the constants",
        views=[*views, pictures("mask", 1, channels=1)],
        arrays=["grid: float32 [32, 32, 2]"],
    )
    learned = Exhibit(
        name="lira",
        title="LIRA",
        looks="Noise.",
        paper="Doan et al., 2021",
        kinds=("dirty label", "joint"),
        constants={"epsilon": "0.1"},
        deviation="Images are rounded.",
        note="Its trigger is learned.",
        command="rnp-jax attack lira --out lira.pt",
    )
    return [shown, learned]


def page_of(exhibits):
    return render_gallery(exhibits, data="digits (test)", version="0.1.0")


def test_each_attack_has_its_images_constants_and_artefact(exhibits):
    page = page_of(exhibits)
    assert re.findall(r"<h[12]>([^<]*)</h[12]>", page) == ["1 of 2 triggers on the same images", "WaNet", "LIRA"]
    assert re.findall(r"<figure><b>([^<]*)</b>", page) == ["clean", "with trigger", "difference", "mask"]
    assert page.count("data:image/png;base64,") == 10
    for words in (
        "Nguyen &amp; Tran, 2021",
        "A warp.",
        "× 12.8",
        "<code>wanet</code>",
        "ASR <strong>93.8%</strong>",
        "grid_size 4",
        "grid: float32 [32, 32, 2]",
        "digits (test)",
    ):
        assert words in page
    first, second = page.split("<section")[1:]
    assert "Differences from the publication" not in first
    assert "Artefact" not in second
    assert "rnp-jax attack lira --out lira.pt" in second


def test_the_contents_lead_to_every_attack_and_tell_equal_names_apart(exhibits):
    page = page_of([*exhibits, Exhibit("lira", "LIRA", "", "", (), {}, source="mine.pt")])
    links = re.findall(r'<a href="#(\d+)">([^<]*)</a>', page)
    assert links == [("0", "WaNet"), ("1", "LIRA, "), ("2", "LIRA, mine.pt")]
    assert re.findall(r'<section id="(\d+)"', page) == ["0", "1", "2"]


def test_hostile_text_stays_text(exhibits):
    hostile = Exhibit(
        **dict.fromkeys(TEXTS, HOSTILE), kinds=(HOSTILE,), constants={HOSTILE: HOSTILE}, arrays=[HOSTILE],
        views=[pictures(HOSTILE, 1, caption=HOSTILE)],
    )  # fmt: skip
    page = render_gallery([hostile], data=HOSTILE, version=HOSTILE)
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "\u202e" not in page


def test_a_folder_that_cannot_be_written(exhibits, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match="cannot be written"):
        write_gallery(tmp_path / "file" / "gallery.html", exhibits, data="digits", version="0.1.0")


@pytest.mark.parametrize("width", [1200, 400])
def test_the_page_in_a_browser(browser, exhibits, tmp_path, width):
    show(browser, write_gallery(tmp_path / "gallery.html", exhibits, data="digits", version="0.1.0"), width)
    assert_sound(browser, width)
    tops = {image.rect["y"] for image in browser.find_elements(By.CSS_SELECTOR, ".views figure img:first-of-type")}
    assert len(tops) == (1 if width == 1200 else 2)
    assert browser.execute_script("return getComputedStyle(document.images[0]).imageRendering") == "pixelated"
