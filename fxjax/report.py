"""Reports: one HTML file that can be opened anywhere and sent, and contact sheets.

The file holds its pictures, its curves and the few lines that sort its table, asks for nothing
from outside (its own policy forbids it), and turns into cards on a phone.
"""

import base64
import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

from fxjax.images import contact_sheet
from fxjax.types import Photo, Photos

THUMBNAIL = 192  # pixels: shown at half of it, so that it is sharp on a fine screen
WIDEST = 400  # pixels: strips of pictures are shrunk to this


class Picture(NamedTuple):
    """A cell that shows a picture, shrunk to `side` pixels of height."""

    pixels: Photo
    side: int = THUMBNAIL


class Link(NamedTuple):
    """A cell that leads to a file beside the report."""

    text: str
    href: str


class Curve(NamedTuple):
    """A cell that shows positive numbers over time, on a logarithmic scale."""

    values: Sequence[float]


Cell = str | int | float | Picture | Curve | Link | None


def page(
    title: str,
    facts: Mapping[str, str],
    head: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    *,
    above: str = "",
) -> str:
    """A report as HTML: a title, facts as pairs, and a table that sorts by any column.

    All text is escaped, but for `above`, which is HTML that comes before the table. `rows` may be a
    generator, so that pictures need not be there at once.
    """
    titles = "".join(sorting(name) for name in head)
    options = "".join(
        f'<option value="{index}">{escape(name)}</option>' for index, name in enumerate(head)
    )
    lines = "\n".join(_row(head, row) for row in rows)
    body = (
        f'{above}<label>Sort by <select>{options}</select></label>\n<table class="sorts all">\n'
        f"<thead><tr>{titles}</tr></thead>\n<tbody>\n{lines}\n</tbody>\n</table>"
    )
    return document(title, facts, body, style=_TABLE_STYLE)


def sorting(name: str, note: str = "") -> str:
    """A column's head in a table of class `sorts`; a click sorts by its cells, or their values."""
    title = f' title="{escape(note)}"' if note else ""
    return f'<th{title}><button type="button">{escape(name)}</button></th>'


def document(
    title: str, facts: Mapping[str, str], body: str, *, style: str = "", script: str = ""
) -> str:
    """A page as HTML: a title, facts as pairs, then `body`, whose texts are escaped already."""
    body = f"{pairs(facts)}\n{body}\n<script>{_LARGE}{_SORT}{script}</script>"
    return _PAGE.format(title=escape(title), policy=_POLICY, style=_STYLE + style, body=body)


def pairs(facts: Mapping[str, str]) -> str:
    """Facts as a list of names and values; nothing for none."""
    found = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in facts.items()
    )
    return f"<dl>{found}</dl>" if found else ""


def bars(labels: Sequence[str], means: Sequence[float], widths: Sequence[float]) -> str:
    """Horizontal bars with their intervals (half widths); what is not a number is left out."""
    ends = [abs(m) + (w if math.isfinite(w) else 0) for m, w in zip(means, widths, strict=True)]
    most = max([end for end in ends if math.isfinite(end)] + [1e-9])
    middle = 290 if any(mean < 0 for mean in means) else 80
    scale = (540 - middle) / most
    lines = []
    for i, (label, mean, width) in enumerate(zip(labels, means, widths, strict=True)):
        top = 22 * i + 4
        lines.append(f'<text x="0" y="{top + 12}">{escape(label)}</text>')
        if not math.isfinite(mean):
            continue
        left = middle + min(mean, 0) * scale
        bar = f'<rect x="{left:.1f}" y="{top}" width="{abs(mean) * scale:.1f}" height="15"/>'
        text = f"{mean:+.3f}"
        if math.isfinite(width):
            low, high = (middle + (mean + sign * width) * scale for sign in (-1, 1))
            bar += f'<path d="M{low:.1f} {top + 7.5}H{high:.1f}"/>'
            text += f" \u00b1 {width:.3f}"
        lines.append(f'{bar}<text x="548" y="{top + 12}">{text}</text>')
    return (
        f'<svg class="bars" viewBox="0 0 650 {22 * len(labels) + 4}" role="img">'
        f"{''.join(lines)}</svg>"
    )


def pairs_sheet(
    left: Photos, right: Photos, pairs: int = 4
) -> UInt8[np.ndarray, "sheet_height sheet_width 3"]:
    """Pictures beside their counterparts, `pairs` of them in a row."""
    both = np.stack([left, right], axis=1).reshape(-1, *left.shape[1:])
    return contact_sheet(both, 2 * pairs)


def _row(head: Sequence[str], row: Sequence[Cell]) -> str:
    cells = "".join(_cell(name, cell) for name, cell in zip(head, row, strict=True))
    return f"<tr>{cells}</tr>"


