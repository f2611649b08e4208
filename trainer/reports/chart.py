"""A chart is one SVG picture in a figure: axes with round ticks, lines, dots, bars, marks, and a legend.

It is drawn in units of which 440 are the width, so that text is read at the same size in a narrow window and in a wide
one. Colours are classes, which the page's style sheet has for both schemes.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from shardrec.trainer.reports.markup import Markup, element, joined
from shardrec.trainer.reports.numbers import number, tick_labels, ticks
from shardrec.trainer.reports.style import DASHES, LIGHT_SERIES
from shardrec.trainer.reports.thinning import thinned

WIDTH, HEIGHT = 440.0, 272.0
LEFT, RIGHT, TOP, BOTTOM = 50.0, 16.0, 26.0, 42.0
MOST_DOTS = 40
"""Lines of so many points have a dot at each, with its numbers."""

Point = tuple[float, float]


class Line(NamedTuple):
    """A line has a name for the legend, points in the order of x, and a series, which is its colour and its dash."""

    name: str
    points: Sequence[Point]
    series: int
    dotted: bool = False
    steps: bool = False


class Dot(NamedTuple):
    """A dot is a point that matters, with a label beside it."""

    x: float
    y: float
    label: str
    series: int


class Mark(NamedTuple):
    """A mark is a vertical line at an x, with a label above the chart's area."""

    x: float
    label: str


class Cloud(NamedTuple):
    """A cloud is points that no line joins, with a name for the legend; a hollow one is drawn as circles."""

    name: str
    points: Sequence[Point]
    series: int
    hollow: bool = False


class Bars(NamedTuple):
    """Bars are heights between edges, one more than heights."""

    name: str
    edges: Sequence[float]
    heights: Sequence[float]
    series: int


@dataclass(frozen=True)
class Axis:
    """An axis has a label, and a range where the data's own is not the one to show.

    whole: its ticks are whole numbers. label_of: how ticks are written, where not as plain numbers.
    """

    label: str
    low: float | None = None
    high: float | None = None
    whole: bool = False
    label_of: Callable[[float], str] | None = None


@dataclass(frozen=True)
class Chart:
    """A chart is what to draw; `figure` draws it.

    note: a sentence below the title. guides: straight lines between two points, of what a chance or a perfect model
    would have; guide: what the legend calls them. has_legend: not where one legend is that of several charts.
    """

    title: str
    x: Axis
    y: Axis
    lines: Sequence[Line] = ()
    clouds: Sequence[Cloud] = ()
    bars: Sequence[Bars] = ()
    dots: Sequence[Dot] = ()
    marks: Sequence[Mark] = ()
    guides: Sequence[tuple[Point, Point]] = ()
    guide: str = ""
    note: str = ""
    has_legend: bool = True

    def figure(self) -> Markup:
        """Returns the chart's figure."""
        if not any(line.points for line in self.lines) and not any(c.points for c in self.clouds) and not self.bars:
            return Markup()
        frame = _Frame.of(self)
        summary = f"{self.title}: {self.y.label} by {self.x.label}. " + "; ".join(self._described())
        svg = element(
            "svg",
            element("title", summary),
            frame.axes(self),
            (frame.bars(bars) for bars in self.bars),
            (frame.guide(*ends) for ends in self.guides),
            (frame.mark(mark, place) for place, mark in enumerate(_apart(self.marks))),
            (frame.line(line) for line in self.lines),
            (frame.cloud(cloud) for cloud in self.clouds),
            (frame.dot(dot) for dot in self.dots),
            viewBox=f"0 0 {WIDTH:g} {HEIGHT:g}", role="img", aria_label=summary,
        )  # fmt: skip
        note = element("span", self.note, class_="note") if self.note else None
        legend = self.legend() if self.has_legend else None
        return element("figure", element("figcaption", self.title, note, legend), svg)

    def _described(self) -> Iterable[str]:
        for line in self.lines[:12]:
            if line.points:
                (x, y) = line.points[-1]
                yield f"{line.name} ends at {number(y)} ({self.x.label} {number(x)})"
        for dot in self.dots:
            yield f"{dot.label}: {number(dot.y)}"

    def legend(self, *, shared: bool = False) -> Markup | None:
        """Returns what the colours and dashes stand for; None where there is one thing alone.

        shared: it is that of the charts below it, and stays in sight.
        """
        entries = [(line.name, f"key k{_colour(line.series)}{_dash_class(line)}") for line in self.lines if line.points]
        entries += [
            (cloud.name, f"key {'ring' if cloud.hollow else 'dot'} k{_colour(cloud.series)}")
            for cloud in self.clouds
            if cloud.points
        ]
        entries += [(bars.name, f"key box k{_colour(bars.series)}") for bars in self.bars]
        if self.guides and self.guide:
            entries.append((self.guide, "key dashed"))
        if len(entries) < 2:
            return None
        items = (element("li", element("span", "", class_=key), element("span", name)) for name, key in entries)
        return element("ul", items, class_="legend shared" if shared else "legend")


