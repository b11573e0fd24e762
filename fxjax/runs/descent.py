"""Searches the codes of one batch of faces, and tunes the weights around them if asked.

Killed, it goes on: the search's whole state is saved now and then, between calls of one compiled
program, and a face is tuned once its file tuned/NAME.npz is there. On CPUs the
codes are those of a run that was not killed, bit for bit; GPUs add in no fixed order.
"""

import dataclasses
import functools
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, UInt8

from fxjax import losses, metrics, sharding
from fxjax.codes import invert, pivotal, whiten
from fxjax.images import from_uint8, save_image, to_uint8
from fxjax.nn.generator import synthesize
from fxjax.runs import journal, worklist
from fxjax.runs.inverted import Row
from fxjax.runs.worklist import OK, Entry
from fxjax.sharding import free_memory
from fxjax.types import Codes, Images, Photos

EVERY = 10  # steps of one call, at most: the least that strips show
STRIP_STEPS = (0, *(start * 10**power for power in range(1, 6) for start in (1, 3)))
STRIP_SIDE = 256
MOST = {"cpu": 4}  # pictures per device where memory would hold more; caches gain nothing then
MOST_ELSEWHERE = 32
SHARE = 0.7  # of the free memory


class Models(NamedTuple):
    """What a search needs, on all devices of the mesh; the judge is None without features.

    `walk` is the generator, or what reads other codes than w for it (`fxjax.codes.whiten`).
    """

    walk: Any
    loss: Any
    judge: Any
    mesh: Mesh

    @property
    def generator(self) -> Any:
        """The generator itself, which draws W+ codes."""
        return self.walk.generator if isinstance(self.walk, whiten.Whitened) else self.walk

    def begun(self, codes: Codes) -> Codes:
        """W+ codes as the search's own codes, to start at."""
        whitened = isinstance(self.walk, whiten.Whitened)
        return whiten.mean_codes(self.walk, codes) if whitened else codes

    def found(self, codes: Codes) -> Codes:
        """A search's own codes as W+ codes."""
        return self.walk.w(codes) if isinstance(self.walk, whiten.Whitened) else codes


class Found(NamedTuple):
    """A batch's results on the host; the curve has the loss before each step, then the last."""

    codes: Float[np.ndarray, "batch rows dim"]
    pictures: Photos
    curves: Float[np.ndarray, "batch points"]
    distances: Float[np.ndarray, " batch"]
    lpips: Float[np.ndarray, " batch"] | None
    stopped: np.ndarray
    strips: list[Photos]
    seconds: float
    noise: list[Float[np.ndarray, "batch height width"]] | None


@functools.partial(jax.jit, static_argnames="side")
def _draw(
    generator: Any, codes: Codes, noise: Any, side: int
) -> UInt8[Array, "batch height width 3"]:
    return to_uint8(losses.shrink(_synthesize(generator, codes, noise), side))


def _synthesize(generator: Any, codes: Codes, noise: list[Array] | None) -> Images:
    return synthesize(generator if noise is None else invert.with_noise(generator, noise), codes)


@jax.jit
def compare(
    loss: Any, judge: Any, goal: Any, images: Images, targets: Any
) -> tuple[UInt8[Array, "batch height width 3"], Any, Any]:
    """Pictures, their loss, and the LPIPS-style distance of what is saved of them."""
    distances = loss.distance(loss.embed(images), goal)
    pictures = to_uint8(images)
    if judge is None:
        return pictures, distances, None
    lpips = judge.distance(judge.embed(from_uint8(pictures)), judge.embed(from_uint8(targets)))
    return pictures, distances, lpips


@jax.jit
def _judge(
    models: tuple[Any, Any, Any], goal: Any, codes: Codes, noise: Any, targets: Any
) -> tuple[UInt8[Array, "batch height width 3"], Any, Any]:
    generator, loss, judge = models
    return compare(loss, judge, goal, _synthesize(generator, codes, noise), targets)


