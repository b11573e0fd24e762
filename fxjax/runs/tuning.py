"""Pivotal tuning after inversion: weights of their own for faces whose codes are found.

Each face is done on its own, and its file tuned/NAME.npz says that it is: a run that is killed and
goes on does none twice.
"""

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from fxjax import metrics, sharding
from fxjax.codes import pivotal
from fxjax.images import save_image
from fxjax.runs.descent import Found, Search, compare
from fxjax.runs.runfolder import Row
from fxjax.runs.worklist import OK, Entry
from fxjax.types import Photos


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
        """Tunes at most one face per device; what to add to their rows."""
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
            pictures, distances, lpips = compare(loss, judge, goal, tuning.images, placed)
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