def charts(*drawn: Chart | None) -> Markup:
    """Returns charts beside each other, as many as the window has room for; none where there is nothing to draw."""
    figures = [figure for chart in drawn if chart is not None and (figure := chart.figure())]
    return element("div", figures, class_="charts") if figures else Markup()


@dataclass(frozen=True)
class _Frame:
    """A frame turns the data's numbers into places of the picture."""

    x: tuple[float, float]
    y: tuple[float, float]
    middle: float

    @classmethod
    def of(cls, chart: Chart) -> "_Frame":
        points = [point for line in chart.lines for point in line.points]
        points += [point for cloud in chart.clouds for point in cloud.points]
        xs = [x for x, _ in points] + [edge for bars in chart.bars for edge in bars.edges]
        ys = [y for _, y in points] + [h for bars in chart.bars for h in (0, *bars.heights)]
        xs += [mark.x for mark in chart.marks] + [dot.x for dot in chart.dots]
        ys += [dot.y for dot in chart.dots]
        middle = (min(ys, default=0.0) + max(ys, default=0.0)) / 2
        sides = {dot.y >= middle for dot in chart.dots if dot.label}  # where there is to be room for labels
        below, above = (0.17 if side in sides else 0.06 for side in (False, True))
        return cls(_range(xs, chart.x), _range(ys, chart.y, below=below, above=above), middle)

    def at(self, x: float, y: float) -> Point:
        """Returns the place of a point; what is out of range is at the edge."""
        across, up = (min(1.0, max(0.0, (v - low) / (high - low))) for v, (low, high) in ((x, self.x), (y, self.y)))
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    def axes(self, chart: Chart) -> Markup:
        """Returns the grid with the labels of ticks and axes."""
        bottom = HEIGHT - BOTTOM
        drawn = [element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=bottom, y2=bottom, class_="base")]
        for value, label in _labelled(self.y, chart.y, 5):
            y = self.at(self.x[0], value)[1]
            drawn.append(element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="grid"))
            drawn.append(element("text", label, x=LEFT - 7, y=y + 4, text_anchor="end"))
        for value, label in _labelled(self.x, chart.x, 5):
            x = self.at(value, self.y[0])[0]
            drawn.append(element("line", x1=x, x2=x, y1=bottom, y2=bottom + 4, class_="base"))
            drawn.append(element("text", label, x=x, y=bottom + 18, text_anchor="middle"))
        drawn.append(element("text", chart.x.label, x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 6, text_anchor="middle"))
        if chart.y.label.lower() not in chart.title.lower():
            drawn.append(element("text", chart.y.label, x=4.0, y=13.0))
        return joined(drawn)

    def line(self, line: Line) -> Markup:
        """Returns a line with the range of what was left out, and with dots where there are few points."""
        if not line.points:
            return Markup()
        curve, ranges = thinned(line.points)
        colour = _colour(line.series)
        shown = []
        if ranges:
            upper = [self.at(x, high) for x, _, high in ranges]
            lower = [self.at(x, low) for x, low, _ in reversed(ranges)]
            shown.append(element("path", d=_path([*upper, *lower]) + "Z", class_=f"band f{colour}"))
        places = [self.at(x, y) for x, y in curve]
        path = _path(_stairs(places) if line.steps else places)
        dash = "2 4" if line.dotted else DASHES[line.series // len(LIGHT_SERIES) % len(DASHES)] or None
        shown.append(element("path", d=path, class_=f"line s{colour}", stroke_dasharray=dash))
        if len(line.points) <= MOST_DOTS and not line.steps:
            for (x, y), (px, py) in zip(line.points, places, strict=True):
                tip = element("title", f"{line.name}: {number(y)} at {number(x, 3)}")
                shown.append(element("circle", tip, cx=px, cy=py, r=2.6, class_=f"f{colour}"))
        return joined(shown)

    def cloud(self, cloud: Cloud) -> Markup:
        """Returns a small dot or circle for each point, with its numbers."""
        shape = f"hollow s{_colour(cloud.series)}" if cloud.hollow else f"f{_colour(cloud.series)}"
        drawn = []
        for x, y in cloud.points:
            px, py = self.at(x, y)
            tip = element("title", f"{cloud.name}: {number(y)} at {number(x, 3)}")
            drawn.append(element("circle", tip, cx=px, cy=py, r=3.4, class_=shape))
        return joined(drawn)

    def dot(self, dot: Dot) -> Markup:
        """Returns a large dot with its label on the side where there is room, away from the rest of the curve."""
        x, y = self.at(dot.x, dot.y)
        after, up = x < WIDTH * 0.62, dot.y >= self.middle
        anchor, place = ("start", x + 8) if after else ("end", x - 8)
        return joined(
            (
                element("circle", cx=x, cy=y, r=5.0, class_=f"ring f{_colour(dot.series)}"),
                element(
                    "text", dot.label, x=place, y=y - 9 if up else y + 19, text_anchor=anchor, class_="strong halo"
                ),
            )
        )  # fmt: skip

    def mark(self, mark: Mark, place: int) -> Markup:
        """Returns a vertical line; labels of neighbours are in turn at two heights."""
        x, _ = self.at(mark.x, self.y[0])
        y = TOP + 10 + 14 * (place % 2)
        anchor, at = ("end", x - 4) if x > WIDTH * 0.55 else ("start", x + 4)
        line = element("line", x1=x, x2=x, y1=TOP, y2=HEIGHT - BOTTOM, class_="mark")
        return joined((line, element("text", mark.label, x=at, y=y, text_anchor=anchor, class_="halo")))

    def guide(self, start: Point, end: Point) -> Markup:
        """Returns a straight line that says what a chance or a perfect model would have."""
        (x1, y1), (x2, y2) = self.at(*start), self.at(*end)
        return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_="chance")

    def bars(self, bars: Bars) -> Markup:
        """Returns bars from 0 up."""
        shown = []
        for low, high, height in zip(bars.edges, bars.edges[1:], bars.heights, strict=False):
            (x1, y1), (x2, y2) = self.at(low, height), self.at(high, 0)
            tip = element("title", f"{bars.name}: {number(height)} from {number(low)} to {number(high)}")
            width, tall = max(0.5, x2 - x1 - 0.6), y2 - y1
            shown.append(
                element("rect", tip, x=x1, y=y1, width=width, height=tall, class_=f"bar f{_colour(bars.series)}")
            )
        return joined(shown)


