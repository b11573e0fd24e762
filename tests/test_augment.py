"""Adaptive discriminator augmentation against a per-pixel twin and its own promises."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fxjax.training import augment, gan_run

RANDOM = np.random.default_rng(0)


def pictures(batch: int, size: int) -> np.ndarray:
    return RANDOM.uniform(-1, 1, (batch, size, size, 3)).astype(np.float32)


def reflected(index: int, size: int) -> int:
    while not 0 <= index < size:
        index = -index if index < 0 else 2 * (size - 1) - index
    return index


def warped_slowly(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """One output pixel at a time, in float64: a mix of the four pixels around where it is from."""
    size, out = image.shape[0], np.zeros(image.shape)
    middle = (size - 1) / 2
    for row in range(size):
        for column in range(size):
            x, y, _ = matrix.astype(np.float64) @ [column - middle, row - middle, 1]
            x, y = x + middle, y + middle
            for i in (math.floor(y), math.floor(y) + 1):
                for j in (math.floor(x), math.floor(x) + 1):
                    share = (1 - abs(y - i)) * (1 - abs(x - j))
                    out[row, column] += share * image[reflected(i, size), reflected(j, size)]
    return out


def test_strength_zero_changes_nothing():
    images = jnp.asarray(pictures(8, 16))
    out = jax.jit(augment.augment, static_argnums=3)(
        images, jax.random.key(0), jnp.float32(0), augment.EVERYTHING
    )
    np.testing.assert_array_equal(out, images)


def test_warp_is_its_per_pixel_twin():
    images = pictures(5, 12)
    matrices = np.asarray(augment.draw(jax.random.key(3), 1.0, 5, 12, augment.EVERYTHING).geometry)
    fast = augment.warp(jnp.asarray(images), jnp.asarray(matrices))
    for image, matrix, out in zip(images, matrices, fast, strict=True):
        np.testing.assert_allclose(out, warped_slowly(image, matrix), atol=2e-5)


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ([[-1, 0, 0], [0, 1, 0], [0, 0, 1]], lambda image: image[:, ::-1]),
        ([[0, 1, 0], [-1, 0, 0], [0, 0, 1]], lambda image: np.rot90(image, -1)),
        ([[1, 0, 2], [0, 1, 0], [0, 0, 1]], lambda image: np.pad(
            image, [(0, 0), (0, 2), (0, 0)], mode="reflect")[:, 2:]),
    ],
    ids=["mirror", "quarter turn", "shift"],
)  # fmt: skip
def test_warp_of_plain_moves(matrix, expected):
    image = pictures(1, 8)
    out = augment.warp(jnp.asarray(image), jnp.asarray(matrix, jnp.float32)[None])
    np.testing.assert_allclose(out[0], expected(image[0]), atol=1e-6)


def test_color_matrix_pixel_by_pixel():
    images = pictures(4, 4)
    matrices = np.asarray(augment.draw(jax.random.key(5), 1.0, 4, 4, augment.EVERYTHING).color)
    fast = augment.recolor(jnp.asarray(images), jnp.asarray(matrices))
    for image, matrix, out in zip(images, matrices, fast, strict=True):
        for pixel, changed in zip(image.reshape(-1, 3), out.reshape(-1, 3), strict=True):
            np.testing.assert_allclose(changed, (matrix @ [*pixel, 1])[:3], atol=1e-5)


def test_colors_keep_what_they_should():
    """Mirrored luma, hue and saturation keep grey axis and lengths as their definitions say."""
    color = np.asarray(augment.draw(jax.random.key(1), 1.0, 256, 8, augment.EVERYTHING).color)
    np.testing.assert_array_equal(color[:, 3], np.tile([0, 0, 0, 1], (256, 1)))
    grey = color[:, :3, :3] @ np.ones(3)
    # Grey stays grey: scaled by the contrast, perhaps turned to its opposite.
    np.testing.assert_allclose(grey, grey[:, :1] * np.ones(3), rtol=1e-4, atol=1e-5)
    contrast = np.log2(np.abs(grey[:, 0]))
    assert abs(contrast.mean()) < 0.1
    assert 0.4 < contrast.std() < 0.6
    assert 0.3 < np.mean(grey[:, 0] < 0) < 0.7  # half of the lumas are mirrored


def test_geometry_happens_as_often_as_it_should():
    matrices = np.asarray(
        augment.draw(jax.random.key(2), 0.3, 4096, 64, augment.EVERYTHING).geometry
    )
    # Untouched by all: a mirror (0.3, of which half mirror), quarter turns (0.3, of which 3/4),
    # a shift, scale, two rotations that together happen with 0.3, stretch, another shift.
    expected = (1 - 0.15) * (1 - 0.225) * 0.7**5
    untouched = np.mean(np.all(matrices == np.eye(3), axis=(1, 2)))
    assert abs(untouched - expected) < 0.02
    scales = np.sqrt(np.abs(np.linalg.det(matrices)))
    changed = np.log2(scales[np.abs(scales - 1) > 1e-5])
    assert 0.18 < changed.std() < 0.22


def turns(geometry: np.ndarray) -> np.ndarray:
    """By how many degrees each matrix turns: its nearest rotation, mirror images mirrored back."""
    left, _, right = np.linalg.svd(geometry[:, :2, :2].astype(np.float64))
    nearest = left @ right
    nearest[np.linalg.det(nearest) < 0] @= np.diag([-1.0, 1.0])
    return np.degrees(np.abs(np.arctan2(nearest[:, 1, 0], nearest[:, 0, 0])))


@pytest.mark.parametrize("name", gan_run.PRESETS)
def test_no_preset_turns_a_picture_far(name):
    """At the strongest that it goes, with all else that stretches and mirrors."""
    settings = gan_run.PRESETS[name]
    assert settings.rotation <= 15
    assert not settings.quarter_turns
    draw = lambda strength: turns(
        np.asarray(augment.draw(jax.random.key(7), strength, 8192, 64, settings).geometry)
    )
    found = draw(settings.strength_most)
    assert 0.8 * settings.rotation < found.max() <= settings.rotation + 1e-3
    assert draw(1.0).max() <= settings.rotation + 1e-3


def test_at_will_pictures_turn_all_the_way():
    found = turns(np.asarray(augment.draw(jax.random.key(7), 0.8, 4096, 64, augment.EVERYTHING)[0]))
    assert np.percentile(found, [50, 90]).min() > 45
    assert found.max() > 175
    free = dataclasses.replace(augment.EVERYTHING, rotation=0.0)
    found = turns(np.asarray(augment.draw(jax.random.key(7), 0.8, 4096, 64, free)[0]))
    np.testing.assert_allclose(found, np.round(found / 90) * 90, atol=1e-3)  # quarters alone
    assert set(np.round(found / 90)) == {0, 1, 2}


@pytest.mark.parametrize(
    ("name", "part"),
    [(name, "geometry") for name in ("rotation", "quarter_turns", "shift", "scale", "stretch")]
    + [(name, "color") for name in ("brightness", "contrast", "negative", "hue", "saturation")],
)
def test_each_move_alone_can_be_left_out(name, part):
    """Nothing but this one is drawn, and it alone changes what it is about."""
    none = augment.Moves(
        **{field.name: type(field.default)(0) for field in dataclasses.fields(augment.Moves)}  # type: ignore
    )
    mirrored = np.diag([-1.0, 1.0, 1.0])
    neutral = augment.draw(jax.random.key(4), 1.0, 64, 32, none)
    same = np.abs(np.asarray(neutral.geometry)[:, None] - [np.eye(3), mirrored]).max((2, 3)).min(1)
    np.testing.assert_allclose(same, 0, atol=1e-6)  # half are mirrored, which no flag forbids
    np.testing.assert_allclose(neutral.color, np.tile(np.eye(4), (64, 1, 1)), atol=1e-6)
    default = getattr(augment.EVERYTHING, name)
    drawn = augment.draw(
        jax.random.key(4), 1.0, 64, 32, dataclasses.replace(none, **{name: default})
    )
    for other in ("geometry", "color"):
        change = np.abs(np.asarray(getattr(drawn, other)) - getattr(neutral, other)).max((1, 2))
        assert np.mean(change > 1e-3) > 0.4 if other == part else np.all(change < 1e-5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rotation": 400.0}, "rotation is 400; it goes from 0 to 360"),
        ({"rotation": -1.0}, "rotation is -1"),
        ({"hue": 200.0}, "hue is 200; it goes from 0 to 180"),
        ({"shift": float("nan")}, "shift is nan; it goes from 0 to 0.5"),
        ({"contrast": 9.0}, "contrast is 9; it goes from 0 to 2"),
    ],
)
def test_moves_out_of_range_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        augment.Moves(**wrong)
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(gan_run.PRESETS["faces128"], **wrong)


def test_gradient_reaches_the_pictures():
    images = jnp.asarray(pictures(4, 8))
    transforms = augment.draw(jax.random.key(0), 0.8, 4, 8, augment.EVERYTHING)
    weights = jnp.asarray(pictures(4, 8))
    value = lambda images: jnp.sum(augment.apply(images, transforms) * weights)
    direction = jnp.asarray(pictures(4, 8))
    slope = jnp.sum(jax.grad(value)(images) * direction)
    # The transformation is affine in the picture, so a difference is exact but for rounding.
    np.testing.assert_allclose(value(images + direction) - value(images), slope, rtol=1e-3)


def test_strength_moves_towards_the_target():
    move = lambda strength, sign: float(
        augment.adjusted(
            jnp.float32(strength),
            jnp.float32(sign),
            target=0.6,
            images=64,
            most=0.8,
            per_unit=640.0,
        )
    )
    assert move(0.3, 0.9) == pytest.approx(0.4)
    assert move(0.3, 0.2) == pytest.approx(0.2)
    assert move(0.78, 0.9) == pytest.approx(0.8)
    assert move(0.05, 0.2) == 0.0
