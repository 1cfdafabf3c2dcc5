#!/usr/bin/env python3
"""Draw the README's picture, quality against checkpoint size, from measured data.

    python3 scripts/draw_quality.py [docs/pictures/quality.csv [docs/pictures/quality.svg]]

The comments of the CSV say how each row was measured. The columns that are drawn:
    curve    id of the curve, one of CURVES below; or "original", what all others are compared with
    label    what stands beside the point
    bytes    size of all that a user copies: the GGUF file, or all files of the checkpoint's folder
    kld      mean KL divergence to the original, nats a token
    place    where the label stands, one of PLACES below
Rows of one curve with the same label are seeds. Their mean is drawn, and a line from lowest to highest.
The script needs Python's standard library only. The same CSV gives the same bytes, which a test compares.
"""
import csv
import math
import sys
from dataclasses import dataclass
from pathlib import Path

PICTURES = Path(__file__).resolve().parent.parent / "docs" / "pictures"

WIDTH, HEIGHT = 860, 500
LEFT, RIGHT, TOP, BOTTOM = 76, 832, 104, 440  # the frame of the plot, in pixels
X_MB = 54, 114  # the range of each axis
Y_KLD = 0.02, 1.5
X_TICKS = range(60, 111, 10)
Y_TICKS = 0.03, 0.1, 0.3, 1


@dataclass
class Curve:
    name: str  # as written beside the curve
    name_mb: float  # where the name begins, in the units of the axes
    name_kld: float
    mark: str


CURVES = {
    "kronq": Curve("kronq", 58.5, 0.3, "circle"),
    "one-sided": Curve("one-sided rounding", 66.3, 0.5, "square"),
    "llama.cpp": Curve("llama-quantize", 99.4, 0.135, "diamond"),
}

# Offset of a label from its point, and its anchor.
PLACES = {
    "above": (0, -11, "middle"),
    "below": (0, 20, "middle"),
    "left": (-11, 4, "end"),
    "right": (11, 4, "start"),
    "above-right": (8, -8, "start"),
    "above-left": (-8, -8, "end"),
    "below-right": (8, 17, "start"),
    "below-left": (-8, 17, "end"),
}

STYLE = """
  svg { --paper: #ffffff; --ink: #1b1b1b; --soft: #5a5a5a; --grid: #e6e6e3; --edge: #d9d9d6;
        --c0: #0072b2; --c1: #c04f00; --c2: #00805e; }
  @media (prefers-color-scheme: dark) {
    svg { --paper: #16181b; --ink: #e6e6e3; --soft: #a3a5a8; --grid: #2b2e33; --edge: #3b3e43;
          --c0: #56b4e9; --c1: #f08a4b; --c2: #3fcf9f; }
  }
  text { font: 14px "Helvetica Neue", Helvetica, Arial, "Liberation Sans", "DejaVu Sans", sans-serif;
         fill: var(--ink); }
  .title { font-size: 19px; font-weight: 600; }
  .soft { fill: var(--soft); }
  .name { font-size: 16px; font-weight: 600; }
  .halo { paint-order: stroke; stroke: var(--paper); stroke-width: 4px; stroke-linejoin: round; }
  .paper { fill: var(--paper); stroke: var(--edge); }
  .grid { stroke: var(--grid); fill: none; }
  .axis { stroke: var(--soft); fill: none; }
  .original { stroke: var(--soft); stroke-dasharray: 4 4; fill: none; }
  .line { fill: none; stroke-width: 2.5; stroke-linejoin: round; }
  .range { fill: none; stroke-width: 1.5; }
  .mark { stroke: var(--paper); stroke-width: 1.5; }
  .line.c0, .range.c0 { stroke: var(--c0); } .mark.c0, .name.c0 { fill: var(--c0); }
  .line.c1, .range.c1 { stroke: var(--c1); } .mark.c1, .name.c1 { fill: var(--c1); }
  .line.c2, .range.c2 { stroke: var(--c2); } .mark.c2, .name.c2 { fill: var(--c2); }
"""


@dataclass
class Point:
    label: str
    place: str
    mb: float
    klds: list[float]  # one a seed

    @property
    def kld(self) -> float:
        return sum(self.klds) / len(self.klds)


def x_at(mb: float) -> float:
    return LEFT + (mb - X_MB[0]) / (X_MB[1] - X_MB[0]) * (RIGHT - LEFT)


def y_at(kld: float) -> float:
    """The axis is logarithmic."""
    return BOTTOM - math.log(kld / Y_KLD[0]) / math.log(Y_KLD[1] / Y_KLD[0]) * (BOTTOM - TOP)


def read_rows(path: Path) -> list[dict]:
    with open(path, encoding="utf-8", newline="") as f:
        return list(csv.DictReader(line for line in f if not line.startswith("#")))


def points_of(rows: list[dict], curve: str) -> list[Point]:
    """The curve's points by size. A point outside the axes or an unknown place ends the script."""
    seeds = {}
    for row in rows:
        if row["curve"] == curve:
            seeds.setdefault(row["label"], []).append(row)
    points = []
    for label, same in seeds.items():
        mb = sum(int(row["bytes"]) for row in same) / len(same) / 1e6
        points.append(Point(label, same[0]["place"], mb, [float(row["kld"]) for row in same]))
    if not points:
        sys.exit(f"no row of the curve {curve!r}")
    for p in points:
        inside = X_MB[0] <= p.mb <= X_MB[1] and Y_KLD[0] <= min(p.klds) <= max(p.klds) <= Y_KLD[1]
        if not inside:
            sys.exit(f"{curve}, {p.label}: {p.mb:.1f} MB, {p.klds} nats is outside the axes: change them")
        if p.place not in PLACES:
            sys.exit(f"{curve}, {p.label}: place {p.place!r} is none of {', '.join(PLACES)}")
    return sorted(points, key=lambda p: p.mb)