class Search:
    """Searches the codes of one batch after another with one compiled program."""

    def __init__(
        self,
        models: Models,
        settings: invert.Settings,
        start: Callable[[Sequence[str], Any, Photos], Codes],
        *,
        strip: bool,
        save_seconds: float,
        profile_dir: str | None,
        region_weight: float = 1.0,
    ):
        self.models, self.settings, self.start = models, settings, start
        self.strip, self.save_seconds, self.profile_dir = strip, save_seconds, profile_dir
        self.region_weight, self.tracing, self.traced = region_weight, False, False
        self.everywhere = NamedSharding(models.mesh, PartitionSpec("batch"))
        invert.begin(models.walk, invert.mean_codes(models.walk, 1), settings)  # checks

    def run(
        self,
        entries: Sequence[Entry],
        targets: Photos,
        kept: tuple[epath.Path, str],
        progress: Callable[[float, float], None],
    ) -> Found:
        """Inverts `targets` (the entries', then padding), and goes on where the journal says.

        `kept` are the run's folder and this process's entry in its journal. `progress` is told the
        share of the batch done since the last call, and the mean loss.
        """
        walk, loss, judge, mesh = self.models
        settings, began = self.settings, time.monotonic()
        padded = [*entries, *[entries[-1]] * (len(targets) - len(entries))]
        names = [entry.name for entry in padded]
        key = json.dumps([names, len(entries)])
        placed = sharding.split_batch(targets, mesh)
        goal = self.goal(padded, placed)
        saved = journal.read_arrays(*kept, key)
        strips, seconds, begun, done = [], 0.0, None, 0
        if saved is None:
            start = self._split(self.models.begun(self.start(names, goal, targets)))
            if self.strip:
                strips.append(self._draw(invert.begin(walk, start, settings), start))
        else:
            start = self._split(saved["start"])
            like = jax.tree.structure(invert.begin(walk, start, settings))
            leaves = [saved[f"leaf{index}"] for index in range(like.num_leaves)]
            begun = jax.tree.unflatten(like, leaves), saved["curves"]
            strips, seconds = list(saved["strips"]), float(saved["seconds"])
            done = saved["curves"].shape[1]
            progress(done / settings.steps, math.nan)
        last = time.monotonic()

        def told(place: invert.Place, curves: np.ndarray) -> None:
            nonlocal done, last
            before, done = done, curves.shape[1]
            self._trace(done < settings.steps)
            if self.strip and done in STRIP_STEPS and done < settings.steps:
                strips.append(self._draw(place, start))
            share = (done - before) / settings.steps
            progress(share, float(np.nanmean(curves[: len(entries), -1:])))
            if time.monotonic() - last >= self.save_seconds and done < settings.steps:
                spent = seconds + time.monotonic() - began
                journal.write_arrays(*kept, key, _arrays(place, start, curves, strips, spent))
                last = time.monotonic()

        place, curves = invert.run(
            walk,
            loss,
            goal,
            start,
            settings,
            every=self._every(),
            mesh=mesh,
            begun=begun,
            told=told,
        )
        codes = self.models.found(invert.codes_of(place, start, settings))
        noise, judges = invert.noise_of(place), (self.models.generator, loss, judge)
        pictures, distances, lpips = _judge(judges, goal, codes, noise, placed)
        if self.strip:
            strips += [self._draw(place, start), self._shrunk(placed)]
        return Found(
            np.asarray(codes),
            np.asarray(pictures),
            np.concatenate([curves, np.asarray(distances)[:, None]], axis=1),
            np.asarray(distances),
            None if lpips is None else np.asarray(lpips),
            np.asarray(place.stopped),
            strips,
            seconds + time.monotonic() - began,
            None if noise is None else [np.asarray(each) for each in noise],
        )

    def goal(self, entries: Sequence[Entry], placed: Array) -> Any:
        """What the loss compares to: embeddings of these faces' targets, weighted by region."""
        size = self.models.generator.resolution
        weights = worklist.region_weights(entries, size, self.region_weight)
        if weights is not None:
            weights = sharding.split_batch(weights, self.models.mesh)
        return invert.embedded(self.models.loss, from_uint8(placed), weights)

    def _split(self, tree: Any) -> Any:
        """Splits over the devices always alike: else a resumed search would be another program."""
        return jax.device_put(tree, self.everywhere)

    def _draw(self, place: invert.Place, start: Codes) -> Photos:
        codes = self.models.found(invert.codes_of(place, start, self.settings))
        noise = invert.noise_of(place)
        return np.asarray(_draw(self.models.generator, codes, noise, STRIP_SIDE))

    def _shrunk(self, targets: Array) -> Photos:
        return np.asarray(to_uint8(losses.shrink(from_uint8(targets), STRIP_SIDE)))

    def _every(self) -> int:
        """Steps of one call; strips show states in between."""
        steps = self.settings.steps
        return min(EVERY, steps) if self.strip else invert.part(steps, EVERY)

    def _trace(self, more: bool) -> None:
        """After each call, with `more` to come: a trace of the second, since the first compiles."""
        if self.profile_dir is None:
            return
        if self.tracing:
            jax.profiler.stop_trace()
        self.tracing = more and not self.traced
        if self.tracing:
            jax.profiler.start_trace(self.profile_dir)
            self.traced = True

    def batch(self, count: int) -> int:
        """How many pictures at once: what the free memory holds, a power of two per device."""
        walk, loss, _, mesh = self.models
        devices = mesh.size
        if count <= devices:
            return devices
        size = walk.resolution
        blank = sharding.split_batch(np.zeros((devices, size, size, 3), np.uint8), mesh)
        goal = self.goal([Entry("", "")] * devices, blank)
        start = self._split(invert.mean_codes(walk, devices))
        place = self._split(invert.begin(walk, start, self.settings))
        given: Any = (walk, loss, goal, start, place, self.settings, self._every())
        lowered = invert.advance.lower(*given, mesh=mesh)
        analysis = lowered.compile().memory_analysis()
        need = max(1, 0 if analysis is None else analysis.temp_size_in_bytes)
        free = free_memory(mesh.devices.flat[0], devices)
        most = MOST.get(mesh.devices.flat[0].platform, MOST_ELSEWHERE)
        held = min(most, SHARE * free / need, math.ceil(count / devices))
        return devices * 2 ** max(0, math.floor(math.log2(max(held, 1))))


