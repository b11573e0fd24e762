"""Trains a label-driven model; the same command goes on where it stopped.

    python -m experiments.train_label_transfer --preset=label64 --model=liu_jin \
        --data=faces.zip --table=faces.csv --out=runs/liu_jin

Each preset sets all flags below its own; flags given override it. --out gets checkpoints, an export
(a model folder for fxjax.load), sample sheets (each face with every expression), metrics.csv and
TensorBoard scalars.
"""

from fxjax import cli
from fxjax.labels import training

if __name__ == "__main__":
    cli.launch_run(training.run, training.Run, training.PRESETS, "label64")
