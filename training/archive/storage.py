"""What an archive sends, written as it comes: the storage side of C-MOVE and of C-GET."""

import threading
from pathlib import Path
from typing import Any

from pydicom.uid import (
    JPEG2000,
    UID,
    AcquisitionContextSRStorage,
    BasicTextSRStorage,
    ChestCADSRStorage,
    ColonCADSRStorage,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EncapsulatedCDAStorage,
    EncapsulatedPDFStorage,
    EnhancedSRStorage,
    ExplicitVRLittleEndian,
    ExtensibleSRStorage,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    PatientRadiationDoseSRStorage,
    ProcedureLogStorage,
    RLELossless,
    XRayRadiationDoseSRStorage,
)
from pynetdicom import evt

REPORT_CLASSES: tuple[UID, ...] = (
    BasicTextSRStorage,
    EnhancedSRStorage,
    ComprehensiveSRStorage,
    Comprehensive3DSRStorage,
    ExtensibleSRStorage,
    EncapsulatedPDFStorage,
    EncapsulatedCDAStorage,
)
"""Objects that may be a report. Dose reports and CAD results have classes of their own and are none."""
NATIVE: tuple[UID, ...] = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
COMPRESSED: tuple[UID, ...] = (
    JPEGLosslessSV1,
    JPEGLossless,
    JPEGLSLossless,
    JPEGLSNearLossless,
    JPEG2000Lossless,
    JPEG2000,
    HTJ2KLossless,
    RLELossless,
    JPEGExtended12Bit,
    DeflatedExplicitVRLittleEndian,
)
_OTHER_SR: tuple[UID, ...] = (
    XRayRadiationDoseSRStorage,
    PatientRadiationDoseSRStorage,
    ChestCADSRStorage,
    ColonCADSRStorage,
    AcquisitionContextSRStorage,
    ProcedureLogStorage,
)
"""No reports, but in series of modality SR beside them: refusing them would end the transfer with an error."""
CLASSES: dict[UID, tuple[UID, ...]] = {
    CTImageStorage: (*NATIVE, *COMPRESSED),
    **dict.fromkeys(REPORT_CLASSES, (*NATIVE, DeflatedExplicitVRLittleEndian)),
    **dict.fromkeys(_OTHER_SR, NATIVE),
}
"""SOP classes that are taken, with their transfer syntaxes."""

_OUT_OF_RESOURCES, _NOT_ASKED = 0xA700, 0x0124


class Inbox:
    """Where objects go while somebody waits for them; at any other time they are refused."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._folder: Path | None = None
        self._count = 0

    def open(self, folder: Path) -> None:
        """Take what comes into this folder from now on."""
        with self._lock:
            self._folder, self._count = folder, 0

    def close(self) -> int:
        """Take no more; how many files were written."""
        with self._lock:
            self._folder = None
            return self._count

    def store(self, event: evt.Event) -> int:
        """Answer to a C-STORE request (PS3.4 B.2.3). Names of files say nothing of what is in them."""
        with self._lock:
            if self._folder is None:
                return _NOT_ASKED
            self._count += 1
            file = self._folder / f"{self._count:06d}.dcm"
            try:
                file.write_bytes(event.encoded_dataset())
            except OSError:
                file.unlink(missing_ok=True)
                return _OUT_OF_RESOURCES
        return 0x0000

    @property
    def handlers(self) -> list[Any]:
        """For pynetdicom."""
        return [(evt.EVT_C_STORE, self.store)]
