"""What ships: it loads by name, draws its own samples, stays small, and says what it is."""

import os
import subprocess
import sys
import textwrap

import facemodels
import numpy as np
import pytest
from flax import nnx

import fxjax
from experiments import sample
from fxjax import assess, checkpoint, zoo
from fxjax.codes import smile_samples
from fxjax.images import load_image
from fxjax.labels.engine import LabelEngine
from fxjax.nn.stylegan2 import StyleGAN2
from fxjax.training import gan_state


@pytest.fixture(scope="module")
def home():
    return zoo.find("faces")


def test_every_part_loads_by_name():
    generator = fxjax.load("faces")
    features = fxjax.load("faces", part="features")
    statistics = fxjax.load("faces", part="statistics")
    assert "block3_conv3" in features.names
    mean = checkpoint.flatten(statistics)["mean"]
    np.testing.assert_allclose(mean, generator.w_mean[...], atol=2e-3)  # kept in float16


def test_compiled_programs_are_kept(tmp_path):
    """In the user's cache folder, also if jax has compiled something before."""
    text = """
        import jax, fxjax
        jax.jit(lambda x: x + 1)(1.0)
        fxjax.load("faces", part="statistics")
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.jit(lambda x: x * 2)(1.0)
    """
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    env.pop("JAX_COMPILATION_CACHE_DIR")
    subprocess.run([sys.executable, "-c", textwrap.dedent(text)], env=env, check=True)
    assert list((tmp_path / "fxjax" / "jax").iterdir())


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(FileNotFoundError, match=r"no model 'fases'.*\(.*faces.*\)"):
        fxjax.load("fases")


def test_the_samples_are_its_own(home, tmp_path):
    shown = sorted((home / "samples").glob("seed*.png"))
    assert len(shown) == 9
    seeds = ",".join(str(int(path.stem[4:])) for path in shown)
    sample.main(sample.Config(model="faces", seeds=seeds, psi=0.7, out=str(tmp_path)))
    for path in shown:
        drawn, kept = load_image(tmp_path / path.name), load_image(path)
        assert np.abs(drawn.astype(int) - kept).max() <= 8  # its weights are kept in float16
        assert np.abs(drawn.astype(int) - kept).mean() < 0.5


def test_it_is_small_and_has_a_card(home):
    def size(folder):
        return sum(size(p) if p.is_dir() else p.stat().length for p in folder.iterdir())

    assert size(home) <= 22e6
    assert size(zoo.find("expressions")) <= 6e6
    assert size(zoo.find("faces256")) <= 17e6
    for folder in (home, zoo.find("faces256"), zoo.find("expressions")):
        card = (folder / "card.md").read_text()
        for words in ("CC BY-NC-SA 4.0", "Misuse", "Limits", "dlib"):
            assert words in card
        assert checkpoint.read_card(folder)["licence"] == "CC BY-NC-SA 4.0"


def test_the_smaller_generator_is_the_first_rows_of_the_larger():
    small, large = (checkpoint.flatten(fxjax.load(name)) for name in ("faces", "faces256"))
    colours = "rows/11/to_rgb/conv/bias"
    for name, array in small.items():
        if name == "w_mean":  # each is a mean of other samples
            np.testing.assert_allclose(array, large[name], atol=2e-3)
        elif name != colours:
            np.testing.assert_array_equal(array, large[name], err_msg=name)
    assert np.abs(small[colours] - large[colours]).max() < 0.2
    shown = (zoo.find("faces") / "samples").glob("*.png")
    assert sorted(zoo.samples()) == sorted(path.stem for path in shown)
    for path in zoo.samples().values():
        assert load_image(path).shape == (256, 256, 3)


def test_training_can_go_on_from_a_clone(root):
    """The discriminator that is kept is the shipped generator's own."""
    home = zoo.find("faces256")
    settings = gan_state.GanSettings(**checkpoint.read_card(home)["settings"])
    kept = root / "training" / "faces256" / "discriminator.npz"
    state = gan_state.start_from(home, kept, settings)
    assert int(state.images) == checkpoint.read_card(home)["images"]


def test_expressions_by_name_close_a_smile(home):
    engine = LabelEngine("expressions")
    judges = assess.Judges(engine.detector)
    less = []
    for path in sorted((home / "samples").glob("seed*.png")):
        (face,) = engine.locate(path)
        happy, neutral = engine.change(face, ["happiness", "neutral"])
        smiles = []
        for photo in (happy, neutral):
            seen = judges.see(photo, face)
            assert seen is not None
            smiles.append(smile_samples.smile(seen.landmarks))
        less.append(smiles[0] - smiles[1])
    assert np.mean(less) > 0.3, less


@pytest.mark.parametrize("channels", [1, 4])
def test_a_generator_of_other_colours_is_refused_where_it_is_loaded(tmp_path, channels):
    folder, shape = tmp_path / "model", facemodels.ARCHITECTURE | {"channels": channels}
    model = StyleGAN2(**shape, rngs=nnx.Rngs(0))
    weights = {"generator": (shape, checkpoint.flatten(model))}
    checkpoint.save_model(folder, "stylegan2", weights, {})
    line = rf"^{folder}: its generator draws pictures of {channels} channels; wanted are 3 \(RGB\)$"
    with pytest.raises(ValueError, match=line):
        fxjax.load(folder)
    with pytest.raises(ValueError, match=line):
        sample.main(sample.Config(model=str(folder), out=str(tmp_path / "out")))
    card = (folder / "model.json").read_text().replace('"format": 1', '"format": 2')
    (folder / "model.json").write_text(card, encoding="utf-8-sig")  # as editors elsewhere save it
    with pytest.raises(ValueError, match="has format 2, this version reads 1"):
        fxjax.load(folder)
