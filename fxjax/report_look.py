"""The look of reports, and what they do: styles and scripts, which every page holds."""

STYLE = """
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
svg { display: block; background: var(--soft); border-radius: 3px; max-width: 100%;
  height: auto; }
svg text { font-size: 10px; fill: currentColor; opacity: .75; }
polyline { fill: none; stroke: currentColor; stroke-width: 1.5; }
.charts { display: grid; gap: 0 2.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
.bars { display: grid; grid-template-columns: auto 1fr auto; gap: .2rem .6rem;
  align-items: center; }
.bars dt { font-size: .9rem; opacity: 1; } .bars dd { position: relative; font-size: .9rem;
  font-variant-numeric: tabular-nums; min-height: 1rem; }
.bars dd + dd { text-align: right; }
.bars i { position: absolute; inset: .1rem auto; background: #1971c2; }
.bars b { position: absolute; top: 50%; height: 2px; background: currentColor; }
.bits { background: none; border-radius: 0; } li .bits { display: inline-block; }
.bits rect { fill: var(--strong); } .bits .off { fill: #8886; }
.hero { display: flex; flex-wrap: wrap; gap: .7rem; margin-bottom: .7rem; }
.verdict { font-size: 1.15rem; font-weight: 600; border-left: 4px solid #2f9e44;
  padding-left: .7rem; margin: .8rem 0; max-width: 46rem; }
.verdict.bad { border-color: var(--strong); }
ul { padding-left: 1.2rem; margin: .3rem 0 .8rem; } li { overflow-wrap: anywhere; }
img[role=button] { cursor: zoom-in; }
dialog { border: 0; padding: 0; background: none; max-width: 96vw; max-height: 96vh; }
dialog::backdrop { background: #000c; }
dialog img { max-width: 94vw; max-height: 92vh; cursor: zoom-out; }
.slider { --at: 50%; position: relative; overflow: hidden; border-radius: 6px;
  width: min(100%, max(36rem, var(--wide)), calc(80vh * var(--ratio))); }
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
.cards { width: 100%; } .wide > label { display: none; }
.cards thead th { position: sticky; top: 0; background: Canvas; z-index: 1;
  vertical-align: bottom; }
.cards td { padding: .3rem; vertical-align: middle; overflow-wrap: anywhere; }
.cards td.text { min-width: 6.5rem; } .cards td.number { text-align: left; }
.cards td.picture { width: 1px; } .cards td :is(img, svg) { max-width: none; }
@media (max-width: 600px) { svg.chart text { font-size: 17px; } }
@media (max-width: 900px) {
  body { margin: .8rem auto; padding: 0 .7rem; }
  .wide > label { display: block; margin-bottom: .8rem; }
  select { font: inherit; max-width: 100%; }
  .cards, .cards tbody { display: block; } .cards thead { display: none; }
  .cards tr { display: flex; flex-wrap: wrap; align-items: flex-end; gap: .3rem .6rem;
    border: 1px solid var(--line); border-radius: 8px; padding: .6rem; margin-bottom: .8rem; }
  .cards :is(td, tbody th) { border: 0; padding: 0; } .cards td.none { display: none; }
  .cards td.picture { width: auto; max-width: 100%; } .cards td :is(img, svg) { max-width: 100%; }
  .cards td.number, .cards td.mask { flex: 1 1 40%; }
  .cards :is(td.text, tbody th) { flex: 1 1 100%; }
  .cards td::before { content: attr(data-label); display: block; font-size: .75rem;
    opacity: .7; }
}
"""

LARGE = """
const large = document.createElement("dialog");
document.body.append(large);
large.addEventListener("click", () => large.close());
for (const image of document.querySelectorAll("img")) {
  if (image.closest(".slider")) continue;
  const name = image.alt || image.closest("figure, td, th")?.textContent.trim().slice(0, 80);
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
const fit = () => document.querySelectorAll(".wide").forEach(box => {
  box.style.overflowX = "";  // a box that scrolls would keep a table's head from staying in sight
  if (box.scrollWidth <= box.clientWidth) box.style.overflowX = "visible";
});
addEventListener("resize", fit);
fit();
for (const slider of document.querySelectorAll(".slider")) {
  const handle = slider.querySelector("input");
  const move = () => slider.style.setProperty("--at", `${handle.value}%`);
  handle.addEventListener("input", move);
  move();
}
"""

SORT = """
document.querySelectorAll("table.sorts").forEach(table => {
const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
const select = table.parentElement.querySelector("select");
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

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
PAGE = """<!doctype html>
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
