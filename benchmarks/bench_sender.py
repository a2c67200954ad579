"""A storage SCU that only measures: how long each C-STORE takes from its first byte sent to its answer read.

`python bench_sender.py PORT CALLED SLICES NUMBER` sends one study and prints the times, in ms, as JSON.
"""

import json
import socket
import struct
import sys
import time
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

_ROOT = "1.2.826.0.1.3680043.8.498.77"
SIDE = 512


def ct_slice(study: int, number: int) -> Dataset:
    """One 512x512 slice of a CT: 526 kB, noise in the low bits as real ones have."""
    dataset = Dataset()
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = f"{_ROOT}.{study}.1.{number}"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = f"{_ROOT}.{study}", f"{_ROOT}.{study}.1"
    dataset.FrameOfReferenceUID = f"{_ROOT}.{study}.2"
    dataset.Modality, dataset.PatientName, dataset.PatientID = "CT", f"Bench^{study}", f"BENCH{study}"
    dataset.StudyDate, dataset.StudyTime, dataset.InstanceNumber = "20260101", "120000", number
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [-200, -200, number], [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.SliceThickness = [0.78, 0.78], 1
    dataset.Rows = dataset.Columns = SIDE
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 1
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
    rng = np.random.default_rng([study, number])
    dataset.PixelData = rng.integers(-1000, 1000, (SIDE, SIDE), dtype=np.int16).tobytes()
    return dataset


def write_study(folder: Path, study: int, slices: int) -> None:
    """A study as Part 10 files, Explicit VR Little Endian."""
    folder.mkdir(parents=True)
    for number in range(1, slices + 1):
        dataset = ct_slice(study, number)
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dcmwrite(folder / f"{number:04d}.dcm", dataset, enforce_file_format=True)


def _item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(content)) + content


def _pdu(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxI", kind, len(content)) + content


def _read_pdu(connection: socket.socket) -> bytes:
    head = connection.recv(6, socket.MSG_WAITALL)
    return head + connection.recv(int.from_bytes(head[2:], "big"), socket.MSG_WAITALL)


def _associate(connection: socket.socket, called: str) -> int:
    """Ask for an association; bytes that the peer takes in a PDU."""
    syntaxes = _item(0x30, CTImageStorage.encode()) + _item(0x40, ExplicitVRLittleEndian.encode())
    user = _item(0x51, struct.pack(">I", 16384)) + _item(0x52, b"1.2.3")
    names = struct.pack(">H2x16s16s32x", 1, called.encode().ljust(16), b"STORESCU".ljust(16))
    items = _item(0x10, b"1.2.840.10008.3.1.1.1") + _item(0x20, b"\1\0\0\0" + syntaxes) + _item(0x50, user)
    connection.sendall(_pdu(0x01, names + items))
    answer = _read_pdu(connection)
    assert answer[0] == 0x02, "the association was not accepted"
    return int(struct.unpack_from(">I", answer, answer.index(struct.pack(">BxH", 0x51, 4)) + 4)[0]) or 131072


def _encode(dataset: Dataset) -> bytes:
    stream = DicomBytesIO()
    stream.is_little_endian, stream.is_implicit_VR = True, False
    write_dataset(stream, dataset)
    return bytes(stream.getvalue())


def _message(uid: str, data: bytes, longest: int) -> bytes:
    """A whole C-STORE request in PDUs of at most `longest` bytes."""

    def element(number: int, value: bytes) -> bytes:
        value += b"\0" * (len(value) % 2)
        return struct.pack("<HHI", 0, number, len(value)) + value

    short = struct.Struct("<H").pack
    command = element(0x0002, CTImageStorage.encode()) + element(0x0100, short(1)) + element(0x0110, short(1))
    command += element(0x0700, short(0)) + element(0x0800, short(0)) + element(0x1000, uid.encode())
    command = element(0x0000, struct.pack("<I", len(command))) + command
    room = longest - 6
    pdus = [_pdu(0x04, struct.pack(">IBB", len(command) + 2, 1, 3) + command)]
    for at in range(0, len(data), room):
        piece = data[at : at + room]
        flags = 2 if at + room >= len(data) else 0
        pdus.append(_pdu(0x04, struct.pack(">IBB", len(piece) + 2, 1, flags) + piece))
    return b"".join(pdus)


def main(port: int, called: str, slices: int, study: int) -> list[float]:
    """Send a study; the time of each C-STORE, ms."""
    datasets = [ct_slice(study, number) for number in range(1, slices + 1)]
    images = [(dataset.SOPInstanceUID, _encode(dataset)) for dataset in datasets]
    print("ready", flush=True)
    sys.stdin.readline()  # all senders begin together
    connection = socket.create_connection(("127.0.0.1", port))  # without a time-out: MSG_WAITALL has no effect with one
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    longest = _associate(connection, called)
    times = []
    for uid, data in images:
        message = _message(uid, data, longest)
        started = time.perf_counter()
        connection.sendall(message)
        answer = _read_pdu(connection)
        times.append((time.perf_counter() - started) * 1000)
        assert struct.pack("<HHIH", 0, 0x0900, 2, 0) in answer, "not stored"
    connection.sendall(_pdu(0x05, bytes(4)))
    _read_pdu(connection)
    return times


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
