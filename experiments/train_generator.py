"""Trains a StyleGAN2 on a folder or zip of pictures; the same command goes on where it stopped.

    python -m experiments.train_generator --preset=faces128 --data=faces.zip --out=runs/faces128

Each preset sets all flags below its own; flags given override it. --out gets checkpoints, exports
(a model folder for fxjax.load), sample grids, metrics.csv and TensorBoard scalars.
"""

from fxjax import cli
from fxjax.training import gan_run

if __name__ == "__main__":
    cli.launch_run(gan_run.run, gan_run.Run, gan_run.PRESETS, "faces128")
