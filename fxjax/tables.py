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
_SAID = re.compile(r'\s*"?sep=([^\r\n"])[",;\t ]*(?:\r\n?|\n|$)', re.IGNORECASE)
_BREAK = re.compile(r"\r\n?|\n")


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
        """The cell as a number; a comma is the decimal one unless it parts cells.

        Raises ValueError, also for 1,000, which may be meant as one or as a thousand.
        """
        text = self.filled(column)
        if re.fullmatch(r"[+-]?[1-9]\d{0,2},\d{3}", text) and not self._comma:
            whole, decimal = text.replace(",", ""), text.replace(",", ".")
            raise self.error(column, f"{text!r} may be {whole} or {decimal}: write one of these")
        try:
            return float(text if self._comma else text.replace(",", "."))
        except ValueError:
            hint = "; write it like 1234.5" if re.search(r"\d[,.' ]\d", text) else ""
            raise self.error(column, f"{text[:40]!r} is no number{hint}") from None


def read(path: epath.PathLike, *wanted: str) -> list[Row]:
    """The rows of a CSV file whose first line names the columns; blank rows are left out.

    Cells are parted by commas, semicolons or tabs, whichever the first line has most of; a line
    such as `sep=;` before it says so. The text is UTF-8, or what its byte order mark says.
    Columns without a name are left out. Raises FileNotFoundError, or ValueError with the file, row
    and column: no text, no columns, one named twice, a row with more cells than there are names;
    if columns are `wanted`, also where one is not there or there are no rows.
    """
    source = files.absolute(path)
    if not source.exists() or source.is_dir():
        raise FileNotFoundError(f"no table {source}")
    lines = text(source)
    said = _SAID.match(lines)
    skipped = len(_BREAK.findall(said[0])) if said else 0
    first = next((line for line in _BREAK.split(lines) if line.strip(f'{_SEPARATORS}" ')), lines)
    bare = re.sub(r'"[^"]*"', "", first)
    separator = said[1] if said else max(_SEPARATORS, key=bare.count)
    reader = csv.reader(io.StringIO(lines, newline=""), delimiter=separator)
    names: list[str] | None = None
    rows, number = [], 0
    try:
        for number, raw in enumerate(reader, start=1):
            cells = [unicodedata.normalize("NFC", cell.strip()) for cell in raw]
            if not any(cells) or number <= skipped:
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
    if names is None:
        raise ValueError(f"{source} is empty; its first line must name the columns")
    came = ", ".join(name for name in names if name)
    if missing := [name for name in wanted if name not in names]:
        raise ValueError(
            f"{source} has no column {', '.join(missing)}; its first line names {came}"
        )
    if wanted and not rows:
        raise ValueError(f"{source} has no rows below its first line, which names {came}")
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
