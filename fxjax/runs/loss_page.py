"""The page of a sweep of losses: who wins, means with intervals, and the pictures side by side."""

import math
from collections.abc import Mapping, Sequence

from etils import epath

from fxjax import files
from fxjax.images import load_image
from fxjax.report import Picture, document, escape, framed, image_tag, sorts_by
from fxjax.runs.loss_sweep import (
    ENOUGH,
    MEASURES,
    PAPER,
    PIXELS,
    Mean,
    Measure,
    Result,
    Verdict,
    by_face,
    folder_of,
    lost,
    mean,
    verdict,
)
from fxjax.runs.worklist import OK

SHOWN = 64  # faces with pictures; 20 pictures of each are about 10 MB in all
SIDE = 96  # pixels of a picture on the page; the file has a third more for fine screens
UP, DOWN = "\N{UPWARDS ARROW}", "\N{DOWNWARDS ARROW}"  # which way is better


def write(
    out: epath.Path,
    layers: Sequence[str],
    results: Sequence[Result],
    facts: Mapping[str, str],
    distance: str,
) -> None:
    """Writes report.html, which holds all it shows; `distance` is what to call the lpips field."""
    measures = [m._replace(title=distance) if m.field == "lpips" else m for m in MEASURES]
    done = [result for result in results if result.status == OK]
    names = list(dict.fromkeys(result.name for result in results if result.layer))
    counts = {"faces": str(len(names)), "failed": str(len(results) - len(done))}
    body = [
        f"<h2>Does {PAPER}, the paper's layer, win?</h2>",
        _verdicts(measures, layers, results),
        "<h2>Means over the faces</h2>",
        _means(measures, layers, results),
        "<h2>The faces</h2>",
        _pictures(out, names, layers, results),
    ]
    title = "Which loss draws a face best"
    text = document(title, {**counts, **facts}, "\n".join(body), style=_STYLE)
    files.write(out / "report.html", text.encode())


def sentence(found: Verdict | None, measure: Measure) -> str:
    """The verdict on the paper's layer in words."""
    if found is None:
        return "not measured"
    if found.lead is None or found.rival is None:
        return (
            "nothing to compare"
            if found.winner == PAPER
            else "not in this run, or measured on too few faces"
        )
    amount = _number(found.lead._replace(value=abs(found.lead.value)), measure.digits)
    if found.winner == PAPER:
        text = f"yes, by {amount} before {found.rival}"
    else:
        text = f"no, {found.rival} is better by {amount}"
    return text if found.clear else f"{text}, which is no clear difference"


def _verdicts(measures: Sequence[Measure], layers: Sequence[str], results: Sequence[Result]) -> str:
    lines = []
    for measure in measures:
        found = verdict(results, layers, measure)
        winner = "" if found is None else found.winner
        answer = escape(sentence(found, measure))
        lines.append(
            f"<tr><th>{escape(_title(measure))}</th>"
            f'<td class="text" data-label="winner">{winner}</td>'
            f'<td class="text" data-label="answer">{answer}</td></tr>'
        )
    note = (
        f"The winner has the best mean of the losses that could be measured on at least "
        f"{ENOUGH:.0%} of the faces that another could. A lead is the mean over faces of the "
        f"difference between {PAPER} and the best other loss, with its 95 % interval: no clear "
        "difference if that holds 0. Many losses are compared, so a narrow win may be chance."
    )
    head = ["measure", "winner", "answer"]
    return framed(head, lines, {}, "words") + f'<p class="note">{note}</p>'


def _means(measures: Sequence[Measure], layers: Sequence[str], results: Sequence[Result]) -> str:
    winners = [verdict(results, layers, measure) for measure in measures]
    lines = []
    for layer in layers:
        cells = []
        for measure, won in zip(measures, winners, strict=True):
            found = mean(list(by_face(results, layer, measure.field).values()))
            text = "" if found is None else _number(found, measure.digits)
            best = " best" if won is not None and won.winner == layer else ""
            value = sorts_by(math.nan if found is None else found.value)
            label = f' data-label="{escape(_title(measure))}"'
            cells.append(f'<td class="number{best}"{label}{value}>{text}</td>')
        done = [r for r in results if r.layer == layer and r.found is not None]
        gone = lost(results, layer) if done else math.nan
        missing = f"{gone} of {len(done)}" if done else ""
        paper = ' class="paper"' if layer == PAPER else ""
        lines.append(
            f"<tr{paper}><th>{escape(layer)}</th>{''.join(cells)}"
            f'<td class="number" data-label="no face"{sorts_by(gone)}>{missing}</td></tr>'
        )
    note = (
        "Means with 95 % intervals over the faces; the best is bold. Identity: dlib's distance "
        "between target and reconstruction, below 0.6 is one person. Landmark error: mean distance "
        "of the 68 points, in parts of the distance between the eyes, where a face is found in the "
        "reconstruction; no face: where none is."
    )
    head = ["loss", *map(_title, measures), "no face"]
    return framed(head, lines, {}, "numbers") + f'<p class="note">{note}</p>'


def _pictures(
    out: epath.Path, names: Sequence[str], layers: Sequence[str], results: Sequence[Result]
) -> str:
    of = {(result.name, result.layer): result for result in results}
    lines = []
    for name in names[:SHOWN]:
        target = folder_of(out, PIXELS) / "targets" / f"{name}.png"
        cells = [f"<th>{_figure(target, name)}</th>"]
        for layer in layers:
            result = of[name, layer]
            if result.status != OK:
                status = escape(result.status)
                cells.append(f'<td class="text" data-label="{escape(layer)}">{status}</td>')
                continue
            text = "" if result.identity is None else f"{result.identity:.2f}"
            text += ", no face" if result.found == 0 else ""
            path = folder_of(out, layer) / "reconstructions" / f"{name}.png"
            value = sorts_by(math.nan if result.identity is None else result.identity)
            label = f' data-label="{escape(layer)}"'
            cells.append(f'<td class="picture"{label}{value}>{_figure(path, text)}</td>')
        lines.append(f"<tr>{''.join(cells)}</tr>")
    note = "Below each reconstruction: its identity distance, by which a column sorts."
    if len(names) > SHOWN:
        note += f" The first {SHOWN} of {len(names)} faces are shown."
    return framed(["target", *layers], lines, {}, "faces") + f'<p class="note">{note}</p>'


def _figure(path: epath.Path, text: str) -> str:
    tag = image_tag(Picture(load_image(path), SIDE * 4 // 3), SIDE)
    return f"<figure>{tag}<figcaption>{escape(text)}</figcaption></figure>"


def _title(measure: Measure) -> str:
    return f"{measure.title} {UP if measure.more else DOWN}"


def _number(found: Mean, digits: int) -> str:
    text = f"{found.value:.{digits}f}"
    return text if found.margin is None else f"{text} \N{PLUS-MINUS SIGN} {found.margin:.{digits}f}"


_STYLE = """
table { border-collapse: separate; border-spacing: 0; }
thead th { font-size: .85rem; }
@media (min-width: 901px) {
  tr > th:first-child { position: sticky; left: 0; background: Canvas; z-index: 2; }
}
.best { font-weight: 700; }
.paper td { background: var(--soft); } .paper th { text-decoration: underline; }
.cards.faces { width: auto; }
.faces :is(th, td) { padding: .2rem; vertical-align: top; }
figure { width: 96px; } figcaption { font-size: .75rem; }
"""
