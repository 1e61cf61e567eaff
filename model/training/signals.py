"""Requests to stop training: SIGTERM and SIGUSR1 (preemption), SIGINT (Ctrl-C); to any process, for all."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import jax
import jax.numpy as jnp
import numpy as np

from model.devices import Devices

STOPPING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


@dataclass
class StopRequest:
    """The signal that asked training to stop, or `None` until there is one."""

    signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None


class SharedStop:
    """The request that the processes which train together follow, all at the same step.

    In each step every process says what it was asked (`say`), and a few steps later, when the devices have
    compared it, hears the same answer as the others (`hear`). A process alone follows its own request.
    """

    def __init__(self, own: StopRequest, devices: Devices):
        self._own = own
        self._devices = devices
        self._agreed = StopRequest()
        self._largest = jax.jit(jnp.max, out_shardings=devices.replicated)
        self._said: tuple[int, jax.Array] | None = None

    @property
    def signal(self) -> signal.Signals | None:
        return (self._own if self._devices.hosts == 1 else self._agreed).signal

    def __bool__(self) -> bool:
        return self.signal is not None

    def say(self) -> jax.Array | None:
        """Start comparing; all processes call this once in every step."""
        if self._devices.hosts == 1:
            return None
        number = int(self._own.signal or 0)
        if self._said is None or self._said[0] != number:
            own = np.full(self._devices.count // self._devices.hosts, number, np.int32)
            with jax.transfer_guard("allow"):
                self._said = (
                    number,
                    jax.make_array_from_process_local_data(self._devices.by_row, own),
                )
        answer: jax.Array = self._largest(self._said[1])
        return answer

    def hear(self, answer: jax.Array | None) -> None:
        """Follow what was said in the step of this answer; waits for it."""
        number = 0 if answer is None else int(jax.device_get(answer))
        if number:
            self._agreed.signal = signal.Signals(number)


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Record a signal of `STOPPING` instead of dying from it; Ctrl-C after that interrupts at once.

    Outside the main thread, where Python cannot set signal handlers, no request ever arrives.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(number: int, frame: FrameType | None) -> None:
        if request and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.signal = signal.Signals(number)

    before = {number: signal.signal(number, note) for number in STOPPING}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
