"""Ctrl-C and SIGTERM during a training: one asks it to stop after the step, a Ctrl-C after that stops it."""

import signal
import threading
from types import FrameType, TracebackType

HANGUP = getattr(signal, "SIGHUP", None)
"""The signal of a closed terminal; Windows has none."""

STOPPING = tuple(signal.Signals(number) for number in (signal.SIGINT, signal.SIGTERM, HANGUP) if number)


class StopRequest:
    """A context in which SIGINT and SIGTERM are noted instead of ending the process.

    One that the process was told to ignore, as SIGINT of what a script starts in the background, stays so.
    Outside the main thread, where Python allows no handlers, it does nothing.

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
