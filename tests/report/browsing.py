"""A page in a browser, and what holds for every page."""

from pathlib import Path

from selenium import webdriver


def show(browser: webdriver.Chrome, path: Path, width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(path.as_uri())


def assert_sound(browser: webdriver.Chrome, width: int) -> None:
    """Nothing was blocked or failed, nothing overflows, every picture is decoded."""
    assert browser.get_log("browser") == []
    assert browser.execute_script("return [innerWidth, document.documentElement.scrollWidth]") == [width, width]
    shown = browser.execute_script("return [...document.images].map(i => i.complete && i.naturalWidth)")
    assert shown
    assert all(shown)
