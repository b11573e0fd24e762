"""What experiments.transfer writes for a face."""

import io
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from etils import epath

from fxjax import __version__, assess, files, transfer_report
from fxjax.codes import mix
from fxjax.engine import Engine
from fxjax.images import save_image
from fxjax.transfer_types import Transfer


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
        buffer = io.BytesIO()
        np.savez(
            buffer, ws=result.codes, mask=result.mask, names=["person", "driver", "mixed", "drawn"]
        )
        files.write(place / "codes.npz", buffer.getvalue())
        codes = jnp.asarray(result.codes[:2])
        if result.ranked is not None:
            table = transfer_report.ranking_csv(result.ranked)
            files.write(place / "ranking.csv", table.encode())
            faces = result.person, result.driver
            for rank, mask in enumerate(result.ranked.masks[1:top], start=2):
                again = engine.pair(*faces, codes, mask=mask, tuned=result.generator)
                save_image(place / f"result_{rank}.png", again.picture, note=text)

        def draw(masks: np.ndarray) -> np.ndarray:
            return np.asarray(engine.draw(mix.mixed(codes[0], codes[1], masks), result.generator))

        facts = {**facts, "mask": transfer_report.mask_text(result.mask)}
        html = transfer_report.page(result, measured, draw, facts)
        files.write(place / "report.html", html.encode())
