"""Reports: one HTML file that can be opened anywhere and sent, and contact sheets.

The file holds its pictures, its curves and the few lines that sort its tables, asks for nothing
from outside (its own policy forbids it), and turns into cards on a phone. A page begins with the
result, before and after, and says in words what it is worth; tables and their meaning follow, and
the facts of the run come last.
"""

import base64
import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import quote

import cv2
import numpy as np
from jaxtyping import UInt8

from fxjax.images import contact_sheet
from fxjax.report_look import LARGE, PAGE, POLICY, SORT, STYLE
from fxjax.types import Photo, Photos

THUMBNAIL = 256  # pixels: shown at 96, opened at all of them
SHOWN = 96  # pixels of a thumbnail's height
WIDEST, ACROSS = 640, 200  # pixels: strips of pictures are shrunk to this, and shown at that
COLUMN = 1120  # pixels: as wide as a page's text gets
NAMED = 6  # of those of one verdict; all are in the table


class Picture(NamedTuple):
    """A cell that shows a picture, shrunk to `side` pixels of height."""

    pixels: Photo
    side: int = THUMBNAIL


class Link(NamedTuple):
    """A cell that leads to a file beside the report."""

    text: str
    href: str


class Bits(NamedTuple):
    """A cell that shows a mask of 0s and 1s as squares, filled where it is 1."""

    mask: str


class Shown(NamedTuple):
    """A cell of any text, which sorts by a number."""

    text: str
    value: float | int


class Curve(NamedTuple):
    """A cell that shows positive numbers over time, on a logarithmic scale."""

    values: Sequence[float]


Cell = str | int | float | Picture | Bits | Shown | Curve | Link | None


def page(
    title: str,
    facts: Mapping[str, str],
    head: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    *,
    above: str = "",
    notes: Mapping[str, str] | None = None,
) -> str:
    """A report as HTML: a title, a table that sorts by any column, then facts as pairs.

    All text is escaped, but for `above`, which is HTML that comes before the table. `rows` may be a
    generator, so that pictures need not be there at once. `notes` say what columns mean.
    """
    return document(title, facts, above + table(head, rows, notes or {}))


def table(
    head: Sequence[str], rows: Iterable[Sequence[Cell]], notes: Mapping[str, str] | None = None
) -> str:
    """A table that sorts by any column, as cards on a phone, and under it what columns mean."""
    return framed(head, (_row(head, row) for row in rows), notes or {})


def framed(
    head: Sequence[str], lines: Iterable[str], notes: Mapping[str, str], kind: str = ""
) -> str:
    """A table of class `kind` around its rows as HTML, whose cells have their column's label."""
    titles = "".join(sorting(name, notes.get(name, "")) for name in head)
    options = "".join(
        f'<option value="{index}">{escape(name)}</option>' for index, name in enumerate(head)
    )
    rows = "\n".join(lines)
    return (
        f'<div class="wide"><label>Sort by <select>{options}</select></label>\n'
        f'<table class="sorts cards {kind}">\n<thead><tr>{titles}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody>\n</table></div>\n{legend(notes)}"
    )


def legend(notes: Mapping[str, str]) -> str:
    """What names mean, under what they name; nothing for none."""
    lines = (f"<b>{escape(name)}</b>: {escape(note)}" for name, note in notes.items())
    text = "<br>".join(lines)
    return f'<p class="note">{text}</p>' if text else ""


def sorting(name: str, note: str = "") -> str:
    """A column's head in a table of class `sorts`; a click sorts by its cells, or their values."""
    title = f' title="{escape(note)}"' if note else ""
    return f'<th{title}><button type="button">{escape(name)}</button></th>'


def sorts_by(number: float | int) -> str:
    """The attribute of a cell that says by what number it sorts."""
    return f' data-value="{float(number)!r}"'.replace("inf", "Infinity").replace("nan", "NaN")


def document(
    title: str, facts: Mapping[str, str], body: str, *, style: str = "", script: str = ""
) -> str:
    """A page as HTML: a title, `body`, whose texts are escaped already, then facts as pairs."""
    run = f"<h2>Run</h2>\n{pairs(facts)}\n" if facts else ""
    body = f"{body}\n{run}<script>{LARGE}{SORT}{script}</script>"
    return PAGE.format(title=escape(title), policy=POLICY, style=STYLE + style, body=body)


def verdict(sentence: str, good: bool = True) -> str:
    """What a page has to say, in words."""
    return f'<p class="verdict{"" if good else " bad"}">{escape(sentence)}</p>'


def verdicts(said: Mapping[str, str], good: str, noun: str) -> str:
    """How many of the named are good, and in lines what is said of the others.

    `said` is what is said of each name, `good` what is said of a good one, and `noun` what they
    are, in the plural.
    """
    others: dict[str, list[str]] = {}
    for name, text in said.items():
        if text != good:
            others.setdefault(text, []).append(name)
    count = len(said) - sum(map(len, others.values()))
    lines = []
    for text, names in others.items():
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        lines.append(f"<li>{escape(', '.join(names[:NAMED]) + more)}: {escape(text)}</li>")
    items = f"<ul>{''.join(lines)}</ul>" if lines else ""
    whole = good if count == 1 else good.replace("looks", "look", 1)
    return verdict(f"{count} of {len(said)} {noun} {whole}.", not others) + items


def pairs(facts: Mapping[str, str]) -> str:
    """Facts as a list of names and values; nothing for none."""
    found = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in facts.items()
    )
    return f"<dl>{found}</dl>" if found else ""


