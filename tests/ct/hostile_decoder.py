"""A decoding process whose decoder does what the first argument says, from the second frame on."""

import importlib.util
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from ct import frame_decoder

_decode = frame_decoder.decode
_frames = 0


def _crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _allocate() -> None:
    """Memory without bound, and touched."""
    held = []
    while True:
        held.append(np.ones(2**24, np.uint8))


def _loop() -> None:
    """In C code that never comes back to the interpreter."""
    sum(iter(int, 1))


def _sleep() -> None:
    while True:
        time.sleep(1000)


def _write() -> None:
    """A decoder has no business in files."""
    Path(sys.argv[2]).write_bytes(bytes(4096))


def _exit() -> None:
    os._exit(3)


def _killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _silent() -> None:
    os.close(1)
    time.sleep(1000)


def hostile(data: bytes, frame: frame_decoder.Frame) -> Any:
    global _frames
    _frames += 1
    if _frames == 2:
        globals()[f"_{sys.argv[1]}"]()
    return _decode(data, frame)


def other_size(_: bytes, frame: frame_decoder.Frame) -> Any:
    """More pixels than there are."""
    return np.zeros((frame.rows, frame.columns + 1), np.uint16)


if __name__ == "__main__":
    if sys.argv[1] == "pyjpegls":
        assert importlib.util.find_spec("jpeg_ls"), "pyjpegls is not installed"
        import jpeg_ls

        frame_decoder._codestream_shape = lambda _: None
        frame_decoder.decode = lambda data, _: jpeg_ls.decode_from_buffer(frame_decoder.get_frame(data, 0))
    else:
        frame_decoder.decode = other_size if sys.argv[1] == "other_size" else hostile
    frame_decoder.main()
