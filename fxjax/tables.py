"""The one reader of tables: CSV files as spreadsheets of all systems save them."""

import codecs
import collections
import csv
import io
import re
import unicodedata

from etils import epath

from fxjax import files

_BOMS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark begins it
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_SEPARATORS = ",;\t"


class Row(dict[str, str]):
    """A row's cells by column, NFC and without spaces around them; "" where one is blank.

    `source` is the file, `number` the row as spreadsheets count, from 1: the first line is 1.
    """

    def __init__(self, cells: dict[str, str], source: epath.Path, number: int, comma: bool):
        super().__init__(cells)
        self.source, self.number, self._comma = source, number, comma

    def error(self, column: str, what: str) -> ValueError:
        """An error that names the file, the row and the column."""
        return ValueError(f"{self.source}: row {self.number}, column {column}: {what}")

    def filled(self, column: str) -> str:
        """The cell's text. Raises ValueError if it is blank or not there."""
        if column not in self:
            raise ValueError(f"{self.source}: no column {column}; it has {', '.join(self)}")
        if not self[column]:
            raise self.error(column, "the cell is blank; fill it in or take the row out")
        return self[column]

    def float(self, column: str) -> float:
        """The cell as a number, with a decimal comma where ";" parts cells. Raises ValueError."""
        text = self.filled(column)
        try:
            return float(text if self._comma else text.replace(",", "."))
        except ValueError:
            raise self.error(column, f"{text[:40]!r} is no number") from None


def read(path: epath.PathLike) -> list[Row]:
    """The rows of a CSV file whose first line names the columns; blank rows are left out.

    Cells are parted by commas, semicolons or tabs, whichever the first line has most of; a line
    such as `sep=;` before it says so. The text is UTF-8, or what its byte order mark says.
    Columns without a name are left out. Raises FileNotFoundError, or ValueError with the file, row
    and column: no text, a column named twice, or a row with more cells than there are names.
    """
    source = files.absolute(path)
    if not source.exists() or source.is_dir():
        raise FileNotFoundError(f"no table {source}")
    lines = text(source)
    said = re.match(r"sep=(.)\r?\n", lines)
    first = lines[said.end() if said else 0 :].partition("\n")[0]
    bare = re.sub(r'"[^"]*"', "", first)
    separator = said[1] if said else max(_SEPARATORS, key=bare.count)
    reader = csv.reader(io.StringIO(lines, newline=""), delimiter=separator)
    names: list[str] | None = None
    rows, number = [], 0
    try:
        for number, raw in enumerate(reader, start=1):
            cells = [unicodedata.normalize("NFC", cell.strip()) for cell in raw]
            if not any(cells) or (said and number == 1):
                continue
            if names is None:
                names = cells
                _refuse_repeated(source, number, names)
                continue
            if more := [place for place in range(len(names), len(cells)) if cells[place]]:
                raise ValueError(
                    f"{source}: row {number}, column {more[0] + 1}: {cells[more[0]][:40]!r} is "
                    f"beyond the {len(names)} columns that the first line names; put quotes around "
                    f"cells that hold {'a tab' if separator == chr(9) else separator!r}"
                )
            cells += [""] * (len(names) - len(cells))
            named = {name: cell for name, cell in zip(names, cells, strict=False) if name}
            rows.append(Row(named, source, number, separator == ","))
    except csv.Error as error:
        raise ValueError(f"{source}: row {number + 1} is no CSV: {error}") from None
    return rows


def text(source: epath.Path) -> str:
    """A file's text: UTF-8, or what its byte order mark says. Raises ValueError with the line."""
    data = source.read_bytes()
    if data.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise ValueError(f"{source} is a workbook or an archive; save it as CSV UTF-8")
    encoding = next((name for mark, name in _BOMS.items() if data.startswith(mark)), "utf-8")
    try:
        found = data.decode(encoding)
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line = before.count(b"\n") + 1
        cell = max(before.rpartition(b"\n")[2].count(mark.encode()) for mark in _SEPARATORS) + 1
        raise ValueError(
            f"{source}: row {line}, column {cell}: it is not {encoding.upper()}; "
            "save it as CSV UTF-8"
        ) from None
    if "\0" in found:
        raise ValueError(
            f"{source}: row {found[: found.index(chr(0))].count(chr(10)) + 1} holds zero bytes: no "
            "text, or UTF-16 without its byte order mark; save it as CSV UTF-8"
        )
    return found


def _refuse_repeated(source: epath.Path, number: int, names: list[str]) -> None:
    name, count = collections.Counter(name for name in names if name).most_common(1)[0]
    if count > 1:
        raise ValueError(f"{source}: row {number}, column {name}: {count} columns have this name")
