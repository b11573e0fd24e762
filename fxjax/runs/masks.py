"""Masks and rows as people write them on a command line."""

import re

from fxjax.codes import mix


def read_mask(text: str | None) -> tuple[bool, ...] | None:
    """0s and 1s, row 0 first (ValueError for anything else)."""
    if text is None:
        return None
    if not re.fullmatch("[01]+", text):
        raise ValueError(f"--mask={text}: want 0s and 1s, one for each row, row 0 first")
    return tuple(digit == "1" for digit in text)


def read_rows(text: str) -> mix.Groups | None:
    """Groups of rows from a list such as 0-2,5,6+7, where + ties rows to one bit; None for all."""
    if text == "all":
        return None
    groups: list[tuple[int, ...]] = []
    for part in text.split(","):
        if span := re.fullmatch(r"(\d+)-(\d+)", part):
            first, last = int(span[1]), int(span[2])
            if first > last:
                raise ValueError(f"--rows={text}: {part} runs backwards; want {last}-{first}")
            groups += [(row,) for row in range(first, last + 1)]
        elif re.fullmatch(r"\d+(\+\d+)*", part):
            groups.append(tuple(int(row) for row in part.split("+")))
        else:
            raise ValueError(f"--rows={text}: want all, or rows such as 0-2,5,6+7")
    return tuple(groups)
