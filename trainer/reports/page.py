"""A page is one file that needs no other: its style sheet is in it, and there are no scripts."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from shardrec.data_pipeline.files.owned_files import check_own_file
from shardrec.trainer.reports.markup import Child, Markup, element, joined
from shardrec.trainer.reports.style import style_sheet
from shardrec.trainer.run_folder.atomic import write_atomically

SIGN = "<!doctype html>\n<!-- shardrec report -->\n"
"""Pages begin so, by which they are known for the program's own."""

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
"""The page may load and run nothing, whatever got into it."""


class Section:
    """A section has a title, an anchor and content; one without content is left out of the page."""

    def __init__(self, title: str, *content: Child) -> None:
        self.title, self.content = title, joined(content)
        self.anchor = re.sub(r"\W+", "-", title.lower()).strip("-")

    def markup(self) -> Markup:
        """Returns the section with its heading."""
        heading = element("h2", self.title, id=f"{self.anchor}-title")
        return element("section", heading, self.content, id=self.anchor, aria_labelledby=f"{self.anchor}-title")


def page(title: str, head: Child, sections: Iterable[Section], foot: Child) -> str:
    """Returns a whole page. head, foot: what is above the sections and below them."""
    shown = [section for section in sections if section.content]
    links = [element("a", section.title, href=f"#{section.anchor}") for section in shown]
    nav = element("nav", links, aria_label="Sections") if len(links) > 1 else None
    body = element(
        "body",
        element("header", head, nav),
        element("main", (section.markup() for section in shown)),
        element("footer", element("p", foot)),
    )
    return SIGN + element(
        "html",
        element(
            "head",
            element("meta", charset="utf-8"),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", http_equiv="Content-Security-Policy", content=POLICY),
            element("meta", name="color-scheme", content="light dark"),
            element("title", title),
            element("style", Markup(style_sheet())),
        ),
        body,
        lang="en",
    ) + "\n"  # fmt: skip


def check_own_page(path: Path) -> None:
    """Raises UserError where another file than a page of ours, or a folder, is in the place of one."""
    check_own_file(path, re.escape(SIGN).encode() + b".*")


def write_page(path: Path, text: str) -> None:
    """Writes a page, whole or not at all. Raises UserError as `check_own_page` does."""
    check_own_page(path)
    write_atomically(path, text)


# ------------------------------------------------------------ what sections are made of


def table(
    columns: Sequence[str], rows: Iterable[Sequence[Child]], *, left: Sequence[int] = (0,), caption: str = ""
) -> Markup:
    """Returns a table that scrolls inside of the page where it is wide; cells may be markup, a whole `td` too."""
    head = [element("th", name, scope="col", class_="l" if i in left else None) for i, name in enumerate(columns)]
    body = [element("tr", _row(row, left)) for row in rows]
    if not body:
        return Markup()
    parts = [element("caption", caption)] if caption else []
    whole = element("table", parts, element("thead", element("tr", head)), element("tbody", body))
    label = caption or columns[0]
    return element("div", whole, class_="scroll", tabindex=0, role="region", aria_label=label)


def cell(content: Child, kind: str | None = None) -> Markup:
    """Returns a table's cell of a kind: `best`, `l` (aligned to the left), `l wrap`."""
    return element("td", content, class_=kind)


def _row(cells: Sequence[Child], left: Sequence[int]) -> list[Markup]:
    made = []
    for i, content in enumerate(cells):
        if isinstance(content, Markup) and content.startswith(("<td", "<th")):
            made.append(content)
        elif i == 0:
            made.append(element("th", content, scope="row", class_="l" if i in left else None))
        else:
            made.append(element("td", content, class_="l" if i in left else None))
    return made


def card(what: str, figure: str, beside: str = "") -> Markup:
    """Returns a headline figure with what it is, and a word beside it."""
    small = element("div", beside, class_="beside") if beside else None
    return element(
        "div", element("div", what, class_="what"), element("div", figure, class_="figure"), small, class_="card"
    )


def notes(lines: Iterable[Child]) -> Markup:
    """Returns what a reader should know, as a list that stands out; nothing where there is nothing."""
    items = [element("li", line) for line in lines]
    return element("ul", items, class_="notes") if items else Markup()


def folded(title: str, *content: Child) -> Markup:
    """Returns content that is shown on a click; it needs no script."""
    inside = joined(content)
    return element("details", element("summary", title), inside) if inside else Markup()
