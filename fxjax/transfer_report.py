"""What experiments.transfer writes for a face: pictures, codes, the ranking, and a page.

The page has the result over the photo, what is to be said of it, the ranked masks, what each row
does, the faces, what other methods reach, and the time spent.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Float

from fxjax import __version__, assess, files
from fxjax.codes import mix
from fxjax.engine import Engine
from fxjax.images import save_image, to_uint8
from fxjax.report import (
    Picture,
    bits,
    document,
    escape,
    image_tag,
    legend,
    slider,
    sorting,
    sorts_by,
    verdict,
)
from fxjax.transfer_types import Ranked, Transfer
from fxjax.types import AnyPhoto, Photos

SHOWN = 24  # best masks on the contact sheet
OPENED = 400  # pixels of height of a method's picture when it is opened
DOTS = 4096  # masks in the plot
WIDE, HIGH = 560, 360  # of the plot
MEASURES = {
    "gain": "how far the expression went from the first's to the second's, read from landmarks "
    "(0: none, 1: all of the way)",
    "identity to first": "dlib's distance of identity; lower is more alike, below 0.6 is one "
    "person",
    "identity to second": "the same distance to whose expression it is; higher is better",
    "outside": "PSNR in dB to the photo beside the eyes, brows and mouth; higher is less changed",
    "E": "what is left of the way to the expression (0: there); masks are ranked by E and A, of "
    "the generator's picture before it is put back",
    "A": "how far the appearance went from the first's (0: kept)",
}  # what the fields of `Assessed` are called, in its order, and what they mean


def mask_text(mask: np.ndarray) -> str:
    """A mask as 0s and 1s, row 0 first."""
    return "".join(str(int(bit)) for bit in mask)


def write_ranking(path: epath.Path, ranked: Ranked) -> None:
    """All masks, best first, with both losses, the score, and whether no other beats it in both."""
    lines: list[Sequence[object]] = [
        ["rank", "mask", "expression", "appearance", "score", "pareto", "full_size"]
    ]
    numbers = np.stack([ranked.expression, ranked.appearance, ranked.score], axis=1)
    for rank, mask in enumerate(ranked.masks, start=1):
        own = numbers[rank - 1].tolist()
        front, exact = int(ranked.front[rank - 1]), int(rank <= ranked.exact)
        lines.append([rank, mask_text(mask), *own, front, exact])
    files.write_lines(path, lines, digits=6)


def row_effects(ranked: Ranked) -> Float[np.ndarray, "rows 2"]:
    """How much taking a row from the driver changes both losses, on average over all masks.

    Not a number for rows that no mask or every mask takes.
    """
    losses = np.stack([ranked.expression, ranked.appearance], axis=1).astype(np.float64)
    effects = np.full((ranked.masks.shape[1], 2), math.nan)
    for row, taken in enumerate(ranked.masks.T):
        if taken.any() and not taken.all():
            effects[row] = losses[taken].mean(0) - losses[~taken].mean(0)
    return effects


def shown_masks(ranked: Ranked, most: int = SHOWN) -> list[int]:
    """Places of the masks to draw: the best, and those on the front, at most so many of each."""
    front = np.flatnonzero(ranked.front)
    if len(front) > most:
        front = front[np.linspace(0, len(front) - 1, most).round().astype(int)]
    best = range(min(most, len(ranked.masks)))
    return sorted({*best, *front.tolist()})


def page(
    result: Transfer,
    measured: Sequence[assess.Assessed],
    draw: Callable[[np.ndarray], np.ndarray],
    facts: Mapping[str, str],
) -> str:
    """The page as HTML, which holds its pictures and asks for nothing from outside.

    `draw` makes the generator's pictures of masks [count, rows].
    """
    targets = [to_uint8(face.crop.image) for face in (result.person, result.driver)]
    driver = _figures([("expression", result.driver.photo)], 260)
    hero = slider(result.person.photo, result.image) + driver
    names = ("its inversion", "its inversion", "mixed")
    drawn = dict(enumerate(result.reconstructions))
    faces = [("first face", targets[0]), ("second face", targets[1])]
    if drawn:
        faces = [faces[0], (names[0], drawn[0]), faces[1], (names[1], drawn[1])]
        faces += [(names[2], drawn[2])]
        if result.figures:
            faces += [(result.drawn, result.face)]
    parts = [f'<section class="hero">{hero}</section>', *said(result, measured)]
    chips = "".join(f'<span class="chip">{escape(word)}</span>' for word in result.warnings.words)
    parts += [f"<p>Before: {chips}</p>"] if chips else []
    if result.ranked is not None:
        parts += _ranking(result.ranked, draw)
    parts += [
        "<h2>Faces and their inversions</h2>",
        f'<section class="row">{_figures(faces, 128)}</section>',
    ]
    if result.figures:
        read = ", ".join(f"{name} {value:.2f}" for name, value in result.figures.items())
        parts.append(f'<p class="note">Refined: {escape(read)} (expression: 1 is no change).</p>')
    facts = {**facts, **{f"time: {k}": f"{v:.1f} s" for k, v in result.seconds.items()}}
    parts += [
        "<h2>Measures</h2>",
        measures(measured),
        '<p class="note">The result is an edited picture, made with fxjax. Show it only with the '
        "consent of the person in it, and say that it is edited.</p>",
    ]
    return document("Expression transfer", facts, "\n".join(parts), style=STYLE, script=_SCRIPT)


def said(result: Transfer, measured: Sequence[assess.Assessed]) -> list[str]:
    """The verdict on a result, and in words how far the expression went and who it still is."""
    if result.kept:
        return [verdict(f"{result.kept.capitalize()}.")]
    found = result.verdict
    wrong = f"{found.text[:1].upper()}{found.text[1:]}."
    parts = [verdict("The result looks whole." if found.good else wrong, found.good)]
    gain, near = measured[0].gain, measured[0].to_person
    if math.isfinite(gain) and math.isfinite(near):
        parts.append(
            f"<p>The expression went {100 * gain:.0f} % of the way to the second face's. The "
            f"identity distance to the first is {near:.2f}; below 0.6 is one person.</p>"
        )
    if result.ranked is not None and result.ranked.pushed:
        parts.append(
            "<p>By the score nothing should be taken, though the expressions differ: the best mask "
            "of those that go half of the way was applied.</p>"
        )
    return parts


def _figures(named: Sequence[tuple[str, AnyPhoto]], height: int) -> str:
    return "".join(
        f"<figure>{image_tag(Picture(photo, 2 * height), height)}"
        f"<figcaption>{escape(name)}</figcaption></figure>"
        for name, photo in named
    )


def measures(measured: Sequence[assess.Assessed]) -> str:
    """The table of what each method reached, which sorts by any column; the first is the result."""
    head = "".join(sorting(name, note) for name, note in {"picture": "", **MEASURES}.items())
    rows = []
    for one in measured:
        numbers = (one.gain, one.to_person, one.to_driver, one.outside)
        losses = (one.expression_loss, one.appearance_loss)
        shown = [(value, _number(value)) for value in numbers]
        shown += [(value, "" if math.isnan(value) else f"{value:.2f}") for value in losses]
        thumb = image_tag(Picture(one.photo, OPENED), 64)
        cells = "".join(f'<td class="number"{sorts_by(each)}>{text}</td>' for each, text in shown)
        own = "" if rows else ' class="own"'
        rows.append(f"<tr{own}><th>{thumb}{escape(one.name)}</th>{cells}</tr>")
    return (
        f'<div class="wide"><table class="sorts"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>{legend(MEASURES)}"
    )


def _number(value: float) -> str:
    if math.isnan(value):
        return "no face"
    return "equal" if math.isinf(value) else f"{value:.2f}"


def _ranking(ranked: Ranked, draw: Callable[[np.ndarray], np.ndarray]) -> list[str]:
    places = shown_masks(ranked)
    pictures = dict(zip(places, _drawn(ranked, places, draw), strict=True))
    best = [place for place in places if place < SHOWN]
    figures = "".join(
        f"<figure>{image_tag(Picture(pictures[place], 192), 96)}<figcaption>"
        f"<b>{place + 1}</b> {ranked.score[place]:.2f}{bits(mask_text(ranked.masks[place]))}"
        f"<small>E {ranked.expression[place]:.2f} A {ranked.appearance[place]:.2f}</small>"
        "</figcaption></figure>"
        for place in best
    )
    again = ""
    if not math.isnan(ranked.agreement):
        again = (
            f" All were scored on smaller or earlier pictures, and the best {ranked.exact} again "
            f"in full: the rank correlation of the two is {ranked.agreement:.2f}."
        )
    return [
        f"<h2>The best of {len(ranked.masks):,} masks</h2>",
        '<p class="note">Squares are rows, from coarse to fine; a filled one comes from the '
        "expression's face. E: what is left of the way to its expression (0: there). A: how far "
        f"the appearance went from the first's (0: kept).{again}</p>",
        f'<section class="row">{figures}</section>',
        "<h2>All masks: expression against appearance</h2>",
        f'<div class="plot">{_plot(ranked, pictures)}<div id="tip" hidden></div></div>',
        "<h2>What each row does</h2>",
        '<p class="note">The mean change of both losses over all masks when the row is taken from '
        "the expression's face: a good row has a long bar to the left and none to the right.</p>",
        _effects(row_effects(ranked)),
    ]


def _drawn(
    ranked: Ranked, places: Sequence[int], draw: Callable[[np.ndarray], np.ndarray]
) -> Photos:
    return to_uint8(draw(ranked.masks[list(places)]))


def _plot(ranked: Ranked, pictures: Mapping[int, AnyPhoto]) -> str:
    """A scatter of all masks: expression to the right, appearance upwards; pictures on hover."""
    x, y = ranked.expression, ranked.appearance
    good = np.isfinite(x) & np.isfinite(y)
    if not good.any():
        return "<p>No mask has finite losses.</p>"
    # A few masks far off would press all others together: they are drawn on the border.
    spread = (1.2 * float(np.quantile(each[good], 0.9)) for each in (x, y))
    right, top = (min(max(1.05, most), 1.6) for most in spread)

    def spot(place: int) -> tuple[float, float]:
        across, up = min(float(x[place]) / right, 1.0), min(float(y[place]) / top, 1.0)
        return 46 + (WIDE - 60) * across, HIGH - 40 - (HIGH - 54) * up

    every = np.flatnonzero(good)
    if len(every) > DOTS:
        every = every[np.linspace(0, len(every) - 1, DOTS).astype(int)]
    dots = "".join("M{:.1f} {:.1f}h0".format(*spot(int(place))) for place in every)
    front = sorted(np.flatnonzero(ranked.front & good).tolist(), key=lambda place: x[place])
    line = " ".join("{:.1f},{:.1f}".format(*spot(place)) for place in front)
    marks, thumbs = [], []
    for place, photo in pictures.items():
        if not good[place]:
            continue
        across, down = spot(place)
        kind = "best" if place == 0 else "front" if ranked.front[place] else "top"
        text = f"{place + 1}: E {x[place]:.2f}, A {y[place]:.2f}"
        marks.append(
            f'<circle class="mark {kind}" tabindex="0" data-thumb="thumb{place}" '
            f'cx="{across:.1f}" cy="{down:.1f}" r="{7 if place == 0 else 4}"/>'
        )
        image = image_tag(Picture(photo, 192), 96)
        thumbs.append(f'<figure id="thumb{place}" hidden>{image}{escape(text)}</figure>')
    ticks = "".join(
        f'<text x="{46 + (WIDE - 60) * t / right:.0f}" y="{HIGH - 24}" text-anchor="middle">'
        f'{t:g}</text><text x="40" y="{HIGH - 36 - (HIGH - 54) * t / top:.0f}" '
        f'text-anchor="end">{t:g}</text>'
        for t in (0, 0.5, 1)
    )
    return (
        f'<svg class="scatter chart" viewBox="0 0 {WIDE} {HIGH}" role="img">'
        f"<title>Expression and appearance losses of all masks</title>"
        f'<path class="axis" d="M46 10V{HIGH - 40}H{WIDE - 8}"/>{ticks}'
        f'<text x="{WIDE - 10}" y="{HIGH - 6}" text-anchor="end">E, expression left to go</text>'
        f'<text x="14" y="12" transform="rotate(-90 14 12)" text-anchor="end">'
        f"A, appearance lost</text>"
        f'<path class="dots" d="{dots}"/><polyline points="{line}"/>'
        f"{''.join(marks)}</svg>{''.join(thumbs)}"
    )


def _effects(effects: Float[np.ndarray, "rows 2"]) -> str:
    most = float(np.nanmax(np.abs(effects), initial=1e-6))
    head = "".join(sorting(name) for name in ("row", "expression E", "appearance A"))
    rows = []
    for row, (expression, appearance) in enumerate(effects):
        if math.isnan(expression):
            rows.append(f"<tr><th>row {row}</th><td>not searched</td><td></td></tr>")
            continue
        bars = "".join(
            f'<td{sorts_by(value)}><span class="bar {kind}" '
            f'style="width:{90 * abs(value) / most:.0f}px;'
            f'margin-left:{90 - (90 * abs(value) / most if value < 0 else 0):.0f}px"></span>'
            f"<small>{value:+.2f}</small></td>"
            for kind, value in (("e", expression), ("a", appearance))
        )
        rows.append(f"<tr><th>row {row}</th>{bars}</tr>")
    return (
        f'<div class="wide"><table class="effects sorts"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def note(model: str) -> str:
    """What the pictures' metadata say."""
    return f"Edited: facial expression changed with fxjax {__version__}, model {model}"


