"""What the page asks for, checked: nothing from outside is a path, and every number has a range."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

PARTS = ("mouth", "eyes", "brows")
RANGES = {
    "strength": (0.0, 1.5),
    "weight": (0.0, 10.0),
    "steps": (1, 1000),
    "tuning": (0, 1000),
    "refine": (0, 1000),
}
QUICK = {"steps": 40, "tuning": 20, "refine": 20, "rows": "2-7"}
FULL = {"steps": 40, "tuning": 30, "refine": 40, "rows": "auto"}  # as transfer_types.Settings


@dataclasses.dataclass(frozen=True)
class Wish:
    """A transfer as the page can ask for it. Faces are numbers from the left, from 0, or `all`."""

    face: str = "0"
    driver_face: str = "0"
    parts: tuple[str, ...] = ("mouth",)
    quick: bool = True
    strength: float = 1.0
    weight: float = 1.0
    steps: int = QUICK["steps"]
    tuning: int = QUICK["tuning"]
    refine: int = QUICK["refine"]
    keep_pose: bool = False
    covered: bool = False

    @property
    def rows(self) -> str:
        """The rows that are searched, as the command writes them."""
        return (QUICK if self.quick else FULL)["rows"]

    def command(self, folder: str, model: str) -> str:
        """The command line that does the same with the photos in a folder."""
        flags = {
            "appearance": f"{folder}/person.png",
            "expression": f"{folder}/driver.png",
            "out": "runs/transfer",
            "model": model,
            "face": self.face,
            "driver_face": self.driver_face,
            "parts": ",".join(self.parts),
            "strength": f"{self.strength:g}",
            "weight": f"{self.weight:g}",
            "rows": self.rows,
            "steps": self.steps,
            "tuning": self.tuning,
            "refine": self.refine,
        }
        words = [f"--{name}={quoted(str(value))}" for name, value in flags.items()]
        words += [f"--{name}" for name in ("keep_pose", "covered") if getattr(self, name)]
        return " ".join(["python -m experiments.transfer", *words])


def read(body: Any) -> Wish:
    """A wish from JSON. ValueError with one line for what is unknown or out of range."""
    entries = body if isinstance(body, Mapping) else {}
    known = {field.name: field for field in dataclasses.fields(Wish)}
    if unknown := sorted(map(str, entries.keys() - known.keys())):
        raise ValueError(f"unknown settings: {', '.join(unknown)[:100]}")
    quick = entries.get("quick", True)
    values: dict[str, Any] = dict(QUICK if quick else FULL)
    values.pop("rows")
    for name, value in entries.items():
        kind = type(known[name].default)
        if kind is float and type(value) is int:
            value = float(value)
        if name == "parts":
            value = tuple(value) if isinstance(value, list) else ()
            if not value or not set(value) <= set(PARTS):
                raise ValueError(f"choose what changes: some of {', '.join(PARTS)}")
            value = tuple(part for part in PARTS if part in value)
        elif type(value) is not kind:
            raise ValueError(f"{name}: want {kind.__name__}")
        if name in RANGES and not RANGES[name][0] <= value <= RANGES[name][1]:
            raise ValueError(f"{name}: want {RANGES[name][0]} to {RANGES[name][1]}")
        if name.endswith("face") and not re.fullmatch(r"\d{1,3}", str(value)):
            if (name, value) != ("face", "all"):
                raise ValueError(f"{name}: want the number of a face")
        values[name] = value
    return Wish(**values)


def quoted(text: str) -> str:
    """A word for a shell."""
    return text if re.fullmatch(r"[\w./:,+-]+", text) else "'" + text.replace("'", "'\\''") + "'"
