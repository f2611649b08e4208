"""Panels are charts beside one another in one picture, an SVG file of its own."""

import re
from collections.abc import Sequence
from pathlib import Path

from shardrec.trainer.reports.chart import HEIGHT, WIDTH, Chart
from shardrec.trainer.reports.style import LIGHT_SERIES

COLUMNS = 2
STYLE = "text { font: 13px sans-serif } .title { font-weight: bold } .line { fill: none; stroke-width: 2 } "
STYLE += ".grid { stroke: #d5dae0 } .base { stroke: #57606a } "
STYLE += " ".join(f".s{i} {{ stroke: {c} }} .f{i} {{ fill: {c} }}" for i, c in enumerate(LIGHT_SERIES[:2]))


def draw(charts: Sequence[tuple[str, Chart]], series: Sequence[str], path: Path) -> None:
    """Draws charts, each with its title, and names the series that all of them have."""
    panels = []
    for place, (title, chart) in enumerate(charts):
        found = re.search(r"<svg.*</svg>", str(chart.figure()), re.DOTALL)
        assert found is not None
        x, y = place % COLUMNS * WIDTH, place // COLUMNS * (HEIGHT + 24) + 40
        head = f'<text x="{x + 4:g}" y="{y - 6:g}" class="title">{title}</text>'
        panels.append(
            head + found[0].replace("<svg", f'<svg x="{x:g}" y="{y:g}" width="{WIDTH:g}" height="{HEIGHT:g}"', 1)
        )
    width, height = COLUMNS * WIDTH, -(-len(charts) // COLUMNS) * (HEIGHT + 24) + 40
    places = [width - 180 - 140 * i for i in reversed(range(len(series)))]
    keys = "".join(
        f'<text x="{x:g}" y="14" class="f{i}">{name}</text>'
        for i, (x, name) in enumerate(zip(places, series, strict=True))
    )
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}">'
    ground = f'<rect width="{width:g}" height="{height:g}" fill="white"/>'
    path.write_text("\n".join([opening, f"<style>{STYLE}</style>", ground, keys, *panels, "</svg>\n"]))