def original_mb(rows: list[dict]) -> float:
    sizes = [int(row["bytes"]) / 1e6 for row in rows if row["curve"] == "original"]
    if len(sizes) != 1:
        sys.exit(f"{len(sizes)} rows of the curve 'original', expected one")
    return sizes[0]


def text(x: float, y: float, words: str, classes: str = "", anchor: str = "start") -> str:
    attributes = f' class="{classes}"' if classes else ""
    attributes += f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{attributes}>{words}</text>'


def path(classes: str, d: str, title: str = "") -> str:
    """The title is what a pointer that rests on the shape shows."""
    if not title:
        return f'<path class="{classes}" d="{d}"/>'
    return f'<path class="{classes}" d="{d}"><title>{title}</title></path>'


def outline(mark: str, x: float, y: float) -> str:
    """The marks of the curves differ in shape, not in colour alone."""
    if mark == "circle":
        return f"M{x - 5.5:.1f} {y:.1f}a5.5 5.5 0 1 0 11 0a5.5 5.5 0 1 0 -11 0z"
    if mark == "square":
        return f"M{x - 5:.1f} {y - 5:.1f}h10v10h-10z"
    return f"M{x:.1f} {y - 7:.1f}l7 7l-7 7l-7 -7z"


def draw_frame(original: float) -> list[str]:
    out = [f'<rect class="paper" x="0.5" y="0.5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="8"/>']
    out.append(text(24, 38, "SmolLM2-135M-Instruct: quality against size", "title"))
    subtitle = "KL divergence to the original, nats a token (logarithmic; lower is better)"
    out.append(text(24, 64, subtitle, "soft"))
    for kld in Y_TICKS:
        out.append(path("grid", f"M{LEFT} {y_at(kld):.1f}H{RIGHT}"))
        out.append(text(LEFT - 10, y_at(kld) + 5, f"{kld:g}", "soft", "end"))
    for mb in X_TICKS:
        out.append(path("axis", f"M{x_at(mb):.1f} {BOTTOM}v6"))
        out.append(text(x_at(mb), BOTTOM + 24, f"{mb}", "soft", "middle"))
    out.append(path("axis", f"M{LEFT} {BOTTOM}H{RIGHT}"))
    out.append(text(RIGHT, BOTTOM + 47, "size of the whole checkpoint, MB", "soft", "end"))
    out.append(path("original", f"M{x_at(original):.1f} {TOP}V{BOTTOM}"))
    out.append(text(x_at(original), TOP - 8, f"the original, {original:.0f} MB", "soft", "middle"))
    return out


def draw_curve(number: int, curve: Curve, points: list[Point]) -> list[str]:
    line = "L".join(f"{x_at(p.mb):.1f} {y_at(p.kld):.1f}" for p in points)
    out = [path(f"line c{number}", "M" + line)]
    for p in points:
        x, y = x_at(p.mb), y_at(p.kld)
        if len(p.klds) > 1:
            top, bottom = y_at(max(p.klds)), y_at(min(p.klds))
            out.append(path(f"range c{number}", f"M{x:.1f} {top:.1f}V{bottom:.1f}"))
        title = f"{curve.name}, {p.label}: {p.mb:.1f} MB, {p.kld:.3f} nats"
        out.append(path(f"mark c{number}", outline(curve.mark, x, y), title))
        dx, dy, anchor = PLACES[p.place]
        out.append(text(x + dx, y + dy, p.label, "halo", anchor))
    out.append(text(x_at(curve.name_mb), y_at(curve.name_kld), curve.name, f"name halo c{number}"))
    return out


def draw(rows: list[dict]) -> str:
    points = {curve: points_of(rows, curve) for curve in CURVES}
    described = []
    for curve in CURVES:
        figures = ", ".join(f"{p.label} {p.mb:.1f} MB {p.kld:.3f}" for p in points[curve])
        described.append(f"{CURVES[curve].name}: {figures}")
    description = "; ".join(described)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}"'
        f' height="{HEIGHT}" role="img" aria-labelledby="title desc">',
        "<!-- Drawn by scripts/draw_quality.py from quality.csv. Change those, not this file. -->",
        '<title id="title">SmolLM2-135M-Instruct: KL divergence to the original against size</title>',
        f'<desc id="desc">{description}</desc>',
        f"<style>{STYLE}</style>",
        *draw_frame(original_mb(rows)),
    ]
    for number, curve in reversed(list(enumerate(CURVES))):  # the first curve lies on top
        lines += draw_curve(number, CURVES[curve], points[curve])
    return "\n".join([*lines, "</svg>", ""])


def main() -> None:
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURES / "quality.csv"
    target = Path(sys.argv[2]) if len(sys.argv) > 2 else PICTURES / "quality.svg"
    target.write_text(draw(read_rows(source)), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
