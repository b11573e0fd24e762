"""Trains a StyleGAN2 on a folder or zip of pictures; the same command goes on where it stopped.

    python -m experiments.train_generator --preset=faces128 --data=faces.zip --out=runs/faces128

Each preset sets all flags below its own; flags given override it. --out gets checkpoints, exports
(a model folder for fxjax.load), sample grids, metrics.csv and TensorBoard scalars.
"""

from experiments import presets, training

if __name__ == "__main__":
    presets.launch_run(training.run, training.Run, training.PRESETS, "faces128")
