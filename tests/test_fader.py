"""Fader Networks and Liu & Jin's network: their sizes, and fast forms against slow ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fxjax.nn import fader, ops
from fxjax.nn.fader import BatchNorm, Classifier, Fader, LatentDiscriminator, LiuJin, Patches
from fxjax.nn.layers import Average, Conv

RANDOM = np.random.default_rng(0)
FOUR = ("anger", "happiness", "neutral", "surprise")


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(RANDOM.normal(size=shape), jnp.float32)


def parameters(module: nnx.Module) -> int:
    """Kernels, biases, gains and shifts; running averages do not count."""
    leaves = nnx.to_flat_state(nnx.state(module, nnx.Param))
    return sum(variable.get_value().size for _, variable in leaves)


def test_fader_has_the_published_parameters():
    model = nnx.eval_shape(lambda: Fader(256, FOUR, rngs=nnx.Rngs(0)))
    assert parameters(model.encoder) == 6_985_568
    assert parameters(model.decoder) == 7_046_784
    assert parameters(model) == 14_032_352
    judge = nnx.eval_shape(lambda: LatentDiscriminator(256, FOUR, rngs=nnx.Rngs(0)))
    assert parameters(judge) == 8_656_388


def test_liu_jin_has_43_7_percent_fewer():
    model = nnx.eval_shape(lambda: LiuJin(256, FOUR, rngs=nnx.Rngs(0)))
    assert parameters(model) == 7_897_007
    assert 100 * (7_897_007 / 14_032_352 - 1) == pytest.approx(-43.7, abs=0.2)


@pytest.mark.parametrize("size", [64, 128, 256])
@pytest.mark.parametrize("make", [Fader, LiuJin])
def test_layers_follow_the_size(make, size):
    model = nnx.eval_shape(lambda: make(size, FOUR, rngs=nnx.Rngs(0)))
    assert len(model.encoder.convs) == len(model.decoder.convs) == np.log2(size) - 2
    pictures, labels = jnp.zeros((2, size, size, 3)), jnp.ones((2, 4))
    latent = jax.eval_shape(lambda m: m.encoder(pictures), model)
    assert latent.shape == (2, 4, 4, min(32 << (len(model.encoder.convs) - 1), 512))
    assert jax.eval_shape(lambda m: m(pictures, labels), model).shape == pictures.shape


def moved(module):
    """The same network with averages and biases as training leaves them, not 0 and 1."""

    def change(path: tuple, variable: nnx.Variable) -> nnx.Variable:
        value = variable.get_value()
        if isinstance(variable, Average):  # the mean of the square exceeds the mean's square
            low = 1.0 if path[-1] == "square" else -0.5
            drawn = RANDOM.uniform(low, low + 1, value.shape)
            return variable.replace(jnp.asarray(drawn, jnp.float32))
        return variable.replace(value + 0.1 * normal(*value.shape))

    graph, state = nnx.split(module)
    return nnx.merge(graph, nnx.map_state(change, state))


@pytest.mark.parametrize("train", [False, True])
def test_liu_jin_is_its_naive_form(train):
    """Upsample, append the labels as channels, convolve: the folded and added form is equal."""
    model = moved(LiuJin(16, FOUR, base=4, most=8, rngs=nnx.Rngs(0)))
    latent, labels = normal(3, 4, 4, 8), normal(3, 4)
    found = [] if train else None
    got = model.decoder(latent, labels, found)
    x, again = latent, [] if train else None
    for k, conv in enumerate(model.decoder.convs):
        maps = jnp.broadcast_to(labels[:, None, None], (*x.shape[:3], 4))
        x = jnp.concatenate([x, maps], axis=-1)
        x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
        x = jax.lax.conv_general_dilated(
            x, conv.kernel[...], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = x + conv.bias[...]
        if k < len(model.decoder.norms):
            x = jax.nn.relu(model.decoder.norms[k](x, again))
    np.testing.assert_allclose(got, jnp.tanh(x), atol=5e-6)


def test_transposed_conv_and_its_slopes():
    x, kernel, pull = normal(2, 5, 5, 3), normal(4, 4, 3, 2), normal(2, 10, 10, 2)
    got, back = jax.vjp(ops.transposed_conv, x, kernel)
    wanted, slow = jax.vjp(ops.dilated_conv, x, kernel)
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    for one, other in zip(back(pull), slow(pull), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-4)
    placed = np.zeros((2, 12, 12, 2))  # pixel (i, j) adds its kernel, turned, around (2i, 2j)
    for i in range(5):
        for j in range(5):
            part = np.einsum("bc,ijco->bijo", x[:, i, j], np.asarray(kernel)[::-1, ::-1])
            placed[:, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += part
    np.testing.assert_allclose(got, placed[:, 1:-1, 1:-1], atol=1e-5)


@pytest.mark.parametrize("side", [3, 4])
@pytest.mark.parametrize("size", [2, 4, 8])
def test_halved_is_the_convolution(size, side):
    conv = Conv(3, 5, side, rngs=nnx.Rngs(0))
    x = normal(2, size, size, 3)
    wanted = ops.conv(x, conv.kernel[...], padding=fader.EDGE, stride=2)
    np.testing.assert_allclose(fader.halved(x, conv), conv.add_bias(wanted), atol=1e-5)


def test_batch_norm_by_hand():
    norm, x = BatchNorm(3), normal(4, 2, 2, 3) * 3 + 1
    norm.gain[...], norm.bias[...] = normal(3), normal(3)
    found: fader.Moments = []
    flat = np.asarray(x, np.float64).reshape(-1, 3)
    unit = (x - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5)
    np.testing.assert_allclose(norm(x, found), unit * norm.gain[...] + norm.bias[...], atol=1e-4)
    np.testing.assert_allclose(found[0][0], flat.mean(0), atol=1e-5)
    norm.mean[...], norm.square[...] = found[0]
    np.testing.assert_allclose(norm(x), norm(x, []), atol=1e-5)


@pytest.mark.parametrize("make", [Fader, LiuJin])
def test_labels_change_the_picture_and_fade(make):
    model = moved(make(16, FOUR, base=4, most=8, rngs=nnx.Rngs(0)))
    x = normal(1, 16, 16, 3)
    rows = jnp.eye(4)
    one, half, other = (
        model(x, labels[None]) for labels in (rows[0], (rows[0] + rows[1]) / 2, rows[1])
    )
    assert jnp.abs(one - other).max() > 0.01
    assert jnp.abs(half - one).mean() < jnp.abs(other - one).mean()
    assert jnp.abs(half - other).mean() < jnp.abs(other - one).mean()


@pytest.mark.parametrize("make", [Fader, LiuJin])
def test_what_does_not_fit_is_refused(make):
    model = make(16, FOUR, base=2, most=2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="3 labels given; this model knows 4"):
        model(normal(1, 16, 16, 3), normal(1, 3))
    with pytest.raises(ValueError, match=r"16x16x1 given; this model takes 16x16x3 \(colour\)"):
        model(normal(1, 16, 16, 1), normal(1, 4))
    with pytest.raises(ValueError, match="resolution 48 is not a power of two"):
        make(48, FOUR, rngs=nnx.Rngs(0))


def test_bfloat16_stays_near():
    """Activations in bfloat16, weights and the picture in float32."""
    make = lambda dtype: LiuJin(16, FOUR, base=4, most=8, dtype=dtype, rngs=nnx.Rngs(0))
    x, labels = normal(2, 16, 16, 3), jnp.eye(4)[:2]
    exact, rough = make(jnp.float32)(x, labels), make(jnp.bfloat16)(x, labels)
    assert rough.dtype == jnp.float32
    assert 0 < jnp.abs(exact - rough).max() < 0.1


def test_judges_have_their_shapes():
    judge = LatentDiscriminator(16, FOUR, kernel=3, base=2, most=4, rngs=nnx.Rngs(0))
    latent = normal(64, 4, 4, 4)
    assert judge(latent).shape == (64, 4)
    one, two = (judge(latent, None, jax.random.key(k)) for k in (0, 1))
    assert jnp.abs(one - two).max() > 0.01  # activations are dropped at random
    np.testing.assert_array_equal(judge(latent), judge(latent))
    classifier = Classifier(16, FOUR, base=2, most=4, rngs=nnx.Rngs(0))
    assert classifier(normal(2, 16, 16, 3)).shape == (2, 4)
    assert Patches(3, base=2, rngs=nnx.Rngs(0))(normal(2, 16, 16, 3)).shape == (2, 2, 2, 1)


def test_label_maps_are_linear_and_flat_inside():
    """The maps are linear in the labels, and constant away from the edges."""
    kernel = normal(3, 3, 4, 2)
    maps = fader.label_maps(jnp.eye(4), kernel, 8)
    assert jnp.abs(maps[:, 1:-1, 1:-1] - maps[:, 3:4, 3:4]).max() < 1e-5
    weights = normal(1, 4)
    both = fader.label_maps(weights, kernel, 8)
    np.testing.assert_allclose(both[0], jnp.einsum("l,lhwo->hwo", weights[0], maps), atol=1e-5)
