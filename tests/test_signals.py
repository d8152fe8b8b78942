"""Signals that stop a command, on systems that have them."""

import os
import signal

import pytest

from cifarcnn.machine import signals


@pytest.mark.parametrize("number", signals.STOPPING)
def test_a_stop_is_noted_and_the_handler_put_back(number: signal.Signals) -> None:
    """SIGHUP, the end of a terminal, is as good a reason as SIGTERM."""
    before = signal.getsignal(number)
    with signals.StopRequest() as stop:
        os.kill(os.getpid(), number)
        assert stop.received == number
    assert signal.getsignal(number) == before


def test_a_second_ctrl_c_stops_at_once() -> None:
    """Whatever came first."""
    with signals.StopRequest():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("number", signals.STOPPING)
def test_what_is_ignored_stays_ignored(number: signal.Signals) -> None:
    """As SIGHUP below nohup."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with signals.StopRequest() as stop:
            os.kill(os.getpid(), number)
        assert stop.received is None
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", [one for one in signals.STOPPING if one != signal.SIGINT])
def test_a_command_ends_as_by_an_error(number: signal.Signals) -> None:
    """Blocks are left in order, and the exit code names the signal."""
    before = {one: signal.signal(one, signal.SIG_DFL) for one in signals.STOPPING if one != signal.SIGINT}
    try:
        signals.stop_in_order()
        with pytest.raises(signals.Stopped) as stop:
            os.kill(os.getpid(), number)
        assert stop.value.code == 128 + number
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def test_names() -> None:
    """As a user calls them."""
    assert [signals.name(number) for number in (signal.SIGINT, signal.SIGTERM)] == ["Ctrl-C", "SIGTERM"]