def write(
    out: epath.Path,
    engine: Engine,
    result: Transfer,
    measured: Sequence[assess.Assessed],
    facts: Mapping[str, str],
    top: int,
) -> None:
    """Writes one face's files, with the results of the `top` best masks; all or none of them."""
    with files.filled(out) as place:
        text = note(facts["model"])
        save_image(place / "result.png", result.picture, note=text)
        save_image(place / "side_by_side.png", result.side_by_side(), note=text)
        names = ["person", "driver", "mixed", "drawn"]
        arrays = {"ws": result.codes, "mask": result.mask, "names": names}
        files.write(place / "codes.npz", files.npz(arrays))
        codes = jnp.asarray(result.codes[:2])
        if result.ranked is not None:
            write_ranking(place / "ranking.csv", result.ranked)
            faces = result.person, result.driver
            for rank, mask in enumerate(result.ranked.masks[1:top], start=2):
                again = engine.pair(*faces, codes, mask=mask, tuned=result.generator)
                save_image(place / f"result_{rank}.png", again.picture, note=text)

        def draw(masks: np.ndarray) -> np.ndarray:
            return np.asarray(engine.draw(mix.mixed(codes[0], codes[1], masks), result.generator))

        facts = {**facts, "mask": mask_text(result.mask)}
        html = page(result, measured, draw, facts)
        files.write(place / "report.html", html.encode())