def _range(values: Sequence[float], axis: Axis, *, below: float = 0.0, above: float = 0.0) -> tuple[float, float]:
    """Returns what an axis shows: what it asks for, else all values with room, in shares of their span."""
    values = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(values), max(values)
    if axis.low is not None:
        low, below = axis.low, 0.0
    if high <= low:
        space = abs(high) * 0.05 or 1.0
        low, high = (low if axis.low is not None else low - space), high + space
    span = high - low
    return low - below * span, high + above * span if axis.high is None else axis.high


def _labelled(span: tuple[float, float], axis: Axis, wanted: int) -> list[tuple[float, str]]:
    values = ticks(*span, wanted)
    if axis.whole:
        values = [value for value in values if float(value).is_integer()] or [span[0]]
    labels = [axis.label_of(value) for value in values] if axis.label_of else tick_labels(values)
    return list(zip(values, labels, strict=True))


def _apart(marks: Sequence[Mark]) -> list[Mark]:
    """Returns marks from left to right; those of one x are one, so that labels do not lie upon each other."""
    by_x: dict[float, list[str]] = {}
    for mark in marks:
        by_x.setdefault(mark.x, []).append(mark.label)
    return [Mark(x, ", ".join(dict.fromkeys(filter(None, labels)))) for x, labels in sorted(by_x.items())]


def _colour(series: int) -> int:
    return series % len(LIGHT_SERIES)


def _dash_class(line: Line) -> str:
    if line.dotted:
        return " dotted"
    return ("", " dashed", " dotted")[line.series // len(LIGHT_SERIES) % 3]


def _path(places: Sequence[Point]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)


def _stairs(places: Sequence[Point]) -> list[Point]:
    """Returns places with a corner before each: what holds for a point holds back to the one before it."""
    corners = [places[0]]
    for x, y in places[1:]:
        corners += [(corners[-1][0], y), (x, y)]
    return corners