def _arrays(
    place: invert.Place, start: Codes, curves: np.ndarray, strips: list[Photos], seconds: float
) -> dict[str, Any]:
    """The whole state of a search between two calls."""
    leaves = {f"leaf{index}": np.asarray(leaf) for index, leaf in enumerate(jax.tree.leaves(place))}
    shown = np.array(strips, np.uint8)
    return {
        "start": np.asarray(start),
        "curves": curves,
        "strips": shown,
        "seconds": seconds,
    } | leaves


class Tuner:
    """Tunes the weights for the faces of one batch after another with one compiled program."""

    def __init__(self, search: Search, settings: pivotal.Settings, generator_sha256: str):
        self.search, self.settings, self.sha256 = search, settings, generator_sha256
        self.note = json.dumps(dataclasses.asdict(settings))

    def __call__(
        self,
        out: epath.Path,
        entries: Sequence[Entry],
        rows: Sequence[Row],
        found: Found,
        targets: Photos,
    ) -> list[Row]:
        """The faces' rows with what tuning makes of them; writes tuned/NAME.png and NAME.npz.

        A face that was tuned around this very code already is left as it is.
        """
        rows, left = list(rows), []
        for i, row in enumerate(rows):
            if row.status == OK:
                facts = self._done(out / "tuned" / f"{row.name}.npz", found.codes[i])
                if facts is None:
                    left.append(i)
                else:
                    rows[i] = _added(row, facts)
        width = self.search.models.mesh.size  # one face on each device
        for first in range(0, len(left), width):
            group = left[first : first + width]
            facts = self._tune(out, entries, group, found, targets)
            for i, fact in zip(group, facts, strict=True):
                rows[i] = _added(rows[i], fact)
        return rows

    def _done(self, path: epath.Path, code: np.ndarray) -> dict[str, Any] | None:
        if not path.exists():
            return None
        old = pivotal.load(path)
        same = old.generator_sha256 == self.sha256 and old.facts.pop("settings", "") == self.note
        return old.facts if same and np.array_equal(old.code, code) else None

    def _tune(
        self,
        out: epath.Path,
        entries: Sequence[Entry],
        group: Sequence[int],
        found: Found,
        targets: Photos,
    ) -> list[dict[str, Any]]:
        """Tunes at most one face per device; returns what to add to the faces' rows."""
        began = time.monotonic()
        models = self.search.models
        generator, loss, judge, mesh = models.generator, models.loss, models.judge, models.mesh
        picks = [*group, *[group[-1]] * (mesh.size - len(group))]
        placed = sharding.split_batch(targets[picks], mesh)
        codes = sharding.split_batch(found.codes[picks], mesh)
        noise = found.noise and sharding.split_batch([each[picks] for each in found.noise], mesh)
        goal = self.search.goal([entries[i] for i in picks], placed)
        try:
            tuning = pivotal.tune(
                generator, loss, goal, codes, self.settings, noise=noise, mesh=mesh
            )
            drawn = pivotal.pictures(generator, codes, tuning.differences, noise=noise, mesh=mesh)
            pictures, distances, lpips = compare(loss, judge, goal, drawn, placed)
            curves = np.asarray(tuning.losses)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise ValueError("pivotal tuning does not fit into the memory; try --remat") from error
        pictures = np.asarray(pictures)
        seconds = (time.monotonic() - began) / len(group)
        facts = []
        for k, i in enumerate(group):
            if not np.isfinite(curves[k]).all():
                facts.append({"message": "pivotal tuning met a NaN; try a lower --pivotal_rate"})
                continue
            name = entries[i].name
            facts.append({
                "loss_tuned": float(distances[k]),
                "psnr_tuned": metrics.psnr(pictures[k], targets[i]),
                "ssim_tuned": metrics.ssim(pictures[k], targets[i]),
                "lpips_tuned": None if lpips is None else float(lpips[k]),
                "seconds": round(seconds, 3),
            })  # fmt: skip
            save_image(out / "tuned" / f"{name}.png", pictures[k])
            differences = {key: np.asarray(each[k]) for key, each in tuning.differences.items()}
            note = facts[-1] | {"settings": self.note}
            path = out / "tuned" / f"{name}.npz"
            pivotal.save(path, differences, found.codes[i], self.sha256, note)
        return facts


def _added(row: Row, facts: Mapping[str, Any]) -> Row:
    seconds = round((row.seconds or 0.0) + facts.get("seconds", 0.0), 3)
    return row._replace(**{**facts, "seconds": seconds})
