"""A small DICOM object as a whole: reports and key objects, of which a few kilobytes are read and no pixel."""

from io import BytesIO
from typing import BinaryIO, cast

from pydicom import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

from config import Reason
from ct.part10 import Unfit, Window, data_set_start, parsing

LARGEST = 4 * 2**20
"""Bytes of an object that is looked at, inflated."""


def read_small(stored: bytes) -> Dataset:
    """The data set of a Part 10 stream. Raises Unfit: for one that is larger (UNDECODABLE), or damaged."""
    if len(stored) > LARGEST:
        raise Unfit(Reason.UNDECODABLE, "the object is too large")
    stream, syntax = data_set_start(Window(BytesIO(stored), 0, len(stored)))
    if stream.length > LARGEST:
        raise Unfit(Reason.UNDECODABLE, "the deflated object is too large")
    with parsing():
        return read_dataset(cast(BinaryIO, stream), syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian)
