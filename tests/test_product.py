"""The product as users run it: shipped models on shipped samples, compiled at XLA's own level.

All other tests compile without optimization, for speed.
"""

import csv
import os
import subprocess
import sys

import numpy as np

from fxjax.images import load_image


def test_a_sample_gets_the_expression_of_another(root, tmp_path):
    samples = root / "fxjax" / "zoo" / "faces256" / "samples"
    (tmp_path / "pairs.csv").write_text(
        f"appearance,expression\n{samples / 'seed0006.png'},{samples / 'seed0058.png'}\n"
    )
    command = [sys.executable, "-m", "experiments.transfer_batch", f"--out={tmp_path / 'out'}"]
    command += [f"--pairs={tmp_path / 'pairs.csv'}", "--rows=3-6", "--batch=2"]
    command += ["--steps=40", "--tuning=20", "--refine=20"]
    plain = os.environ | {"XLA_FLAGS": ""}
    done = subprocess.run(command, cwd=root, env=plain, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out" / "results.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["verdict"] == "looks whole"
    assert float(row["verdict_reached"]) > 0.5
    assert float(row["result: gain"]) > 0.5
    assert float(row["result: to_person"]) < 0.45 < float(row["result: to_driver"])
    (result,) = (tmp_path / "out" / "results").iterdir()
    away = np.abs(load_image(result).astype(int) - load_image(samples / "seed0006.png"))
    assert away.max() > 0
    assert np.mean(away.sum(axis=2) == 0) > 0.3  # the background stays