def bars(labels: Sequence[str], means: Sequence[float], widths: Sequence[float]) -> str:
    """Horizontal bars with their intervals (half widths); what is not a number is left out."""
    known = [
        (mean, width if math.isfinite(width) else 0.0) if math.isfinite(mean) else None
        for mean, width in zip(means, widths, strict=True)
    ]
    low = min([mean - width for mean, width in filter(None, known)] + [0.0])
    high = max([mean + width for mean, width in filter(None, known)] + [0.0])
    across = lambda length: 100 * length / max(high - low, 1e-9)  # per cent of the bars' column
    lines = []
    for label, one in zip(labels, known, strict=True):
        inside, text = "", "not measured"
        if one is not None:
            mean, width = one
            left, long = across(min(mean, 0) - low), across(abs(mean))
            inside = f'<i style="left: {left:.2f}%; width: {long:.2f}%"></i>'
            text = f"{mean:+.3f}" if low < 0 else f"{mean:.3f}"
            if width:
                ends = across(mean - width - low), across(2 * width)
                inside += f'<b style="left: {ends[0]:.2f}%; width: {ends[1]:.2f}%"></b>'
                text += f" \u00b1 {width:.3f}"
        lines.append(f"<dt>{escape(label)}</dt><dd>{inside}</dd><dd>{text}</dd>")
    return f'<dl class="bars">{"".join(lines)}</dl>'


def bits(mask: str) -> str:
    """A mask of 0s and 1s as squares."""
    squares = "".join(
        f'<rect x="{6 * i}" width="5" height="5" class="{"on" if bit == "1" else "off"}"/>'
        for i, bit in enumerate(mask)
    )
    wide = 6 * len(mask)
    return (
        f'<svg class="bits" viewBox="0 0 {wide} 5" width="{min(wide, 96)}" height="7">'
        f"<title>{escape(mask)}</title>{squares}</svg>"
    )


def pairs_sheet(
    left: Photos, right: Photos, pairs: int = 4
) -> UInt8[np.ndarray, "sheet_height sheet_width 3"]:
    """Pictures beside their counterparts, `pairs` of them in a row."""
    both = np.stack([left, right], axis=1).reshape(-1, *left.shape[1:])
    return contact_sheet(both, 2 * pairs)


def _row(head: Sequence[str], row: Sequence[Cell]) -> str:
    who = next((text for text in map(_name, row) if text), "")
    cells = "".join(_cell(name, cell, who) for name, cell in zip(head, row, strict=True))
    return f"<tr>{cells}</tr>"


def _name(cell: Cell) -> str:
    """What a row may be called by: its first text."""
    return cell.text if isinstance(cell, Link) else cell if isinstance(cell, str) else ""


def _cell(name: str, cell: Cell, who: str) -> str:
    label = f' data-label="{escape(name)}"'
    if cell is None or cell == "":
        return f'<td{label} class="none"></td>'
    if isinstance(cell, Picture):
        tag = image_tag(cell, alt=f"{name}: {who}" if who else name)
        return f'<td{label} class="picture">{tag}</td>'
    if isinstance(cell, Link):
        place = quote(cell.href, errors="surrogateescape")
        return f'<td{label} class="text"><a href="{escape(place)}">{escape(cell.text)}</a></td>'
    if isinstance(cell, Curve):
        return f'<td{label} class="picture">{_svg(cell.values)}</td>'
    if isinstance(cell, Bits):
        return f'<td{label} class="mask">{bits(cell.mask)}</td>'
    if isinstance(cell, str):
        return f'<td{label} class="text">{escape(cell)}</td>'
    if not isinstance(cell, Shown):
        cell = Shown(str(cell) if isinstance(cell, int) else f"{cell:.3g}", float(cell))
    return f'<td{label} class="number"{sorts_by(cell.value)}>{escape(cell.text)}</td>'


def image_tag(picture: Picture, shown: int = SHOWN, alt: str = "", across: int = 0) -> str:
    """An <img> that holds its picture, `shown` pixels high at most. A click enlarges it.

    It is `across` pixels wide at most, or, if that is 0, as wide as high, and strips 200.
    """
    height, width = picture.pixels.shape[:2]
    source = _source(picture.pixels, min(1.0, picture.side / height, WIDEST / width))
    down = min(shown, (across or max(ACROSS, shown)) * height / width)
    sides = f'width="{round(down * width / height)}" height="{round(down)}"'
    return f'<img alt="{escape(alt)}" {sides} src="{source}">'


def slider(
    before: Photo, after: Photo, side: int = COLUMN, names: tuple[str, str] = ("before", "after")
) -> str:
    """Two pictures of one size, one over the other, and a handle that moves the line between."""
    height, width = after.shape[:2]
    scale = min(1.0, side / max(height, width))
    first, second = (_source(photo, scale) for photo in (before, after))
    own, other = map(escape, names)
    return (
        f'<div class="slider" style="--ratio: {width / height:.4f}; '
        f'--wide: {round(width * scale)}px; aspect-ratio: {width} / {height}">'
        f'<img alt="{other}" src="{second}"><img alt="{own}" class="before" src="{first}"><i></i>'
        f'<span class="tag">{own}</span><span class="tag right">{other}</span>'
        '<input type="range" min="0" max="100" value="50" '
        f'aria-label="How much of the photo {own} is shown"></div>'
    )


def _source(photo: Photo, scale: float) -> str:
    """A JPEG of the photo, shrunk by `scale`, as a data URL."""
    height, width = photo.shape[:2]
    size = max(1, round(width * scale)), max(1, round(height * scale))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    small = cv2.resize(photo, size, interpolation=way)
    bgr = np.ascontiguousarray(small[..., ::-1])
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 85])
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