def _cell(name: str, cell: Cell) -> str:
    label = f' data-label="{escape(name)}"'
    if cell is None or cell == "":
        return f'<td{label} class="none"></td>'
    if isinstance(cell, Picture):
        return f'<td{label} class="picture">{image_tag(cell)}</td>'
    if isinstance(cell, Link):
        return f'<td{label} class="text"><a href="{escape(cell.href)}">{escape(cell.text)}</a></td>'
    if isinstance(cell, Curve):
        return f'<td{label} class="picture">{_svg(cell.values)}</td>'
    if isinstance(cell, str):
        return f'<td{label} class="text">{escape(cell)}</td>'
    text = str(cell) if isinstance(cell, int) else f"{cell:.3g}"
    return f'<td{label} class="number" data-value="{float(cell)!r}">{text}</td>'


def image_tag(picture: Picture, shown: int = 96) -> str:
    """An <img> that holds its picture, `shown` pixels high at most. A click enlarges it."""
    height, width = picture.pixels.shape[:2]
    source = _source(picture.pixels, min(1.0, picture.side / height, WIDEST / width))
    down = min(shown, WIDEST // 2 * height / width)
    sides = f'width="{round(down * width / height)}" height="{round(down)}"'
    return f'<img alt="" {sides} src="{source}">'


def slider(before: Photo, after: Photo, side: int = 720) -> str:
    """A photo before and after, one over the other, and a handle that moves the line between."""
    height, width = after.shape[:2]
    scale = min(1.0, side / max(height, width))
    first, second = (_source(photo, scale) for photo in (before, after))
    ratio = f"--ratio: {width / height:.4f}; aspect-ratio: {width} / {height}"
    return (
        f'<div class="slider" style="{ratio}"><img alt="after" src="{second}">'
        f'<img alt="before" class="before" src="{first}"><i></i>'
        '<span class="tag">before</span><span class="tag right">after</span>'
        '<input type="range" min="0" max="100" value="50" '
        'aria-label="How much of the photo before is shown"></div>'
    )


def _source(photo: Photo, scale: float) -> str:
    """A JPEG of the photo, shrunk by `scale`, as a data URL."""
    height, width = photo.shape[:2]
    size = max(1, round(width * scale)), max(1, round(height * scale))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    small = cv2.resize(photo, size, interpolation=way)
    bgr = np.ascontiguousarray(small[..., ::-1])
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 88])
    return f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}"


def _svg(values: Sequence[float]) -> str:
    """A curve of 150 points at most; what is not finite or positive is left out."""
    count = len(values)
    places = np.unique(np.linspace(0, count - 1, min(count, 150)).round().astype(int))
    spots = [
        (int(place), math.log10(values[place]))
        for place in places
        if math.isfinite(values[place]) and values[place] > 0
    ]
    if not spots:
        return ""
    low, high = min(y for _, y in spots), max(y for _, y in spots)
    points = " ".join(
        f"{2 + 146 * x / max(count - 1, 1):.1f},{78 - 70 * (y - low) / max(high - low, 1e-9):.1f}"
        for x, y in spots
    )
    ends = f"{10**high:.3g}", f"{10**low:.3g}"
    return (
        f'<svg width="125" height="80" viewBox="0 0 150 96" role="img">'
        f"<title>from {values[0]:.4g} to {values[-1]:.4g} in {count - 1} steps</title>"
        f'<polyline points="{points}"/>'
        f'<text x="148" y="12" text-anchor="end">{ends[0]}</text>'
        f'<text x="2" y="93">{ends[1]}</text>'
        f'<text x="148" y="93" text-anchor="end">{count - 1} steps</text></svg>'
    )


def escape(text: str) -> str:
    """Safe in HTML text and attributes, and in UTF-8 whatever a file name holds."""
    return html.escape(text.encode(errors="backslashreplace").decode())


_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --strong: #d9480f; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem auto; max-width: 82rem;
  padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin: 1.8rem 0 .5rem; }
