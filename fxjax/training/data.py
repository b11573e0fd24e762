"""Training pictures: a folder or zip of images in memory, their weights, and who is held back.

`write_zip` makes such a zip of JPEGs, with its table beside it.
"""

import collections
import contextlib
import hashlib
import io
import math
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import cv2
import numpy as np
from etils import epath
from jaxtyping import Float

from fxjax import files, images, tables
from fxjax.types import AnyPhoto, Photos

LARGEST = 2**26  # bytes of one picture file, unpacked
HELD_BACK = {"base": 100, "manipulated": 3}  # people of each kind that are never trained on
KIND_WEIGHTS = {"base": 1.0, "manipulated": 1 / 6}


def read_pictures(path: epath.PathLike, size: int) -> tuple[Photos, list[str]]:
    """All pictures below a folder or in a zip, by name, and their names (without folders).

    They must be squares of one size: `size`, or that times a power of two, which is averaged
    down. Nothing is unpacked to disk; what systems put beside pictures (`__MACOSX`, hidden files)
    is left out. Raises FileNotFoundError, or ValueError naming the picture that cannot be read,
    the sizes found, or that there are none.
    """
    source = files.absolute(path)
    if not source.exists():
        raise FileNotFoundError(f"no folder or zip of pictures at {source}")
    pictures, names, sizes = [], [], collections.Counter()
    for name, encoded in _folder(source) if source.is_dir() else _zip(source):
        picture = images.decode(encoded, f"{source}: {name}")
        height, width = picture.shape[:2]
        sizes[f"{width}x{height}"] += 1
        if len(sizes) == 1:
            fits = width == height and width >= size and width % size == 0
            if not fits or (width // size).bit_count() != 1:
                raise ValueError(
                    f"{source}: {name} is {width}x{height}; wanted squares of {size} pixels, "
                    "or of that times a power of two"
                )
            pictures.append(cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA))
            names.append(_bare(name))
    if len(sizes) > 1:
        found = ", ".join(f"{count} of {size}" for size, count in sizes.most_common(6))
        raise ValueError(
            f"{source} holds pictures of mixed sizes: {found}; give pictures of one size"
        )
    if not pictures:
        raise ValueError(_none_in(source))
    return np.stack(pictures), names


def picture_names(path: epath.PathLike) -> list[str]:
    """The names that `read_pictures` would return, without reading the pictures.

    Raises FileNotFoundError, or ValueError if there are none, or it is neither a folder nor a zip.
    """
    source = files.absolute(path)
    if not source.exists():
        raise FileNotFoundError(f"no folder or zip of pictures at {source}")
    if source.is_dir():
        found = [_bare(picture.name) for picture in _pictures(source)]
    else:
        with _opened(source) as archive:
            found = [_bare(name) for name, _ in _members(archive)]
    if not found:
        raise ValueError(_none_in(source))
    return found


def read_weights(path: epath.PathLike, names: Sequence[str]) -> Float[np.ndarray, " count"]:
    """How often each named picture is to be shown, relative to others; 0: never, it is held back.

    Reads a table with a column `filename`. A column `training_weight` is taken as it is; else
    `kind` and `source_id` give base pictures 1 and manipulated ones 1/6 (they show few people),
    and the pictures of held-back people 0. Raises ValueError for other tables, for cells that are
    blank or no weights, for pictures that are not listed, and for names that stand for several.
    """
    rows = read_table(path)
    refuse_repeated(names, "pictures")
    if "training_weight" in rows[0]:
        weights = {row["filename"]: _weight(row) for row in rows}
    elif {"kind", "source_id"} <= rows[0].keys():
        kept_apart = held_back_rows(rows)
        weights = {
            row["filename"]: 0.0 if apart else KIND_WEIGHTS[row["kind"]]
            for row, apart in zip(rows, kept_apart, strict=True)
        }
    else:
        raise ValueError(
            f"{path} has neither a column training_weight nor the columns kind and source_id"
        )
    if missing := [name for name in names if name not in weights]:
        raise ValueError(f"{path} lacks {len(missing)} of the pictures, the first is {missing[0]}")
    found = np.asarray([weights[name] for name in names], np.float32)
    if found.max() <= 0:
        raise ValueError(f"{path}: weights must be 0 or more, and some above 0")
    return found


def _weight(row: tables.Row) -> float:
    weight = row.float("training_weight")
    if weight < 0 or not math.isfinite(weight):
        raise row.error("training_weight", f"a weight of {weight:g}; want 0 or more")
    return weight


