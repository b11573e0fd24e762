"""A zip of JPEGs and its table beside it: what the training commands read."""

import io
import zipfile
from collections.abc import Iterable, Mapping, Sequence

import cv2
from etils import epath

from fxjax import files
from fxjax.types import AnyPhoto


def write(
    path: epath.PathLike,
    pictures: Iterable[tuple[str, AnyPhoto]],
    rows: Sequence[Mapping[str, str]],
) -> None:
    """Writes pictures by name, and the rows as a CSV of the same name; the same bytes each time.

    Raises OSError.
    """
    target, packed = files.absolute(path), io.BytesIO()
    quality = [cv2.IMWRITE_JPEG_QUALITY, 92]
    quality += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    with zipfile.ZipFile(packed, "w") as archive:  # stored: JPEG does not shrink further
        for name, picture in pictures:
            _, encoded = cv2.imencode(".jpg", picture[..., ::-1], quality)
            archive.writestr(zipfile.ZipInfo(name, (2024, 1, 1, 0, 0, 0)), encoded.tobytes())
    files.write(target, packed.getvalue())
    files.write_table(table_of(target), rows)


def table_of(path: epath.PathLike) -> epath.Path:
    """The table that goes with a zip. ValueError for a path that does not end in .zip."""
    target = files.absolute(path)
    if target.suffix.lower() != ".zip":
        raise ValueError(f"{target} must end in .zip; its table goes beside it as .csv")
    return target.with_suffix(".csv")