p { margin: .2rem 0 .5rem; }
dl { display: flex; flex-wrap: wrap; gap: .4rem 1.6rem; margin: 0 0 1.2rem; }
dt { font-size: .8rem; opacity: .7; } dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
.sorts th button { all: unset; cursor: pointer; padding: .35rem .3rem; font-weight: 600; }
.sorts th button:focus-visible { outline: 2px solid; }
.sorts th[aria-sort=ascending] button::after { content: " \\2191"; content: " \\2191" / ""; }
.sorts th[aria-sort=descending] button::after { content: " \\2193"; content: " \\2193" / ""; }
table { border-collapse: collapse; }
th, td { padding: .3rem .7rem .3rem 0; border-top: 1px solid var(--line); text-align: left; }
thead th { border-top: 0; } tbody th { font-weight: inherit; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.note { font-size: .85rem; opacity: .8; max-width: 46rem; }
figure { margin: 0; min-width: 0; } figcaption { font-size: .8rem; overflow-wrap: anywhere; }
img { display: block; border-radius: 3px; max-width: 100%; height: auto; }
svg { display: block; background: var(--soft); border-radius: 3px; }
svg text { font-size: 10px; fill: currentColor; opacity: .75; }
polyline { fill: none; stroke: currentColor; stroke-width: 1.5; }
svg.bars { width: 100%; max-width: 44rem; height: auto; background: none; }
.bars text { font-size: 12px; opacity: 1; } .bars rect { fill: #1971c2; }
.bars path { stroke: currentColor; stroke-width: 1.5; }
img[role=button] { cursor: zoom-in; }
dialog { border: 0; padding: 0; background: none; max-width: 96vw; max-height: 96vh; }
dialog::backdrop { background: #000c; }
dialog img { max-width: 94vw; max-height: 92vh; cursor: zoom-out; }
.slider { --at: 50%; position: relative; overflow: hidden; border-radius: 6px;
  width: min(100%, 36rem, calc(80vh * var(--ratio))); }
.slider img { position: absolute; inset: 0; width: 100%; height: 100%; max-width: none; }
.slider .before { clip-path: inset(0 calc(100% - var(--at)) 0 0); }
.slider i { position: absolute; inset: 0 auto 0 var(--at); width: 2px; background: #fff;
  box-shadow: 0 0 3px #000; pointer-events: none; }
.slider i::after { content: "\\2039 \\203a"; position: absolute; top: 50%; left: 1px; color: #222;
  background: #fff; border-radius: 50%; width: 2.4rem; line-height: 2.4rem; text-align: center;
  transform: translate(-50%, -50%); font-style: normal; box-shadow: 0 0 4px #0008; }
.slider .tag { position: absolute; top: .5rem; left: .5rem; background: #0009; color: #fff;
  font-size: .8rem; padding: .1rem .5rem; border-radius: 1rem; pointer-events: none; }
.slider .tag.right { left: auto; right: .5rem; }
.slider input { position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0;
  cursor: ew-resize; touch-action: pan-y; }
.slider:focus-within { outline: 3px solid var(--strong); }
@media (max-width: 600px) { body { margin: .8rem auto; padding: 0 .7rem; } }
"""

_LARGE = """
const large = document.createElement("dialog");
document.body.append(large);
large.addEventListener("click", () => large.close());
for (const image of document.querySelectorAll("img")) {
  if (image.closest(".slider")) continue;
  const name = image.closest("figure, td, th")?.textContent.trim().slice(0, 80);
  image.tabIndex = 0;
  image.setAttribute("role", "button");
  image.setAttribute("aria-label", `Enlarge ${name || "this picture"}`);
  const open = () => {
    const copy = new Image(Math.max(image.naturalWidth, Math.min(640, 3 * image.naturalWidth)));
    copy.src = image.src;
    copy.alt = name || "";
    large.replaceChildren(copy);
    large.showModal();
  };
  image.addEventListener("click", open);
  image.addEventListener("keydown", event => {
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); open(); }
  });
}
for (const slider of document.querySelectorAll(".slider")) {
  const handle = slider.querySelector("input");
  const move = () => slider.style.setProperty("--at", `${handle.value}%`);
  handle.addEventListener("input", move);
  move();
}
"""

_TABLE_STYLE = """
table { width: 100%; }
th { position: sticky; top: 0; background: Canvas; }
td { padding: .3rem; vertical-align: middle; overflow-wrap: anywhere; }
td.text { min-width: 6.5rem; } td.number { text-align: left; } td.picture { width: 1px; }
img { max-width: none; }
label { display: none; }
@media (max-width: 900px) {
  body { margin: .8rem auto; padding: 0 .7rem; }
  label { display: block; margin-bottom: .8rem; }
  select { font: inherit; }
  table, tbody { display: block; } thead { display: none; }
  tr { display: flex; flex-wrap: wrap; align-items: flex-end; gap: .3rem .6rem;
    border: 1px solid var(--line); border-radius: 8px; padding: .6rem; margin-bottom: .8rem; }
  td { border: 0; padding: 0; } td.none { display: none; }
  td.picture { width: auto; max-width: 100%; }
  img { max-width: 100%; }
  td:not(.picture) { flex: 1 1 40%; } td:not(.picture):not(.number) { flex-basis: 100%; }
  td::before { content: attr(data-label); display: block; font-size: .75rem; opacity: .7; }
}
"""

_SORT = """
document.querySelectorAll("table.sorts").forEach(table => {
const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
const select = table.classList.contains("all") ? document.querySelector("select") : null;
function sort(index, down) {
  const key = row => {
    const cell = row.cells[index];
    return "value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent;
  };
  const empty = value => value === "" || Number.isNaN(value);
  const rows = [...body.rows].map(row => [key(row), row]);
  rows.sort(([a], [b]) => {
    if (empty(a) || empty(b)) return empty(a) - empty(b);
    const order = typeof a === "number" && typeof b === "number"
      ? (a > b) - (a < b) : String(a).localeCompare(String(b), undefined, {numeric: true});
    return down ? -order : order;
  });
  rows.forEach(([, row]) => body.append(row));
  heads.forEach((head, i) => {
    if (i === index) head.setAttribute("aria-sort", down ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  });
}
heads.forEach((head, index) => head.firstChild.addEventListener("click",
  () => sort(index, head.getAttribute("aria-sort") === "ascending")));
if (select) select.addEventListener("change", () => sort(Number(select.value), false));
});
"""

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""
