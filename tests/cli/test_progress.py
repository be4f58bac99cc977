from __future__ import annotations

import io
import sys
import time

import pytest

from graphopt.cli._progress import ProgressLine


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def wait_for(condition, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_quick_work_says_nothing(capsys):
    with ProgressLine(delay=10) as progress:
        for done in range(100):
            progress("fold-constants", done, 100)
    assert capsys.readouterr() == ("", "")


def test_slow_work_says_each_stage_once_in_plain_lines(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with ProgressLine(delay=0.01) as progress:
        progress("passes", 1, 3)
        wait_for(stream.getvalue)
        progress("passes", 2, 3)
        progress("verify", 0, 0)
    assert stream.getvalue() == "graphopt: passes (1 of 3)\ngraphopt: verify\n"


def test_slow_work_without_any_call_back_still_appears(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with ProgressLine(delay=0.01):
        wait_for(stream.getvalue)
    assert stream.getvalue() == "graphopt: starting\n"


def test_quiet_never_speaks(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with ProgressLine(quiet=True, delay=0.0) as progress:
        time.sleep(0.05)
        progress("verify", 1, 2)
    assert stream.getvalue() == ""


def test_a_terminal_gets_a_bar_that_goes_away(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    with ProgressLine(delay=0.01) as progress:
        progress("verify [1]", 1, 4)
        wait_for(lambda: "1/4" in stream.getvalue())
        assert "verify [1]" in stream.getvalue()
    assert stream.getvalue().endswith("\x1b[2K")  # the line is wiped


def test_errors_pass_through_and_stop_the_timer():
    with pytest.raises(ZeroDivisionError), ProgressLine() as progress:
        progress("x", 1 // 0, 1)
    assert not progress._timer.is_alive() or progress._timer.finished.is_set()
