"""HTML elements from Python; text is escaped, markup is not."""

from collections.abc import Mapping
from html import escape


class Html(str):
    """Markup, as ``tag`` and ``join`` return it."""

    __slots__ = ()


def text(content: object) -> Html:
    """Return an object as escaped text, markup unchanged."""
    return content if isinstance(content, Html) else Html(escape(str(content)))


def join(*parts: object) -> Html:
    """Concatenate parts, each escaped unless it is markup."""
    return Html("".join(text(p) for p in parts))


#: elements without content and end tag
VOID_ELEMENTS = frozenset({"img", "meta", "input", "br"})


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """Return an element; a trailing underscore in an attribute's name is dropped (``class_``).

    Examples
    --------
    >>> tag("p", "a < b", class_="note")
    '<p class="note">a &lt; b</p>'
    """
    attribute_text = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
    )
    if name in VOID_ELEMENTS:
        return Html(f"<{name}{attribute_text}>")
    return Html(f"<{name}{attribute_text}>{join(*children)}</{name}>")


def table(header: tuple[object, ...], rows: list[tuple[object, ...]]) -> Html:
    """Return a table that scrolls sideways on a narrow page."""
    head = tag("thead", tag("tr", *(tag("th", h, scope="col") for h in header)))
    body = tag("tbody", *(tag("tr", *(tag("td", cell) for cell in row)) for row in rows))
    return tag("div", tag("table", head, body), class_="wide")


def facts(rows: Mapping[str, object]) -> Html:
    """Return names and values as a definition list."""
    return tag("dl", *(join(tag("dt", n), tag("dd", v)) for n, v in rows.items()))


def paragraphs(*sentences: str) -> Html:
    """Return each text as a paragraph."""
    return join(*(tag("p", s) for s in sentences))
