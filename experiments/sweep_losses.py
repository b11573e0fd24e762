"""Which loss draws a face best: the same faces inverted with pixels and with each layer of VGG16.

    python -m experiments.sweep_losses --model=models/ffhq --features=models/vgg16 \
        --images=photos --out=runs/sweep

Writes results.csv (a row for every face and loss, and for every refused photo), layers.csv (means
with 95 % intervals), report.html, and losses/NAME/ for each loss, as experiments.invert writes.
Killed at any moment, the same command goes on where it was; more --layers can be added to a run.
Exit status 1 if a photo or a search failed; everything else is done all the same.
"""

import dataclasses
import sys

import jax

from fxjax import checkpoint, load, metrics, zoo
from fxjax.cli import launch
from fxjax.files import absolute
from fxjax.runs import inversion, inverted, journal, loss_page, loss_sweep, worklist
from fxjax.runs.loss_sweep import Config


def main(config: Config) -> None:
    """Checks, lists the faces, inverts them with every loss, measures, reports."""
    out, chief = absolute(config.out), jax.process_index() == 0
    single = loss_sweep.inversion_of(config, loss_sweep.PIXELS)
    shas, settings = inversion.shas(single), dataclasses.asdict(config)
    features, heads = load(config.features, part="features"), None
    if config.heads is not None:
        heads = load(config.heads, part="heads")
        shas["heads_sha256"] = checkpoint.read_card(zoo.find(config.heads))["parts"]["heads"][
            "sha256"
        ]
    distance = metrics.lpips_style(features, heads)
    if not config.restart:
        free = ("layers", "heads")  # layers may be added, and of the heads the weights are compared
        journal.check(out, {k: v for k, v in settings.items() if k not in free}, shas)
    search = inversion.prepare(single)
    losses = loss_sweep.losses(features, config.layers, search.models.generator.resolution)
    own = (*inverted.FILES, *inverted.FOLDERS, "layers.csv", "losses")
    journal.begin(out, settings, shas, results=own if config.restart else ())
    if chief:
        entries = worklist.make(out, config.images, inversion.faces_of(single, search))
    else:
        entries = worklist.wait(out)
    inversion.check_start(single, search, entries)
    count = sum(entry.status == worklist.OK for entry in entries)
    deepest = loss_sweep.inversion_of(config, losses[-1])  # needs the most memory
    choose = lambda: config.batch or inversion.prepare(deepest).batch(count)
    batch = journal.agree(out, "batch", choose)
    judge = loss_sweep.Judge(distance, config.landmark_model)
    results = loss_sweep.refused(entries)
    for number, name in enumerate(losses if count else [], start=1):
        print(f"{name}: {number} of {len(losses)} losses", flush=True)
        rows = loss_sweep.invert(config, name, out, entries, batch, shas)
        if chief:
            results += loss_sweep.measure(judge, name, loss_sweep.folder_of(out, name), rows)
    if not chief:
        return
    loss_sweep.write_tables(out, losses, results)
    facts = {name: str(getattr(config, name)) for name in ("model", "features", "steps", "rate")}
    title = "LPIPS-style" if heads is None else "LPIPS"
    loss_page.write(out, losses, results, facts, title)
    print(f"{count} faces, {len(losses)} losses: open {out / 'report.html'}")
    if failed := sum(result.status != worklist.OK for result in results):
        sys.exit(f"{failed} photos or searches failed; {out / 'results.csv'} says why")


if __name__ == "__main__":
    launch(Config, main)
