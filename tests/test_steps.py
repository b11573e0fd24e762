"""What is said while a long job runs."""

import io
import math
import time

import pytest

from fxjax import steps


class Terminal(io.StringIO):
    """Takes text as a terminal does."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the time is: the last of these seconds."""
    now = [0.0]
    monkeypatch.setattr(steps.time, "monotonic", lambda: now[-1])
    return now


def test_time_left_leaves_out_the_first_part_which_compiles(clock: list[float]) -> None:
    shown = steps.Steps(io.StringIO())
    shown("masks", 0.0)
    assert shown.text() == "masks: 0%, 0 s"
    clock.append(60.0)  # the first tenth: a minute, of which most is compilation
    shown("masks", 0.1)
    assert shown.text() == "masks: 10%, 60 s, about 9 min left"
    clock.append(70.0)
    shown("masks", 0.2)
    assert shown.text() == "masks: 20%, 70 s, about 80 s left"
    clock.append(75.0)
    assert shown.text() == "masks: 20%, 75 s, about 75 s left"
    clock.append(1e6)
    assert shown.text().endswith("about 0 s left")
    shown("masks", 1.0)
    assert shown.text() == "masks: 100%, 1000000 s"


def test_a_note_stands_behind_the_times(clock: list[float]) -> None:
    shown = steps.Steps(io.StringIO())
    shown("pairs", 0.25)
    shown.note = "ann__bob: refinement 50%"
    assert shown.text() == "pairs: 25%, 0 s, about 0 s left; ann__bob: refinement 50%"


def test_hours_are_hours(clock: list[float]) -> None:
    shown = steps.Steps(io.StringIO())
    shown("masks", 0.0)
    clock.append(36.0)
    shown("masks", 0.001)
    assert shown.text() == "masks: 0%, 36 s, about 10.0 h left"


def test_a_log_gets_lines_while_nothing_is_told() -> None:
    log = io.StringIO()
    with steps.Steps(log, every=0.01) as shown:
        shown("inversion", 0.0)
        deadline = time.monotonic() + 60
        while log.getvalue().count("\n") < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        shown("masks", 0.0)
    lines = log.getvalue().splitlines()
    assert len(lines) >= 5
    assert all(line.startswith("inversion: 0%, ") for line in lines[:4])
    assert lines[-1].startswith("masks: 0%, ")
    assert not shown.thread.is_alive()


def test_a_terminal_has_one_line_that_goes() -> None:
    terminal = Terminal()
    with steps.Steps(terminal) as shown:
        shown("inversion", 0.5)
        assert "\n" not in terminal.getvalue()
        shown.say("a line that stays")
    assert "\x1b[Ka line that stays\n" in terminal.getvalue()
    assert "\r\x1b[Kinversion: 50%, " in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[K")


def test_no_log_waits_longer_than_five_seconds() -> None:
    assert steps.Steps(io.StringIO()).every <= 5
    assert steps.Steps(Terminal()).every <= 1


def test_the_clock_stops_with_an_error() -> None:
    shown = steps.Steps(io.StringIO(), every=0.01)
    with pytest.raises(ValueError, match="broken"), shown:
        raise ValueError("broken")
    assert not shown.thread.is_alive()


def test_items_come_through(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(steps.each("abc", "letters")) == ["a", "b", "c"]
    assert list(steps.each(iter("abc"), "letters", 3)) == ["a", "b", "c"]
    assert list(steps.each([], "letters")) == []
    assert capsys.readouterr().err.splitlines() == ["letters: 0%, 0 s"] * 2


def test_long_steps_also_say_counts_and_leave_out_what_was_done_before(clock: list[float]) -> None:
    with steps.Counted("invert", 10, "images", Terminal()) as shown:
        shown.move(4.0, math.nan)
        clock.append(50.0)
        shown.move(1.0, 0.5)  # the first part compiles
        clock.append(60.0)
        shown.move(2.0, 0.25)
        said = shown.text()
    assert said == (
        "invert: 50%, 60 s, about 15 s left; 7.0 of 10 images, 0.05 images/s, loss 0.25"
    )
