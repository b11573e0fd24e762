"""Trains the VGG16-layout features for faces; the same command goes on where it stopped.

    python -m experiments.train_features --data=omi_train_128.zip --table=omi_train.csv \
        --landmarks=omi_train_landmarks.npz --out=runs/features

--out gets `export` (a model folder for fxjax.load and --features), checkpoints, metrics.csv and
TensorBoard scalars. --preset=smoke makes all else tiny: it runs through in seconds.
"""

from fxjax import cli
from fxjax.training import feature_run

if __name__ == "__main__":
    cli.launch_run(feature_run.run, feature_run.Run, feature_run.PRESETS, "faces")
