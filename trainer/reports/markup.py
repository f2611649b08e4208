"""HTML and SVG are made of elements; whatever is text in them is escaped, so that no name or value can be markup."""

from collections.abc import Iterable
from html import escape

Value = str | int | float | bool | None
"""An attribute's value; None and False leave the attribute out, True gives it none."""

VOID = frozenset(("br", "hr", "img", "link", "meta"))


class Markup(str):
    """Markup is text that is HTML already; other text is escaped where it is put into an element."""

    __slots__ = ()


Child = str | Iterable["Child"] | None
"""What an element holds: text, markup, or several of these; None is nothing."""


def element(tag: str, *children: Child, **attributes: Value) -> Markup:
    """Returns `<tag attributes>children</tag>`. An attribute `stroke_width` is `stroke-width`, `class_` is `class`."""
    written = "".join(_attribute(name, value) for name, value in attributes.items())
    if tag in VOID:
        return Markup(f"<{tag}{written}>")
    return Markup(f"<{tag}{written}>{joined(children)}</{tag}>")


def joined(children: Child) -> Markup:
    """Returns markup of text and markup, one after another."""
    if children is None:
        return Markup()
    if isinstance(children, Markup):
        return children
    if isinstance(children, str):
        return Markup(escape(_visible(children)))
    return Markup("".join(map(joined, children)))


def _attribute(name: str, value: Value) -> str:
    if value is None or value is False:
        return ""
    name = name.rstrip("_").replace("_", "-")
    if value is True:
        return f" {name}"
    text = f"{value:.5g}" if isinstance(value, float) else _visible(str(value))
    return f' {name}="{escape(text)}"'


def _visible(text: str) -> str:
    """Returns text without the characters that HTML cannot hold: controls, and halves of surrogate pairs."""
    if text.isprintable():
        return text
    return "".join(c if c in "\t\n" or (ord(c) >= 32 and not 0xD800 <= ord(c) < 0xE000) else "\ufffd" for c in text)