def read_table(path: epath.PathLike) -> list[tables.Row]:
    """The rows of a CSV file with a column `filename`, a row for each.

    Raises ValueError if it is something else, or has no name in a row, or several rows for a file.
    """
    rows = tables.read(path, "filename")
    refuse_repeated([row.filled("filename") for row in rows], f"rows of {files.absolute(path)}")
    return rows


def refuse_repeated(names: Sequence[str], what: str) -> None:
    """ValueError if a name comes twice: tables find pictures by their names without folders."""
    name, count = collections.Counter(names).most_common(1)[0] if names else ("", 0)
    if count > 1:
        raise ValueError(
            f"{count} {what} are named {name}; a table finds pictures by their names without "
            "folders: give each its own"
        )


def held_back(source_ids: Iterable[str], count: int) -> frozenset[str]:
    """The `count` people who are never trained on: always the same ones, whatever the order."""

    def shuffled(source_id: str) -> str:
        return hashlib.sha256(f"held back {source_id}".encode()).hexdigest()

    return frozenset(sorted(set(source_ids), key=shuffled)[:count])


def held_back_rows(rows: Sequence[dict[str, str]]) -> list[bool]:
    """For each row of a table with `kind` and `source_id`: is it of a held-back person?"""
    for row in rows:
        if row["kind"] not in HELD_BACK:
            what = f"unknown kind {row['kind']!r}; known are {', '.join(HELD_BACK)}"
            raise row.error("kind", what) if isinstance(row, tables.Row) else ValueError(what)
    apart = {
        kind: held_back((row["source_id"] for row in rows if row["kind"] == kind), count)
        for kind, count in HELD_BACK.items()
    }
    return [row["source_id"] in apart[row["kind"]] for row in rows]


def _none_in(source: epath.Path) -> str:
    return f"{source} holds no pictures ({', '.join(images.ENDINGS)})"


def _pictures(folder: epath.Path, seen: set[str] | None = None) -> Iterator[epath.Path]:
    seen = set() if seen is None else seen
    if not files.first_time(folder, seen):
        return
    for path in sorted(folder.iterdir()):  # etils' walk loses the gs://
        if _beside(path.name):
            continue
        if path.is_dir():
            yield from _pictures(path, seen)
        elif path.suffix.lower() in images.ENDINGS:
            yield path


def _beside(name: str) -> bool:
    """Whether systems put a file or folder of this name beside pictures: `__MACOSX`, `._1.png`."""
    return name.startswith(".") or name == "__MACOSX"


def _bare(name: str) -> str:
    """A picture's name without folders, with its accents as tables have them."""
    return unicodedata.normalize("NFC", name.rsplit("/", 1)[-1])


def _folder(source: epath.Path) -> Iterator[tuple[str, bytes]]:
    for path in _pictures(source):
        if path.stat().length > LARGEST:
            raise ValueError(f"{path} is larger than {LARGEST >> 20} MiB")
        yield path.name, path.read_bytes()


@contextlib.contextmanager
def _opened(source: epath.Path) -> Iterator[zipfile.ZipFile]:
    with source.open("rb") as file:
        try:
            archive = zipfile.ZipFile(file)
        except zipfile.BadZipFile as error:
            raise ValueError(f"{source} is neither a folder nor a zip ({error})") from error
        yield archive


def _members(archive: zipfile.ZipFile) -> list[tuple[str, zipfile.ZipInfo]]:
    """The pictures by name, with "/" between folders whichever system packed them."""
    found = []
    for member in archive.infolist():
        name = member.filename
        if not member.flag_bits & 0x800:  # not said to be UTF-8, which macOS writes all the same
            with contextlib.suppress(UnicodeError):
                name = name.encode("cp437").decode()
        name = name.replace("\\", "/")
        skipped = any(_beside(part) for part in name.split("/") if part not in (".", ".."))
        if name.lower().endswith(images.ENDINGS) and not skipped:
            found.append((name, member))
    return sorted(found, key=lambda each: each[0])


def _zip(source: epath.Path) -> Iterator[tuple[str, bytes]]:
    with _opened(source) as archive:
        for name, member in _members(archive):
            try:
                with archive.open(member) as opened:
                    encoded = opened.read(LARGEST + 1)  # a header may lie about the size
            except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
                # RuntimeError: encrypted, or (NotImplementedError) an unknown compression
                raise ValueError(f"{source}: cannot read {name} ({error})") from error
            if len(encoded) > LARGEST:
                raise ValueError(f"{source}: {name} unpacks to more than {LARGEST >> 20} MiB")
            yield name, encoded


def write_zip(
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
