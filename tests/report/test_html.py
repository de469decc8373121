from html.parser import HTMLParser

from hypothesis import example, given, settings
from hypothesis import strategies as st

from rnp_jax.report.html import Markup, element, escape, join, table

HOSTILE = """<script>alert('1')</script>"><img src=x onerror=alert(1)> & &lt; ' `"""


class Reader(HTMLParser):
    """Collects what a browser would see."""

    def __init__(self, markup: str):
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: dict[str, str | None] = {}
        self.text = ""
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= dict(attrs)

    def handle_data(self, data):
        self.text += data


@settings(deadline=None, derandomize=True, max_examples=150)
@example(text=HOSTILE)
@given(text=st.text(st.characters(exclude_categories=["Cc", "Cf", "Cs", "Zl", "Zp"])))
def test_text_and_attributes_are_read_back_as_written_and_add_no_element(text: str):
    read = Reader(element("p", text, alt=text))
    assert read.tags == ["p"]
    assert read.text == text
    assert read.attributes == {"alt": text}


def test_hidden_characters_are_spelled_out():
    assert escape("gpj\u202e.exe\x00\x1b[2J\ud800\u200b\t") == r"gpj\u202e.exe\x00\x1b[2J\ud800\u200b\t"
    assert escape("two\nlines") == "two\nlines"


def test_markup_is_kept_and_everything_else_escaped():
    inner = element("b", "<")
    assert inner == "<b>&lt;</b>"
    assert element("p", inner, "<", 3, None) == "<p><b>&lt;</b>&lt;3</p>"
    assert join(Markup("<hr>"), "<hr>") == "<hr>&lt;hr&gt;"


def test_attributes_and_void_elements():
    assert element("img", src="a", alt="", title=None) == '<img src="a" alt="">'
    assert element("meta", http_equiv="x", class_="y") == '<meta http-equiv="x" class="y">'


def test_table_heads_its_rows_and_columns():
    markup = table(["", "<a>"], [["x", 1]], class_="t")
    assert '<th scope="col">&lt;a&gt;</th>' in markup
    assert '<tr><th scope="row">x</th><td>1</td></tr>' in markup
    assert "thead" not in table([], [["x", 1]])
