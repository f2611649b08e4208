"""What pages are made of: escaped elements, round ticks, curves thinned without loss of a peak, legible colours."""

import re
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest

from shardrec.trainer.reports.chart import HEIGHT, WIDTH, Axis, Bars, Chart, Dot, Line, Mark, charts
from shardrec.trainer.reports.lists import list_charts
from shardrec.trainer.reports.markup import Markup, element, joined
from shardrec.trainer.reports.metric_names import leading_first, titled
from shardrec.trainer.reports.numbers import duration, is_number, number, short, tick_labels, ticks
from shardrec.trainer.reports.style import DARK, DARK_SERIES, LIGHT, LIGHT_SERIES
from shardrec.trainer.reports.thinning import MOST_POINTS, thinned

ATTACKS = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'; </title><svg onload=alert(1)>",
    "&lt;b&gt;",
)


class Texts(HTMLParser):
    """What a browser makes of markup: its tags, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: dict[str, str | None] = {}
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= dict(attrs)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("attack", ATTACKS)
def test_text_is_text_wherever_it_stands(attack: str) -> None:
    read = Texts(element("p", attack, [attack, element("b", attack)], title=attack))
    assert read.tags == ["p", "b"] and read.text == 3 * attack and read.attributes == {"title": attack}
    assert Texts(joined([attack, Markup("<br>")])).tags == ["br"]


def test_what_html_cannot_hold_is_replaced() -> None:
    assert joined("a\x00b\ud800c\n") == "a\ufffdb\ufffdc\n"
    joined("a\ud800").encode()


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_chart_of_names_that_are_markup_is_text(attack: str) -> None:
    lines = [Line(attack, [(0, 1), (1, 2)], 0), Line("other", [(0, 2)], 1)]
    chart = Chart(attack, Axis(attack), Axis(attack), lines, marks=[Mark(0.5, attack)], dots=[Dot(1, 2, attack, 0)])
    read = Texts(chart.figure())
    assert not {"script", "img", "b"} & set(read.tags) and read.tags.count("svg") == 1
    assert not any(name.startswith("on") for name in read.attributes)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.7475, 0.7799), (0, 158), (-3e-9, 2e-9), (1e6, 1.1e9), (0.249, 0.2491), (-5, 120)]
)
def test_ticks_are_round_and_labels_tell_them_apart(low: float, high: float) -> None:
    found = ticks(low, high)
    room = 1e-9 * (high - low)
    assert 3 <= len(found) <= 9 and low - room <= found[0] and found[-1] <= high + room
    step = found[1] - found[0]
    assert f"{step:.0e}"[0] in "125", step
    np.testing.assert_allclose(np.diff(found), step, rtol=1e-6)
    labels = tick_labels(found)
    assert len(set(labels)) == len(labels)
    units = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}
    for value, label in zip(found, labels, strict=True):
        digits, unit = re.fullmatch(r"(-?[\d.,]+(?:e-\d+)?)([kMG]?)", label).groups()  # type: ignore[union-attr]
        assert float(digits.replace(",", "")) * units[unit] == pytest.approx(value, abs=step / 100)


def test_numbers_are_written_as_people_read_them() -> None:
    assert [number(x) for x in (0.81224, 0, 12_345_678, 1234.56, 0.00002, None, float("nan"), True)] == [
        "0.8122", "0.0000", "12,345,678", "1,234.6", "2e-05", "–", "–", "–",
    ]  # fmt: skip
    assert [short(x) for x in (3, 163_246, 4_466_450, 59_900, 2.5)] == ["3", "163k", "4.47M", "59.9k", "2.50"]
    spans = [duration(s).replace("\u00a0", " ") for s in (0.42, 26, 200, 7_500, 273_600, 59.7)]
    assert spans == ["0.4 s", "26 s", "3 min 20 s", "2 h 05 min", "3 d 04 h", "60 s"]


@pytest.mark.parametrize("count", [1, MOST_POINTS, MOST_POINTS + 1, 10_007])
def test_a_thinned_curve_loses_no_peak(count: int) -> None:
    draw = np.random.default_rng(count)
    points = [(float(x), float(y)) for x, y in enumerate(draw.normal(size=count))]
    if count > 100:
        points[count // 2] = (float(count // 2), 1000.0)
    curve, ranges = thinned(points)
    assert len(curve) <= MOST_POINTS and curve[0] == points[0] and curve[-1] == points[-1]
    assert all(a[0] < b[0] for a, b in pairwise(curve))
    if count <= MOST_POINTS:
        assert curve == points and not ranges
    else:
        assert max(high for *_, high in ranges) == 1000 and min(low for _, low, _ in ranges) == min(
            y for _, y in points
        )
        assert all(low <= y <= high for (_, y), (_, low, high) in zip(curve, ranges, strict=True))


def test_a_charts_points_are_at_their_numbers_and_inside_of_the_picture() -> None:
    line = Line("a", [(0, 10), (50, 20), (100, 40)], 0)
    chart = Chart(
        "t", Axis("x"), Axis("y", low=0, high=40), [line], dots=[Dot(100, 40, "best", 0)], marks=[Mark(50, "m")]
    )
    drawn = chart.figure()
    places = [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)" r="2.6"', drawn)]
    assert len(places) == 3
    (x0, y0), (x1, y1), (x2, y2) = places
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.1)
    assert (y0 - y1) / (y1 - y2) == pytest.approx(10 / 20, abs=0.01)
    assert y2 == pytest.approx(float(re.search(r'y1="([\d.]+)"[^>]*class="mark"', drawn)[1]), abs=0.1)  # type: ignore[index]
    numbers = [float(n) for n in re.findall(r'(?:cx|cy|x1|x2|y1|y2|\sx|\sy)="(-?[\d.]+)"', drawn)]
    assert min(numbers) >= 0 and max(numbers) <= max(WIDTH, HEIGHT)


def test_charts_without_data_are_left_out() -> None:
    assert charts(Chart("t", Axis("x"), Axis("y"), [Line("a", [], 0)]), None) == ""
    assert "<rect" in charts(Chart("t", Axis("x"), Axis("y"), bars=[Bars("a", [0, 1], [0.0], 0)]))


@pytest.mark.parametrize(("colours", "series"), [(LIGHT, LIGHT_SERIES), (DARK, DARK_SERIES)])
def test_colours_are_read_on_their_ground(colours: dict[str, str], series: tuple[str, ...]) -> None:
    """WCAG 2: text has a contrast of 4.5, lines of 3."""
    for name in ("text", "muted", "accent", "good", "warn"):
        assert min(contrast(colours[name], colours[ground]) for ground in ("ground", "panel")) >= 4.5, name
    for colour in series:
        assert contrast(colour, colours["ground"]) >= 3, colour


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_of_lists_of_several_lengths_one_leads_and_all_are_drawn() -> None:
    values = {f"{kind}@{k}": k / 100 + len(kind) / 10 for kind in ("recall", "coverage") for k in (20, 100, 5)}
    metrics = {"auc": None, "log_loss": 0.4, "popular_recall@5": 0.01, "popular_recall@100": 0.2, **values}
    assert leading_first(metrics, None) == ["recall@100", "coverage@100", "auc", "log_loss"]
    assert leading_first(metrics, "recall@20") == ["recall@20", "coverage@20", "auc", "log_loss"]
    assert leading_first({"auc": 1, "hr@10": 1}, None) == ["auc", "hr@10"]  # of rows, not of a catalogue
    assert titled("popular_recall@5") == "Recall@5, most popular" and titled("mrr@5") == "MRR@5"
    recall, coverage = list_charts([("test", 0, metrics)])
    assert recall.lines[0].points == [(5, 0.65), (20, 0.8), (100, 1.6)]
    assert recall.lines[1].points == [(5, 0.01), (100, 0.2)] and recall.lines[1].dotted
    assert coverage.title == "Coverage by length" and len(coverage.lines) == 1
    assert not list(list_charts([("test", 0, {"recall@20": 0.1})]))
    assert not is_number(10**400) and not is_number(float("nan")) and is_number(-3)
