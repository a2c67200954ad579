"""DIMSE command sets (PS3.7 sections 6.3, 9.3, 10.3 and annex E): those the receiver reads, and its answers."""

import struct
from dataclasses import dataclass

C_STORE_RQ, C_ECHO_RQ, C_CANCEL_RQ = 0x0001, 0x0030, 0x0FFF
N_EVENT_REPORT_RQ, N_SET_RQ, N_ACTION_RQ, N_CREATE_RQ = 0x0100, 0x0120, 0x0130, 0x0140
"""Command Field (0000,0100)."""
RESPONSE = 0x8000
"""The bit of the Command Field that makes a response of a request."""

SUCCESS = 0x0000
CLASS_NOT_SUPPORTED = 0x0122
"""Status: SOP class not supported (PS3.7 C.4.2)."""
UNRECOGNIZED_OPERATION = 0x0211
"""Status: unrecognized operation (PS3.7 C.4.2)."""
NO_SUCH_INSTANCE, NO_SUCH_EVENT_TYPE, INVALID_ARGUMENT, CLASS_CONFLICT, NO_SUCH_ACTION, RESOURCE_LIMITATION = (
    0x0112, 0x0113, 0x0115, 0x0119, 0x0123, 0x0213,
)  # fmt: skip
"""Status of an N-ACTION or N-EVENT-REPORT (PS3.7 sections 10.1.4.1.10, 10.1.1.1.8 and annex C)."""
INVALID_VALUE, PROCESSING_FAILURE, DUPLICATE_INSTANCE, INVALID_INSTANCE, MISSING_ATTRIBUTE, MISSING_VALUE = (
    0x0106, 0x0110, 0x0111, 0x0117, 0x0120, 0x0121,
)  # fmt: skip
"""Status of an N-CREATE or N-SET beside those (PS3.7 sections 10.1.5.1.6, 10.1.3.1.9 and annex C)."""

_NO_DATA_SET, _DATA_SET = 0x0101, 0x0001
_CLASS, _FIELD, _MESSAGE_ID, _ANSWERED_ID, _DATA_SET_TYPE = 0x0002, 0x0100, 0x0110, 0x0120, 0x0800
_STATUS, _COMMENT, _ERROR_ID, _INSTANCE, _EVENT_TYPE, _ACTION_TYPE = 0x0900, 0x0902, 0x0903, 0x1000, 0x1002, 0x1008
_REQUESTED_CLASS, _REQUESTED_INSTANCE = 0x0003, 0x1001
_ELEMENT = struct.Struct("<HHI")
_LONGEST_UID = 64


class BadCommandError(ValueError):
    """The command set cannot be understood; there is nothing to answer to."""


@dataclass(frozen=True)
class Command:
    """What a request, or the response to one of ours, says. UIDs are as received, padding and all."""

    field: int
    """Command Field, for example `C_STORE_RQ`."""
    message_id: int
    sop_class: bytes
    """Affected (or requested) SOP Class UID; empty if there is none."""
    sop_instance: bytes
    """Affected (or requested) SOP Instance UID; empty if there is none."""
    has_data_set: bool
    type_id: int | None = None
    """Action or Event Type ID; None if there is none."""
    status: int | None = None
    """Status of a response; None if there is none."""


def parse_command(encoded: bytes | bytearray) -> Command:
    """Read a command set, Implicit VR Little Endian. Raises BadCommandError."""
    elements: dict[int, bytes] = {}
    at = 0
    while at < len(encoded):
        if at + _ELEMENT.size > len(encoded):
            raise BadCommandError("it ends within an element")
        group, number, length = _ELEMENT.unpack_from(encoded, at)
        at += _ELEMENT.size
        if group != 0 or length > len(encoded) - at:
            raise BadCommandError("an element is of another group or longer than the command set")
        elements[number] = bytes(encoded[at : at + length])
        at += length
    field = _number(elements, _FIELD)
    # A cancel request and a response name the request that they are about.
    about_another = field == C_CANCEL_RQ or (field & RESPONSE and _ANSWERED_ID in elements)
    command = Command(
        field=field,
        message_id=_number(elements, _ANSWERED_ID if about_another else _MESSAGE_ID),
        sop_class=elements.get(_CLASS) or elements.get(_REQUESTED_CLASS, b""),
        sop_instance=elements.get(_INSTANCE) or elements.get(_REQUESTED_INSTANCE, b""),
        has_data_set=_number(elements, _DATA_SET_TYPE) != _NO_DATA_SET,
        type_id=next((_number(elements, kind) for kind in (_ACTION_TYPE, _EVENT_TYPE) if kind in elements), None),
        status=_number(elements, _STATUS) if _STATUS in elements else None,
    )
    if field == C_STORE_RQ and not (command.sop_class.strip(b"\0 ") and command.sop_instance.strip(b"\0 ")):
        raise BadCommandError("a C-STORE request without SOP class or instance")
    return command


def encode_response(command: Command, status: int, comment: str = "", error_id: int | None = None) -> bytes:
    """The command set that answers a request, without a data set.

    `comment`: ASCII, cut to 64 characters. `error_id`: Error ID, if there is one. The UIDs of the request come back as
    they were, unless they are no UIDs.
    """
    elements = [
        _encode(_FIELD, struct.pack("<H", command.field | RESPONSE)),
        _encode(_ANSWERED_ID, struct.pack("<H", command.message_id)),
        _encode(_DATA_SET_TYPE, struct.pack("<H", _NO_DATA_SET)),
        _encode(_STATUS, struct.pack("<H", status)),
    ]
    if 0 < len(command.sop_class) <= _LONGEST_UID:
        elements.insert(0, _encode(_CLASS, command.sop_class))
    if comment:
        elements.append(_encode(_COMMENT, comment[:64].encode("ascii"), b" "))
    if error_id is not None:
        elements.append(_encode(_ERROR_ID, struct.pack("<H", error_id)))
    if 0 < len(command.sop_instance) <= _LONGEST_UID:
        elements.append(_encode(_INSTANCE, command.sop_instance))
    return _command_set(elements)


def encode_event(sop_class: str, sop_instance: str, event_type: int, message_id: int) -> bytes:
    """The command set of an N-EVENT-REPORT request with a data set (PS3.7 table 10.3-1)."""
    return _command_set(
        [
            _encode(_CLASS, sop_class.encode("ascii")),
            _encode(_FIELD, struct.pack("<H", N_EVENT_REPORT_RQ)),
            _encode(_MESSAGE_ID, struct.pack("<H", message_id)),
            _encode(_DATA_SET_TYPE, struct.pack("<H", _DATA_SET)),
            _encode(_INSTANCE, sop_instance.encode("ascii")),
            _encode(_EVENT_TYPE, struct.pack("<H", event_type)),
        ]
    )


def _command_set(elements: list[bytes]) -> bytes:
    body = b"".join(elements)
    return _encode(0x0000, struct.pack("<I", len(body))) + body


def _number(elements: dict[int, bytes], number: int) -> int:
    value = elements.get(number, b"")
    if len(value) != 2:
        raise BadCommandError(f"element (0000,{number:04X}) is missing or no number")
    return int.from_bytes(value, "little")


def _encode(number: int, value: bytes, pad: bytes = b"\0") -> bytes:
    value += pad * (len(value) % 2)
    return _ELEMENT.pack(0, number, len(value)) + value
