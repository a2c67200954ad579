"""Writes the corpus: small valid (and a few odd) DICOM files that the mutations start from.

`PYTHONPATH=. python tests/fuzz/make_corpus.py`; the same files each time, but for the encoders' versions.
"""

import zlib
from dataclasses import replace
from pathlib import Path

import conftest  # noqa: F401 - the way to the other helpers
import imagecodecs
import numpy as np
import sr_synthetic
import tiny_series
from pydicom import Dataset, Sequence, dcmread, dcmwrite
from pydicom.encaps import encapsulate
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

import dicom_sr
from ct.anatomy import AnatomyMap
from ct.volume import Grid

CORPUS = Path(__file__).with_name("corpus")
SYNTAXES = {
    "implicit": ImplicitVRLittleEndian,
    "explicit": ExplicitVRLittleEndian,
    "big-endian": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
    "rle": RLELossless,
    "jpeg-ls": JPEGLSLossless,
    "jpeg-ls-near": JPEGLSNearLossless,
    "jpeg-2000": JPEG2000Lossless,
    "htj2k": HTJ2KLossless,
}
CHARACTER_SETS = {
    "latin-1": (["ISO_IR 100"], "Buc^Jérôme".encode("latin-1")),
    "japanese": (
        ["ISO 2022 IR 13", "ISO 2022 IR 87"],
        b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J=\x1b$B$d$^$@\x1b(J^\x1b$B$?$m$&\x1b(J",
    ),
    "korean": (["", "ISO 2022 IR 149"], b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^"),
    "chinese": (["GB18030"], "王^小东=王^小东".encode("gb18030")),
    "utf-8": (["ISO_IR 192"], "Люкceмбypг^Σοφία".encode()),
    "bad-escape": (["", "ISO 2022 IR 87"], b"A\x1b$Z\xff\xfe^\x1b\x1b(\x1b$B;\x1b"),
    "unknown": (["ISO_IR 999", "ISO 2022 IR 999"], b"\xff\xfe\x80^\x00\x1b"),
}


def ct() -> Dataset:
    """Slice 3 of the series of `tiny_series`."""
    return tiny_series.make_slice(3)


def jpeg(syntax: str, code: bytes, data: Dataset, path: Path) -> None:
    """A slice whose frame was encoded elsewhere."""
    tiny_series.write(data, path)
    data.PixelData = encapsulate([code])
    data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
    data.file_meta.TransferSyntaxUID = syntax
    dcmwrite(path, data, enforce_file_format=True)


def enhanced() -> Dataset:
    """Enhanced CT of four frames with functional groups."""
    data = ct()
    data.SOPClassUID, data.NumberOfFrames = EnhancedCTImageStorage, 4
    data.PixelData = data.PixelData * 4
    shared, planes, values = Dataset(), Dataset(), Dataset()
    planes.PixelSpacing = data.PixelSpacing
    values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 1, 0, "HU"
    shared.PixelMeasuresSequence, shared.PixelValueTransformationSequence = [planes], [values]
    data.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for number in range(4):
        frame, place = Dataset(), Dataset()
        place.ImagePositionPatient = [0, 0, number]
        frame.PlanePositionSequence = [place]
        frames.append(frame)
    data.PerFrameFunctionalGroupsSequence = Sequence(frames)
    return data


def nested(depth: int) -> Dataset:
    """A slice with sequences in sequences, private ones too."""
    data = ct()
    inner = Dataset()
    inner.CodeValue = "1"
    for _ in range(depth):
        outer = Dataset()
        outer.ConceptNameCodeSequence = [inner]
        block = outer.private_block(0x0013, "NODE FUZZ", create=True)
        block.add_new(0x01, "SQ", [inner])
        block.add_new(0x02, "OB", b"\x00\x01")
        inner = outer if depth < 6 else Dataset()
    data.RequestAttributesSequence = [inner]
    data.private_block(0x0009, "NODE FUZZ", create=True).add_new(0x10, "UN", bytes(range(64)))
    return data


def rich() -> Dataset:
    """A slice with all that our results take over from it: patient, study, request, equipment."""
    (data,) = sr_synthetic.ct_headers(1, 8, 8)
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "P5-09051", "SRT", "Thorax-CT, natïv"
    request = Dataset()
    request.AccessionNumber, request.StudyInstanceUID = "A-17", sr_synthetic.STUDY
    request.RequestedProcedureID, request.RequestedProcedureDescription = "R-17", "CT Thorax"
    request.PlacerOrderNumberImagingServiceRequest, request.FillerOrderNumberImagingServiceRequest = "P-1", "F-1"
    request.RequestedProcedureCodeSequence = [code]
    referenced = Dataset()
    referenced.ReferencedSOPClassUID, referenced.ReferencedSOPInstanceUID = CTImageStorage, "1.2.3.4"
    data.RequestAttributesSequence, data.ProcedureCodeSequence = [request], [code]
    data.ReferencedStudySequence, data.SourceImageSequence = [referenced], [referenced]
    data.StudyDescription, data.SeriesDescription, data.ProtocolName = "Thorax nativ", "Weichteil 5.0", "Thorax"
    data.PatientAge, data.PatientSize, data.PatientWeight, data.EthnicGroup = "076Y", "1.82", "84.5", "n/a"
    data.OtherPatientIDs, data.PatientComments, data.AdditionalPatientHistory = "P-18", "keine", "Husten"
    data.SeriesDate = data.ContentDate = data.AcquisitionDate = "20260301"
    data.SeriesTime = data.ContentTime = data.AcquisitionTime = "081502.125"
    data.TimezoneOffsetFromUTC, data.AcquisitionDateTime = "+0100", "20260301081502.125+0100"
    data.PositionReferenceIndicator, data.PatientPosition, data.KVP = "SN", "HFS", "120"
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.RescaleSlope, data.RescaleIntercept, data.RescaleType = 1, 0, "HU"
    tiny_series.store(data, np.arange(64, dtype=np.int16).reshape(8, 8))
    return data


def results() -> list[Dataset]:
    """A small SEG and SR of ours."""
    whole = sr_synthetic.anatomy_map(("lung",))
    grid = Grid.axis_aligned((2, 16, 16), sr_synthetic.SPACING, (-20.0, -25.0, -100.0))
    labels = np.ascontiguousarray(whole.labels[12:16:2, 8:40:2, 6:38:2])
    labels[labels > 1] = 0
    small = AnatomyMap(labels, grid, whole.names, whole.algorithm, whole.measures)
    reading = sr_synthetic.reading()
    lung = replace(reading.anatomies[0], findings=reading.anatomies[0].findings[:1])
    reading = replace(reading, anatomies=(lung,), not_assessed=reading.not_assessed[:1])
    headers = sr_synthetic.ct_headers(2, 16, 16)
    return dicom_sr.write(reading, small, headers)


def main() -> None:
    """Write every file."""
    CORPUS.mkdir(exist_ok=True)
    for name, syntax in SYNTAXES.items():
        tiny_series.write(ct(), CORPUS / f"ct-{name}.dcm", syntax)
    words = np.frombuffer(ct().PixelData, np.uint16).reshape(tiny_series.ROWS, tiny_series.COLUMNS)
    jpeg(JPEGLosslessSV1, imagecodecs.ljpeg_encode(words, bitspersample=16), ct(), CORPUS / "ct-jpeg-lossless.dcm")
    data = ct()
    tiny_series.store(data, (words >> 8).astype(np.uint8))
    jpeg(JPEGBaseline8Bit, imagecodecs.jpeg8_encode((words >> 8).astype(np.uint8)), data, CORPUS / "ct-jpeg-8.dcm")
    tiny_series.write(enhanced(), CORPUS / "enhanced-ct.dcm")
    tiny_series.write(rich(), CORPUS / "ct-rich.dcm")
    tiny_series.write(nested(5), CORPUS / "ct-nested.dcm")
    tiny_series.write(nested(5), CORPUS / "ct-nested-implicit.dcm", ImplicitVRLittleEndian)
    for name, (sets, person) in CHARACTER_SETS.items():
        path = tiny_series.write(ct(), CORPUS / f"ct-{name}.dcm")
        data = dcmread(path)
        data.SpecificCharacterSet = "PLACE"
        data.PatientName = "HOLDER" * 4
        dcmwrite(path, data, enforce_file_format=True)
        encoded = path.read_bytes()
        texts = "\\".join(sets).encode()
        for old, new in ((b"PLACE ", texts), (b"HOLDER" * 4, person)):
            new += b" " * (len(new) % 2)
            at = encoded.index(old)
            encoded = encoded[: at - 2] + len(new).to_bytes(2, "little") + new + encoded[at + len(old) :]
        path.write_bytes(encoded)
    explicit = (CORPUS / "ct-explicit.dcm").read_bytes()
    (CORPUS / "ct-polyglot-pe.dcm").write_bytes(
        b"MZ\x90\0".ljust(60, b"\0") + b"\x80\0\0\0".ljust(68, b"\0") + explicit[128:]
    )
    (CORPUS / "ct-polyglot-elf.dcm").write_bytes(b"\x7fELF\x02\x01\x01".ljust(128, b"\0") + explicit[128:])
    bare = explicit[explicit.index(b"\x08\0\x08\0CS") :]
    (CORPUS / "ct-bare.dcm").write_bytes(bare)
    bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = bare[: bare.index(b"\xe0\x7f\x10\0OW")]
    packed = bomb.compress(start + bytes(2**13)) + bomb.flush()
    meta = (CORPUS / "ct-deflated.dcm").read_bytes()
    length = int.from_bytes(meta[140:144], "little")
    (CORPUS / "ct-deflated-much.dcm").write_bytes(meta[: 144 + length] + packed)
    for made in results():
        dcmwrite(CORPUS / f"{made.Modality.lower()}.dcm", made, enforce_file_format=True)
    sr = dcmread(CORPUS / "sr.dcm")
    sr.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dcmwrite(CORPUS / "sr-implicit.dcm", sr, enforce_file_format=True)


if __name__ == "__main__":
    main()
