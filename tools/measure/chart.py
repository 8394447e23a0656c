"""The bar chart for the README: an SVG file, written by hand so that nothing has to be installed.

A panel for each measure, in it a group of bars for each topology, a bar for each system. Each panel
has a scale of its own: the measures have different units, and one that the kernel leads by far
would flatten all others. So the figure stands at every bar.
"""

from __future__ import annotations

from html import escape

from .report import MEASURES, Measure, Row

COLOURS = {"tapestry": "#0b6e4f", "ovs": "#d98e04", "kernel": "#8a93a0"}
SHOWN = (
    "tcp1_gbps",
    "tcp4_gbps",
    "udp18_kpps",
    "udp1400_kpps",
    "rtt_p50_us",
    "rtt_loaded_p99_us",
)
COLUMNS = 2
PANEL_WIDTH, BAR_HEIGHT, LEFT, BAR_WIDTH, TITLE = 460, 16, 80, 290, 30
HEADER, GAP = 40, 14


def _text(x: float, y: float, text: str, *, anchor: str = "start", bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{weight}>{escape(text)}</text>'


def _panel(table: list[Row], measure: Measure, left: float, top: float) -> list[str]:
    """Draw one measure."""
    largest = max((row[measure.key] or 0 for row in table), default=0) or 1
    unit = f"{measure.unit}, less is better" if measure.unit == "us" else measure.unit
    drawn = [_text(left, top + 16, f"{measure.title} ({unit})", bold=True)]
    y = top + TITLE
    for topology in dict.fromkeys(row["topology"] for row in table):
        here = [row for row in table if row["topology"] == topology]
        middle = y + len(here) * BAR_HEIGHT / 2 + 4
        drawn.append(_text(left + LEFT - 8, middle, topology, anchor="end"))
        for row in here:
            value = row[measure.key]
            width = BAR_WIDTH * (value or 0) / largest
            colour = COLOURS.get(row["system"], "#444444")
            drawn.append(
                f'<rect x="{left + LEFT:g}" y="{y + 1:g}" width="{width:.1f}"'
                f' height="{BAR_HEIGHT - 2}" fill="{colour}"/>'
            )
            said = "-" if value is None else f"{value:,.{measure.digits}f}"
            drawn.append(_text(left + LEFT + width + 5, y + BAR_HEIGHT - 4, said))
            y += BAR_HEIGHT
        y += GAP
    return drawn


def draw(table: list[Row]) -> str:
    """Return the chart of a report's rows."""
    topologies = list(dict.fromkeys(row["topology"] for row in table))
    panel_height = TITLE + len(table) * BAR_HEIGHT + len(topologies) * GAP + 8
    measures = [measure for measure in MEASURES if measure.key in SHOWN]
    width = COLUMNS * PANEL_WIDTH
    height = HEADER + -(-len(measures) // COLUMNS) * panel_height
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"'
        f' height="{height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    x = 16.0
    for system in dict.fromkeys(row["system"] for row in table):
        colour = COLOURS.get(system, "#444444")
        drawn.append(f'<rect x="{x:g}" y="14" width="12" height="12" fill="{colour}"/>')
        drawn.append(_text(x + 18, 24, system))
        x += 110
    for number, measure in enumerate(measures):
        row, column = divmod(number, COLUMNS)
        drawn += _panel(table, measure, column * PANEL_WIDTH + 16, HEADER + row * panel_height)
    return "\n".join([*drawn, "</svg>", ""])
