"""Four virtual CPU devices and a compile cache for all tests; set before jax is imported."""

import gc
import importlib.metadata
import os
import pathlib
import shutil

ROOT = pathlib.Path(__file__).resolve().parent.parent

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=4 "
    "--xla_backend_optimization_level=0"  # a quarter less time: LLVM is most of it
)
if importlib.metadata.version("jaxlib").startswith("0.10."):  # later ones have no such flag
    # Fusions by the older emitter, without MLIR: half the time that is left.
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(ROOT / ".cache" / "jax")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"  # small ones are many

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import skimage.data  # noqa: E402


@pytest.fixture(autouse=True, scope="module")
def _forget_programs():
    """Frees a file's compiled programs: thousands in one process exhaust its memory maps."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="session")
def root() -> pathlib.Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """Large fixtures that are not in the repository; skips where they are absent."""
    folder = pathlib.Path(os.environ.get("FXJAX_SHARED") or ROOT.parent / "shared")
    if not folder.is_dir():
        pytest.skip("no shared fixtures (FXJAX_SHARED or ../shared)")
    return folder


@pytest.fixture(scope="module")
def browser():
    """The system's Chromium, driven by playwright; skips where there is none of either."""
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))
    chromium = next(found, None)
    if chromium is None:
        pytest.skip("no Chromium (Debian: chromium)")
    with sync.sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def smiling() -> np.ndarray:
    """The astronaut's landmarks in her photo."""
    from fxjax.faces.detect import Detector  # after jaxtyping's hook, which checks what it imports

    return Detector()(skimage.data.astronaut())[0].landmarks


@pytest.fixture(scope="session")
def straight(smiling: np.ndarray) -> np.ndarray:
    """The same face with the mouth's corners lowered and the lips closed."""
    points = smiling.copy()
    points[[48, 54, 60, 64]] += [[8, 5], [-8, 5], [8, 5], [-8, 5]]
    points[60:68, 1] = points[60:68, 1].mean()
    return points
