"""The signals that stop a command; a training stops after the step, or at once at a Ctrl-C after that."""

import signal
import threading
from types import FrameType, TracebackType

HANGUP = getattr(signal, "SIGHUP", None)
"""The signal of a closed terminal; Windows has none."""

STOPPING = tuple(signal.Signals(number) for number in (signal.SIGINT, signal.SIGTERM, HANGUP) if number)


def name(number: int) -> str:
    """Return what a user calls a signal."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


class StopRequest:
    """A context in which SIGINT, SIGTERM and SIGHUP are noted instead of ending the process.

    One that the process was told to ignore, as SIGHUP below nohup, stays ignored. Outside the main thread,
    where Python allows no handlers, it does nothing.

    Attributes:
        received: the signal's number, or None.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in STOPPING:
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number


class Stopped(SystemExit):
    """A signal ends the process as an error would, so that no temporary file is left behind."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


def stop_in_order() -> None:
    """Raise ``Stopped`` at SIGTERM and SIGHUP, unless the process was told to ignore or handle them."""

    def stop(number: int, _frame: FrameType | None) -> None:
        # timeout(1) sends it twice; the second must not interrupt the tidying up after the first.
        signal.signal(number, signal.SIG_IGN)
        raise Stopped(number)

    # Outside the main thread Python allows no handlers.
    if threading.current_thread() is threading.main_thread():
        for number in STOPPING:
            if signal.getsignal(number) == signal.SIG_DFL:
                signal.signal(number, stop)
