"""Compressed pixel data is decoded in a child process, one for a series (`ct.frame_decoder`): whatever the bytes do to
a decoder - a crash, an endless loop, memory without bound - ends that process and is told as `Unfit`.

The child gets no more than it needs, and what it says is checked: a length at a time, never more than a frame.
"""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Sequence

import numpy as np
import numpy.typing as npt

from config import Reason
from ct import frame_decoder
from ct.frame_decoder import ANSWER, LONGEST_ERROR, READY, Frame, Limits
from ct.part10 import Unfit

COMMAND = (sys.executable, "-P", frame_decoder.__file__)
"""The decoding process. `-P`: the folder of the script is no place to import from."""
SILENCE_S = 120.0
"""Longest wait for the next frame, seconds; the child's limit of processor time comes first unless it sleeps."""
_BASE_MEMORY, _PIXEL_MEMORY = 256 * 2**20, 32
"""Bytes of address space for a frame, and more for each of its pixels (a JPEG 2000 decoder holds some 20)."""
_BASE_CPU_S, _PIXEL_CPU_S = 4, 1e-6
"""Seconds of processor time for a series, and more for each pixel (JPEG 2000 takes 1e-7 on a slow core)."""
_FROM_OUTSIDE = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})
"""Signals that no decoder raises: an operator, the system's shutdown or its out-of-memory killer."""


def limits_for(frames: Sequence[Frame]) -> Limits:
    """What the decoding of these frames may use."""
    pixels = [frame.rows * frame.columns for frame in frames]
    return Limits(
        memory_bytes=_BASE_MEMORY + _PIXEL_MEMORY * max(pixels),
        cpu_s=_BASE_CPU_S + int(_PIXEL_CPU_S * sum(pixels)),
    )


def decode_frames(frames: Sequence[Frame]) -> Generator[npt.NDArray[np.uint16]]:
    """[rows, columns] of each frame in turn, as 16-bit words; the child ends with the iterator.

    Raises `Unfit`: UNDECODABLE; INTERNAL if the child cannot be started or somebody else ended it.
    """
    limits = limits_for(frames)
    try:
        child = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,  # Ctrl-C at the terminal is for the worker, which ends its series first
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )
    except OSError as error:
        raise Unfit(Reason.INTERNAL, f"no decoding process can be started: {error.strerror}") from error
    try:
        yield from _Conversation(child, limits).frames(frames)
    finally:
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()


class _Conversation:
    """With one child, from its order to its last frame."""

    def __init__(self, child: subprocess.Popen[bytes], limits: Limits) -> None:
        assert child.stdin is not None
        assert child.stdout is not None
        self._child, self._limits = child, limits
        self._order, self._answers = child.stdin, child.stdout.fileno()
        self._poll = select.poll()
        self._poll.register(self._answers, select.POLLIN)
        self._ready = False

    def frames(self, frames: Sequence[Frame]) -> Generator[npt.NDArray[np.uint16]]:
        try:
            rest = memoryview(frame_decoder.encode_order(self._limits, list(frames)))
            while rest:
                rest = rest[self._order.write(rest) :]
            self._order.close()
        except BrokenPipeError:
            raise self._ended() from None
        self._ready = self._read(1) == READY
        for frame in frames:
            good, length = ANSWER.unpack(self._read(ANSWER.size))
            if good:
                if length != 2 * frame.rows * frame.columns:
                    raise Unfit(Reason.UNDECODABLE, "the decoding process answers with a frame of another size")
                yield np.frombuffer(self._read(length), np.uint16).reshape(frame.rows, frame.columns)
            else:
                line = self._read(min(length, LONGEST_ERROR)).decode("ascii", "replace")
                raise Unfit(Reason.UNDECODABLE, "".join(c if c.isprintable() else "?" for c in line))

    def _read(self, size: int) -> bytearray:
        """Exactly `size` bytes."""
        data = bytearray(size)
        view, deadline = memoryview(data), time.monotonic() + SILENCE_S
        while view:
            if not self._poll.poll(1000 * max(0.0, deadline - time.monotonic())):
                raise Unfit(Reason.UNDECODABLE, f"a decoder gave no image within {SILENCE_S:g} s")
            count = os.readv(self._answers, [view])
            if count == 0:
                raise self._ended()
            view = view[count:]
        return data

    def _ended(self) -> Unfit:
        """The output has ended before its time: why."""
        try:
            status = self._child.wait(SILENCE_S)
        except subprocess.TimeoutExpired:  # it has closed its output and goes on
            return Unfit(Reason.UNDECODABLE, "the decoding process fell silent")
        if not self._ready or -status in _FROM_OUTSIDE:
            what = signal.Signals(-status).name if status < 0 else f"status {status}"
            return Unfit(Reason.INTERNAL, f"the decoding process was ended from outside or cannot run ({what})")
        if -status == signal.SIGXCPU:
            return Unfit(Reason.UNDECODABLE, f"a decoder took more than {self._limits.cpu_s} s of processor time")
        what = f"crashed ({signal.Signals(-status).name})" if status < 0 else f"ended the process (status {status})"
        return Unfit(Reason.UNDECODABLE, f"a decoder {what}")
