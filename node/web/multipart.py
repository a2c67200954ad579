"""multipart/related (RFC 2387), as DICOMweb sends objects, part by part as the bytes come; nothing is held whole."""

from collections.abc import Callable, Mapping
from typing import Protocol

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

_LONGEST_HEADERS = 16384
"""Bytes of the headers of one part."""


class MultipartError(ValueError):
    """It is no multipart message, or it breaks off. The text is constant."""


class Part(Protocol):
    """Takes one part."""

    def write(self, piece: memoryview) -> None:
        """The next bytes; they may not be kept."""

    def end(self) -> None:
        """The part is whole."""


def media_type(content_type: str) -> tuple[str, dict[str, str]]:
    """A Content-Type: the type in lower case, and its parameters (names in lower case)."""
    kind, options = parse_options_header(content_type.encode("latin-1", "replace"))
    parameters = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in options.items()}
    return kind.decode("latin-1").lower(), parameters


class MultipartReader:
    """Any number of `write`, then `end`."""

    def __init__(self, content_type: str, begin: Callable[[Mapping[str, str]], Part]) -> None:
        """`begin` gets the headers of each part (names in lower case). Raises MultipartError for another type."""
        kind, parameters = media_type(content_type)
        if kind != "multipart/related" or not parameters.get("boundary"):
            raise MultipartError("not multipart/related with a boundary")
        self._begin = begin
        self._headers: dict[str, str] = {}
        self._name, self._value, self._length = b"", b"", 0
        self._part: Part | None = None
        self._ended = False
        try:
            self._parser = MultipartParser(
                parameters["boundary"].encode("latin-1"),
                {
                    "on_part_begin": self._on_part,
                    "on_header_field": self._on_name,
                    "on_header_value": self._on_value,
                    "on_header_end": self._on_header,
                    "on_headers_finished": self._on_headers,
                    "on_part_data": self._on_data,
                    "on_part_end": self._on_part_end,
                    "on_end": self._on_end,
                },
            )
        except FormParserError as error:
            raise MultipartError("its boundary is none") from error

    def write(self, piece: bytes) -> None:
        """The next bytes of the message. Raises MultipartError, and whatever a part raises."""
        try:
            self._parser.write(piece)
        except FormParserError as error:
            raise MultipartError("it breaks the rules of multipart, or its boundary is another one") from error

    def end(self) -> None:
        """No more comes. Raises MultipartError if the message is not whole."""
        if not self._ended:
            raise MultipartError("it breaks off before its last boundary")

    def _on_part(self) -> None:
        self._headers, self._length = {}, 0
        self._name = self._value = b""

    def _on_name(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._name += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._value += data[start:end]

    def _count(self, length: int) -> None:
        self._length += length
        if self._length > _LONGEST_HEADERS:
            raise MultipartError("the headers of a part are too long")

    def _on_header(self) -> None:
        self._headers[self._name.decode("latin-1").lower()] = self._value.decode("latin-1").strip()
        self._name = self._value = b""

    def _on_headers(self) -> None:
        self._part = self._begin(self._headers)

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._part is not None and end > start:
            self._part.write(memoryview(data)[start:end])

    def _on_part_end(self) -> None:
        if self._part is not None:
            part, self._part = self._part, None
            part.end()

    def _on_end(self) -> None:
        self._ended = True
