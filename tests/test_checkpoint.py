"""Model folders: exact, strict, all or nothing, and never anything but arrays and JSON."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

import fxjax
from fxjax import checkpoint, sharding, zoo
from fxjax.checkpoint import fill, flatten, read_card, restore, save_model
from fxjax.training import loop


class Block(nnx.Module):
    def __init__(self, width: int, dtype: jnp.dtype):
        self.kernel = nnx.Param(jax.random.normal(jax.random.key(width), (width, 3)).astype(dtype))
        self.scale = nnx.Variable(jnp.ones((), dtype))
        self.bias = None


class Toy(nnx.Module):
    def __init__(self, widths: tuple[int, ...] = (2, 5), dtype: jnp.dtype = jnp.float32):
        self.widths = widths
        self.rows = nnx.List([Block(width, dtype) for width in widths])


def make(architecture: dict) -> Toy:
    return Toy(**architecture)


def save(folder: pathlib.Path, toy: Toy, **options) -> None:
    part = ({"widths": list(toy.widths)}, flatten(toy))
    save_model(folder, "toy", {"generator": part}, {"license": "none"}, **options)


def same(one: nnx.Module, other: nnx.Module) -> bool:
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(a.dtype == b.dtype and (np.asarray(a) == np.asarray(b)).all() for a, b in pairs)


def files(folder: pathlib.Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_flatten_names_every_variable():
    flat = flatten(Toy((4,) * 11))
    assert len(flat) == 22
    assert "rows/10/kernel" in flat
    assert flat["rows/2/kernel"].shape == (4, 3)


def test_fill_is_strict_and_names_all_that_is_wrong():
    toy = Toy()
    flat = {name: np.asarray(array) + 1 for name, array in flatten(toy).items()}
    assert not same(fill(toy, flat), toy)
    assert same(toy, Toy())  # the argument is not written to
    del flat["rows/0/scale"]
    flat["rows/7/kernel"] = np.zeros(3)
    flat["rows/1/kernel"] = np.zeros((3, 5), np.float32)
    with pytest.raises(ValueError, match="Toy") as caught:
        fill(toy, flat)
    for line in ("missing rows/0/scale", "left over rows/7/kernel", "is (3, 5), wanted (5, 3)"):
        assert line in str(caught.value)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_saved_models_come_back_exactly(tmp_path, dtype):
    toy = Toy(dtype=dtype)
    save(tmp_path / "model", toy)
    back = restore(tmp_path / "model", "generator", lambda a: Toy(**a, dtype=dtype))
    assert same(back, toy)
    assert back.widths == (2, 5)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(back))
    card = read_card(tmp_path / "model")
    assert (card["kind"], card["license"]) == ("toy", "none")


def test_arrays_are_cast_to_what_the_module_wants(tmp_path):
    save(tmp_path / "model", Toy(dtype=jnp.float16))
    back = restore(tmp_path / "model", "generator", make)
    assert {leaf.dtype for leaf in jax.tree.leaves(back)} == {jnp.dtype(jnp.float32)}


def test_restoring_onto_a_mesh(tmp_path):
    save(tmp_path / "model", Toy())
    everywhere = NamedSharding(sharding.mesh(), PartitionSpec())
    back = restore(tmp_path / "model", "generator", make, sharding=everywhere)
    assert {leaf.sharding for leaf in jax.tree.leaves(back)} == {everywhere}


def test_a_relative_folder_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_model("a/b", "toy", {"generator": ({}, {"x": np.ones(2)})}, {})
    assert read_card("a/b")["kind"] == "toy"


def test_an_existing_folder_is_refused_or_replaced_whole(tmp_path):
    folder = tmp_path / "model"
    save(folder, Toy())
    before = files(folder)
    with pytest.raises(FileExistsError, match="exists already"):
        save(folder, Toy((3,)))
    assert files(folder) == before
    save(folder, Toy((3,)), overwrite=True)
    assert same(restore(folder, "generator", make), Toy((3,)))
    assert os.listdir(tmp_path) == ["model"]


def test_a_folder_of_something_else_is_never_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("four years of work")
    with pytest.raises(ValueError, match="not a model folder"):
        save(tmp_path, Toy(), overwrite=True)
    assert os.listdir(tmp_path) == ["thesis.txt"]


def test_what_cannot_be_saved_is_refused_before_writing(tmp_path):
    for parts, message in (
        ({}, "no parts"),
        ({"generator": ({}, {})}, "a part without arrays"),
        ({"generator": ({}, {"x": np.zeros((0, 3))})}, "without elements .*: generator/x"),
    ):
        with pytest.raises(ValueError, match=message):
            save_model(tmp_path / "model", "toy", parts, {})
    with pytest.raises(ValueError, match="must not set kind"):
        save_model(tmp_path / "model", "toy", {"g": ({}, {"x": np.ones(1)})}, {"kind": "other"})
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("stage", ["arrays", "card", "rename"])
def test_a_failure_leaves_the_old_model_and_nothing_else(tmp_path, monkeypatch, stage):
    folder = tmp_path / "model"
    save(folder, Toy())
    before = files(folder)
    path_class = type(checkpoint.files.absolute(folder))
    rename, renamed = path_class.rename, []

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    def second_fails(self, target):
        renamed.append(self)
        return full() if len(renamed) == 2 else rename(self, target)

    if stage == "arrays":
        monkeypatch.setattr(checkpoint.ocp.Checkpointer, "save", full)
    elif stage == "card":
        monkeypatch.setattr(path_class, "write_text", full)
    else:
        # Orbax renames first; then the old folder goes away, and the new one fails to come.
        save_once = checkpoint.ocp.Checkpointer.save

        def save_then_count(*arguments, **options):
            save_once(*arguments, **options)
            monkeypatch.setattr(path_class, "rename", second_fails)

        monkeypatch.setattr(checkpoint.ocp.Checkpointer, "save", save_then_count)
    with pytest.raises(OSError, match=r"could not write .*model: .*No space left"):
        save(folder, Toy((3,)), overwrite=True)
    monkeypatch.undo()
    assert len(renamed) == (3 if stage == "rename" else 0)  # away, failed, back
    assert files(folder) == before
    assert os.listdir(tmp_path) == ["model"]


def test_a_full_disk_leaves_the_old_model_and_says_one_line(tmp_path):
    save_model(tmp_path / "model", "toy", {"generator": ({}, {"x": np.ones(2)})}, {})
    before = files(tmp_path / "model")
    code = (
        "import resource, sys, numpy as np\n"
        "from fxjax.checkpoint import save_model\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "noise = np.random.default_rng(0).normal(size=(200, 200))\n"
        "try:\n"
        "    save_model(sys.argv[1], 'toy', {'g': ({}, {'x': noise})}, {}, overwrite=True)\n"
        "except OSError as error:\n"
        "    sys.exit(str(error))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "model")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"could not write {tmp_path / 'model'}: ")
    assert len(done.stderr.splitlines()) == 1
    assert files(tmp_path / "model") == before
    assert os.listdir(tmp_path) == ["model"]


def test_any_damaged_file_is_an_error_that_names_the_folder(tmp_path):
    folder = tmp_path / "model"
    save(folder, Toy())
    for path, data in files(folder / "generator").items():
        middle = len(data) // 2
        flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :] if data else b"1"
        for damaged in (None, data[:middle] if data else b"0", flipped):
            os.remove(path) if damaged is None else pathlib.Path(path).write_bytes(damaged)
            with pytest.raises(ValueError, match=f"{folder}/generator is damaged"):
                restore(folder, "generator", make)
        pathlib.Path(path).write_bytes(data)
    assert same(restore(folder, "generator", make), Toy())


class State(NamedTuple):
    """Of a run."""

    images: jax.Array
    weights: jax.Array


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """Of a run."""

    rate: float = 0.1


def test_a_damaged_checkpoint_is_said_and_the_one_before_it_taken(tmp_path):
    def state(images: int) -> State:
        return State(jnp.asarray(images), jnp.full((3,), float(images)))

    def restored() -> State:
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        found = loop.restore_checkpoint(
            tmp_path, RunSettings(), jax.eval_shape(lambda: state(1)), here
        )
        assert found is not None
        return found

    first, second = (loop.save_checkpoint(tmp_path, RunSettings(), state(n)) for n in (8, 16))
    assert restored().images == 16
    largest = max(checkpoint._files(second), key=lambda path: path.stat().length)
    largest.write_bytes(largest.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="0000000016.* is damaged .*going on from the checkpoint"):
        assert restored().images == 8
    (second / "model.json").write_text("{")
    with pytest.warns(UserWarning, match="is not JSON"):
        np.testing.assert_array_equal(restored().weights, [8.0] * 3)
    (first / "model.json").write_text("{")
    with pytest.warns(UserWarning, match="is not JSON"), pytest.raises(ValueError, match="0000008"):
        restored()


def test_cards_are_validated(tmp_path):
    folder = tmp_path / "model"
    with pytest.raises(FileNotFoundError, match="no model folder"):
        read_card(folder)
    save(folder, Toy())
    card = read_card(folder)
    part = {"generator": {"architecture": {}}}
    for text, message in (
        ("{", "not JSON"),
        ("[]", "format 'list'"),
        (json.dumps({**card, "format": 2}), "format 2, this version reads 1"),
        (json.dumps({**card, "kind": 3}), "lacks a kind or parts"),
        (json.dumps({**card, "parts": {}}), "lacks a kind or parts"),
        (json.dumps({**card, "parts": part}), "part generator lacks"),
    ):
        (folder / "model.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            read_card(folder)
    (folder / "model.json").unlink()
    with pytest.raises(ValueError, match=r"it has no model\.json"):
        read_card(folder)


def test_a_model_that_does_not_fit_names_folder_and_arrays(tmp_path):
    save(tmp_path / "model", Toy())
    with pytest.raises(ValueError, match=r"model/generator: .*missing rows/2/kernel"):
        restore(tmp_path / "model", "generator", lambda _: Toy((2, 5, 1)))
    with pytest.raises(ValueError, match=r"model/generator: .*unexpected keyword .*widths"):
        restore(tmp_path / "model", "generator", lambda a: Block(3, jnp.float32, **a))
    with pytest.raises(ValueError, match="has no features; it has generator"):
        restore(tmp_path / "model", "features", make)


def test_load_finds_models_by_name_and_by_folder(tmp_path, monkeypatch):
    from fxjax.nn.stylegan2 import StyleGAN2

    architecture = {"resolution": 8, "widths": (6, 4), "dim": 8, "latent": 5, "mapping_layers": 2}
    generator = StyleGAN2(**architecture, rngs=nnx.Rngs(1))
    parts = {"generator": (architecture, flatten(generator))}
    save_model(tmp_path / "tiny", "stylegan2", parts, {})
    save_model(tmp_path / "odd", "stylegan9", parts, {})
    monkeypatch.setattr(zoo, "_shelf", lambda: checkpoint.files.absolute(tmp_path))
    for place in ("tiny", tmp_path / "tiny", str(tmp_path / "tiny")):
        assert same(fxjax.load(place), generator)
    half = fxjax.load("tiny", dtype=jnp.bfloat16, param_dtype=jnp.float16)
    assert half.dtype == jnp.bfloat16
    assert half.const[...].dtype == jnp.float16
    with pytest.raises(FileNotFoundError, match=r"no model 'faces'.*\(odd, tiny\)"):
        fxjax.load("faces")
    with pytest.raises(FileNotFoundError, match="no model folder"):
        fxjax.load(tmp_path / "none")
    with pytest.raises(ValueError, match="has no features; it has generator"):
        fxjax.load("tiny", part="features")
    with pytest.raises(ValueError, match="generator of 'stylegan9'; this version knows"):
        fxjax.load("odd")
