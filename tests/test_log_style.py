import pytest

from rnp_jax.errors import ConfigError
from rnp_jax.log_style import LogStyle, current_style, log_in, take_style


@pytest.mark.parametrize(
    ("given", "style"),
    [
        ([], LogStyle()),
        (["--quiet"], LogStyle(quiet=True)),
        (["--log-format", "json"], LogStyle(json=True)),
        (["--log-format=json", "--quiet"], LogStyle(quiet=True, json=True)),
        (["--log-format=json", "--log-format", "text"], LogStyle()),
    ],
)
def test_both_options_are_taken_and_the_rest_is_left(given, style):
    assert take_style(["defend", *given, "a.pt", "--seed", "1"]) == (["defend", "a.pt", "--seed", "1"], style)


@pytest.mark.parametrize("given", [["--log-format"], ["--log-format", "xml"], ["--log-format="]])
def test_another_format_is_refused(given):
    with pytest.raises(ConfigError, match=r"--log-format is .*, expected text or json"):
        take_style(["defend", *given])


def test_a_style_holds_for_a_block():
    with log_in(LogStyle(quiet=True)):
        assert current_style() == LogStyle(quiet=True)
        with log_in(LogStyle(json=True)):
            assert current_style() == LogStyle(json=True)
        assert current_style().quiet
    assert current_style() == LogStyle()
