"""HTML from Python: text is escaped unless it is markup already."""

from collections.abc import Mapping
from html import escape


class Html(str):
    """Text that is markup: made by ``tag`` and ``join`` alone."""

    __slots__ = ()


def text(content: object) -> Html:
    """Any object as escaped text; markup stays what it is."""
    return content if isinstance(content, Html) else Html(escape(str(content)))


def join(*parts: object) -> Html:
    """Parts one after the other, each escaped unless it is markup."""
    return Html("".join(text(p) for p in parts))


#: elements that have no content and no end tag
VOID = frozenset({"img", "meta", "source", "br"})


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """An element; an underscore at the end of an attribute's name is dropped (``class_``).

    Examples
    --------
    >>> tag("p", "a < b", class_="note")
    '<p class="note">a &lt; b</p>'
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
    )
    if name in VOID:
        return Html(f"<{name}{given}>")
    return Html(f"<{name}{given}>{join(*children)}</{name}>")


def table(header: tuple[object, ...], rows: list[tuple[object, ...]]) -> Html:
    """A table that scrolls sideways where the page is too narrow for it."""
    head = tag("thead", tag("tr", *(tag("th", h, scope="col") for h in header)))
    body = tag("tbody", *(tag("tr", *(tag("td", cell) for cell in row)) for row in rows))
    return tag("div", tag("table", head, body), class_="wide")


def facts(rows: Mapping[str, object]) -> Html:
    """Names and values as a definition list."""
    return tag("dl", *(join(tag("dt", n), tag("dd", v)) for n, v in rows.items()))


def paragraphs(*sentences: str) -> Html:
    """Each text as a paragraph."""
    return join(*(tag("p", s) for s in sentences))
