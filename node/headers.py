"""The few names that the index needs from a data set: read from its beginning, bounded, without pixels or a name."""

import zlib
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO, cast

from pydicom.filereader import read_dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from config import Reason
from ct.part10 import Unfit, Values, Window, is_uid, parsing
from node.file_meta import Origin

_SOP_CLASS, _SOP_INSTANCE, _MODALITY, _STUDY, _SERIES = 0x00080016, 0x00080018, 0x00080060, 0x0020000D, 0x0020000E
_LONGEST = 4 * 2**20
"""The names must come within this many bytes of the data set (inflated, if deflated)."""

_MOST_READS = 50_000
"""Reads of the parser until the names are found: one or two an element."""


@dataclass(frozen=True)
class Names:
    """Where an instance belongs."""

    study_instance_uid: str
    series_instance_uid: str
    modality: str
    """Upper case letters, digits, spaces and underscores, at most 16; empty if missing or something else."""


def read_names(data_set: memoryview, origin: Origin) -> Names:
    """Read study, series and modality of an encoded data set.

    Raises Unfit: NOT_DICOM (nothing in it can be parsed), TRUNCATED (it ends or breaks before the names), UNDECODABLE
    (too many elements before them), BAD_UID (a UID is missing, not a UID, or not the one that the sender announced).
    """
    head = _beginning(data_set, origin.transfer_syntax_uid)
    stream = Window(BytesIO(head), 0, len(head), _MOST_READS)
    with parsing():
        values = Values(
            read_dataset(
                cast(BinaryIO, stream),
                is_implicit_VR=origin.transfer_syntax_uid == ImplicitVRLittleEndian,
                is_little_endian=origin.transfer_syntax_uid != ExplicitVRBigEndian,
                stop_when=lambda tag, *_: tag > _SERIES,
                specific_tags=[_SOP_CLASS, _SOP_INSTANCE, _MODALITY, _STUDY, _SERIES],
            )
        )
    instance, study, series = (values.text(tag) for tag in (_SOP_INSTANCE, _STUDY, _SERIES))
    if not (instance or study or series):
        raise Unfit(Reason.NOT_DICOM, "no UID is found in the data set")
    if not series and stream.tell() >= len(head):
        raise Unfit(Reason.TRUNCATED, "the data set ends before its Series Instance UID")
    for name, uid in (("Study", study), ("Series", series), ("SOP", instance)):
        if not is_uid(uid):
            raise Unfit(Reason.BAD_UID, f"{name} Instance UID is {'not a UID' if uid else 'missing'}")
    if instance != origin.sop_instance_uid or values.text(_SOP_CLASS) != origin.sop_class_uid:
        raise Unfit(Reason.BAD_UID, "SOP class or instance is not the one that the sender announced")
    return Names(study, series, _code_string(values.text(_MODALITY)))


def _beginning(data_set: memoryview, transfer_syntax_uid: str) -> bytes:
    if transfer_syntax_uid != DeflatedExplicitVRLittleEndian:
        return bytes(data_set[:_LONGEST])
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data_set, _LONGEST)
    except zlib.error as error:
        raise Unfit(Reason.TRUNCATED, "the deflated data set is damaged") from error


def _code_string(text: str) -> str:
    allowed = text.isascii() and all(c.isupper() or c.isdigit() or c in " _" for c in text)
    return text if allowed and len(text) <= 16 else ""