STYLE = """
body { max-width: 70rem; }
section { display: flex; flex-wrap: wrap; gap: .7rem; }
figcaption { font-size: .85rem; }
figcaption small, td small { display: block; opacity: .7; }
th, td { padding: .3rem .7rem; } tbody th img { margin-bottom: .2rem; }
.own th { font-weight: 600; }
.plot { position: relative; max-width: 44rem; }
.scatter { width: 100%; height: auto; background: var(--soft); border-radius: 6px; }
svg.scatter text { opacity: 1; }
.axis { fill: none; stroke: currentColor; opacity: .5; }
.dots { fill: none; stroke: currentColor; stroke-width: 2.4; stroke-linecap: round;
  opacity: .25; }
polyline { stroke: var(--strong); }
.mark { fill: Canvas; stroke: var(--strong); stroke-width: 1.6; cursor: pointer; }
.mark.top { stroke: currentColor; } .mark.best { fill: var(--strong); }
.mark:focus { outline: none; } .mark:focus { stroke-width: 3.5; }
#tip { position: absolute; background: Canvas; border: 1px solid var(--line); padding: .3rem;
  border-radius: 6px; font-size: .8rem; pointer-events: none; z-index: 2; }
.bar { display: inline-block; height: .7rem; vertical-align: middle; }
.bar.e { background: var(--strong); } .bar.a { background: #1971c2; }
.effects td { min-width: 200px; padding: .1rem .7rem; } .effects small { display: inline; }
.chip { display: inline-block; border: 1px solid var(--line); border-radius: 1rem;
  padding: .1rem .7rem; margin: .1rem .3rem .1rem 0; }
@media (max-width: 600px) {
  .hero figure img { max-height: 9rem; width: auto; }
  th, td { padding: .3rem .25rem; font-size: .85rem; } .effects td { min-width: 120px; }
  .sorts th button { padding: 0; } .sorts th, .sorts td { padding: .3rem .1rem; font-size: .8rem; }
}
"""

_SCRIPT = """
const tip = document.getElementById("tip");
if (tip) {
  const plot = tip.parentElement;
  const show = mark => {
    tip.innerHTML = document.getElementById(mark.dataset.thumb).innerHTML;
    tip.hidden = false;
    const at = mark.getBoundingClientRect();
    const box = plot.getBoundingClientRect();
    const left = at.right - box.left + 8, most = box.width - tip.offsetWidth - 4;
    tip.style.left = (left > most ? at.left - box.left - tip.offsetWidth - 8 : left) + "px";
    const top = at.top - box.top - tip.offsetHeight / 2;
    tip.style.top = Math.max(0, Math.min(top, box.height - tip.offsetHeight)) + "px";
  };
  for (const mark of document.querySelectorAll(".mark")) {
    for (const kind of ["mouseenter", "focus", "click"])
      mark.addEventListener(kind, () => show(mark));
    for (const kind of ["mouseleave", "blur"])
      mark.addEventListener(kind, () => { tip.hidden = true; });
  }
}
"""
