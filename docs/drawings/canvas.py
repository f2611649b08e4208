"""A canvas writes boxes, lines of text and arrows as SVG that can be read on light and on dark pages."""

from xml.sax.saxutils import escape

STYLE = """
.paper { fill: #ffffff }
.box { stroke: #8c959f; stroke-width: 1; fill: #ffffff }
.trainer { fill: #dbeafe } .sharding { fill: #dcfce7 } .models { fill: #fef3c7 } .data_pipeline { fill: #f3e8ff }
.arrow { stroke: #57606a; stroke-width: 1.3; fill: none } .tip { fill: #57606a }
text { fill: #1c2128; font: 12px system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif }
.name { font: 600 12.5px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace }
.title { font-weight: 700; font-size: 15px } .note { fill: #57606a } .middle { text-anchor: middle }
@media (prefers-color-scheme: dark) {
.paper { fill: #0d1117 }
.box { stroke: #59636e; fill: #161b22 }
.trainer { fill: #12284a } .sharding { fill: #10331f } .models { fill: #3b2f0b } .data_pipeline { fill: #2c1a45 }
.arrow { stroke: #9da7b3 } .tip { fill: #9da7b3 } text { fill: #e6edf3 } .note { fill: #9da7b3 }
}
"""

CHARACTER = 6.4
"""Width of a character of running text, rather too wide than too narrow: which font is there is not known."""


def wrapped(text: str, width: float) -> list[str]:
    """Returns the lines of a text in a column of `width` pixels; words are kept whole."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if len(longer) * CHARACTER > width and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


class Canvas:
    """A canvas is a picture of a fixed width; its height is known at the end."""

    def __init__(self, width: int, title: str) -> None:
        self._width, self._title = width, title
        self._parts: list[str | Canvas] = []

    def insert(self) -> "Canvas":
        """Returns a canvas whose content lies below what is drawn here from now on."""
        inner = Canvas(self._width, "")
        self._parts.append(inner)
        return inner

    def box(self, x: float, y: float, width: float, height: float, kind: str) -> None:
        """Draws a box; `kind` is its classes in the style sheet."""
        self._parts.append(
            f'<rect class="box {kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5"/>'
        )

    def text(self, x: float, y: float, text: str, kind: str = "") -> None:
        """Draws a line of text whose base line begins at x, y, or whose middle is there with the class `middle`."""
        named = f' class="{kind}"' if kind else ""
        self._parts.append(f'<text{named} x="{x:g}" y="{y:g}">{escape(text)}</text>')

    def arrow(self, x: float, y: float, to_x: float, to_y: float, *, both: bool = False) -> None:
        """Draws a straight arrow, with two tips on request."""
        start = ' marker-start="url(#tip)"' if both else ""
        line = f'<line class="arrow" x1="{x:g}" y1="{y:g}" x2="{to_x:g}" y2="{to_y:g}"{start} marker-end="url(#tip)"/>'
        self._parts.append(line)

    def svg(self, height: float) -> str:
        """Returns the picture as a document."""
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self._width} {height:g}" '
                f'width="{self._width}" height="{height:g}" role="img">',
                f"<title>{escape(self._title)}</title>",
                f"<style>{STYLE}</style>",
                '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
                'orient="auto-start-reverse"><path class="tip" d="M0 0 L8 4 L0 8 z"/></marker></defs>',
                f'<rect class="paper" width="{self._width}" height="{height:g}"/>',
                *self._lines(),
                "</svg>\n",
            ]
        )

    def _lines(self) -> list[str]:
        return [line for part in self._parts for line in ([part] if isinstance(part, str) else part._lines())]
