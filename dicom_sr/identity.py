"""Who speaks and under which name: deterministic UIDs, series, devices, the marks of a test model."""

import hashlib
import json
import platform
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from enum import Enum
from importlib.metadata import version
from uuid import UUID, uuid5

from highdicom import ContributingEquipment
from pydicom import Dataset
from pydicom.uid import UID

from config import Reason
from ct.anatomy import AlgorithmIdentity
from dicom_sr import codes
from dicom_sr.errors import WriteError
from dicom_sr.prior import Prior
from fvlm.reading import Reading

MANUFACTURER = "fVLM Node project"
PRODUCT = "fVLM Node"
TEST_MARKER = "TEST MODEL - NOT FOR CLINICAL USE"
NOT_VERIFIED = "AI result, not verified by a radiologist."
REPLACES = "This report takes the place of an earlier AI report of the same series."

_NAMESPACE = UUID("5f0b3c1e-6a5d-5f0e-9d6b-3a1f3f0c7a51")
_LAYOUT = "4"
"""Version of how objects are laid out; a change of layout must change it, so that no UID gets new content."""
_LONG_STRING = 64
"""Characters in a value of VR LO."""


def derive_uid(*parts: str) -> str:
    """`2.25.` and the name-based UUID (RFC 9562, version 5) of the parts: same parts, same UID (PS3.5 annex B.2)."""
    return f"2.25.{uuid5(_NAMESPACE, json.dumps(parts)).int}"


def device_uid(algorithm: AlgorithmIdentity) -> str:
    """Device UID of an algorithm; other weights are another device (IHE AI Results, section 6.5.3.1)."""
    return derive_uid("device", algorithm.name, algorithm.version, algorithm.digest)


def installation_uid() -> str:
    """Device UID of this installation, derived from the name of the machine."""
    return derive_uid("node", platform.node())


def long_string(text: str) -> str:
    """`text` as one value of VR LO: no backslash, no control characters, at most 64 characters."""
    printable = "".join(" " if c.isspace() or c == "\\" else c for c in text if c.isprintable() or c.isspace())
    return printable.strip()[:_LONG_STRING].strip()


@dataclass(frozen=True)
class Predecessor:
    """An earlier SR of the same series that was delivered: of another generation, or by another release."""

    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str

    def __post_init__(self) -> None:
        for uid in (self.series_instance_uid, self.sop_instance_uid, self.sop_class_uid):
            if not UID(uid).is_valid:
                raise ValueError(f"not a valid UID: {uid!r}")


@dataclass(frozen=True)
class WriteContext:
    """What the node knows about a run besides the reading."""

    images_at: datetime | None = None
    """When the last image of the series came: dates the objects, so that reading the same images again writes the same
    bytes. None: `reading.analysed_at`. With time zone."""
    device_uid: str = field(default_factory=installation_uid)
    """Device UID of the node installation: the observer of the SR."""
    node_version: str = field(default_factory=lambda: version("fvlm-node"))
    institution: str = ""
    """Institution name of the results; empty copies the source's."""
    predecessor: Predecessor | None = None
    """The delivered report that the new one takes the place of (Predecessor Documents Sequence, PS3.3 C.17.2)."""
    prior: Prior | None = None
    """The patient's earlier reading, with which this one is compared."""
    preset: str = ""
    """What the reading was cut down to (`Reading.only`); empty: all that the release asks."""

    def __post_init__(self) -> None:
        if not UID(self.device_uid).is_valid:
            raise ValueError(f"device_uid is not a valid UID: {self.device_uid!r}")


class Kind(Enum):
    """The kinds of objects written: series number, and series description without and with a test model."""

    SEG = (9001, "AI anatomy segmentation (not verified)", f"{TEST_MARKER}: AI anatomy SEG")
    SR = (9002, "AI fVLM findings (not verified)", f"{TEST_MARKER}: AI findings SR")
    SC = (9003, "AI summary page (not verified)", f"{TEST_MARKER}: AI summary page")
    KO = (9004, "AI slices to look at (not verified)", f"{TEST_MARKER}: AI key objects")
    PDF = (9005, "AI report PDF (not verified)", f"{TEST_MARKER}: AI report PDF")
    TEXT = (9007, "AI report, text (not verified)", f"{TEST_MARKER}: AI report, text")
    PM = (9010, "AI heat map (not verified)", f"{TEST_MARKER}: AI heat map")
    LABEL_MAP = (9006, "AI anatomy label map (not verified)", f"{TEST_MARKER}: AI label map")

    @property
    def series_number(self) -> int:
        return self.value[0]

    def series_description(self, test_only: bool) -> str:
        """Series Description (0008,103E), at most 64 characters."""
        return self.value[2] if test_only else self.value[1]


_COMPARING = frozenset({Kind.SR, Kind.TEXT, Kind.SC, Kind.PDF})
"""What tells the changes since the prior."""


@dataclass(frozen=True)
class Names:
    """The UIDs of everything written for one reading of one series.

    Series and instances depend on the series, the source instances, when the last of them came, and both sets of
    weights: on nothing that is counted, so that an index rebuilt from the spool leads to the same names. Only
    the SR depends on the predecessor too: what names another one is another document. So is each that tells the changes
    since another prior.
    """

    series_uid: str
    sources_digest: str
    dated: str
    """The moment that dates the objects, UTC."""
    model_digest: str
    segmenter_digest: str
    predecessor: str = ""
    """SOP Instance UID of the report that is replaced; empty if there is none."""
    prior: str = ""
    """SOP Instance UID of the earlier reading's report; empty if it is compared with none."""
    preset: str = ""
    """What the reading was cut down to: other content, other objects."""

    @classmethod
    def of(
        cls,
        reading: Reading,
        sop_instance_uids: Iterable[str],
        series_uid: str,
        moment: datetime,
        context: WriteContext | None = None,
    ) -> "Names":
        joined = "\n".join(sorted(sop_instance_uids))
        predecessor, prior = (None, None) if context is None else (context.predecessor, context.prior)
        return cls(
            series_uid=series_uid,
            sources_digest=hashlib.sha256(joined.encode()).hexdigest(),
            dated=moment.astimezone(UTC).isoformat(timespec="microseconds"),
            model_digest=reading.model.digest,
            segmenter_digest=reading.segmenter.digest,
            predecessor="" if predecessor is None else predecessor.sop_instance_uid,
            prior="" if prior is None else prior.report_uid,
            preset="" if context is None else context.preset,
        )

    def _derive(self, what: str, kind: Kind, which: str) -> str:
        return derive_uid(
            what,
            _LAYOUT,
            self.series_uid,
            self.sources_digest,
            self.dated,
            self.model_digest,
            self.segmenter_digest,
            kind.name,
            which,
            *([self.predecessor] if self.predecessor and kind is Kind.SR else []),
            *(["prior", self.prior] if self.prior and kind in _COMPARING else []),
            *(["preset", self.preset] if self.preset else []),
        )

    def series(self, kind: Kind, which: str = "1") -> str:
        """Series Instance UID. `which`: what tells several objects of one kind apart (the finding of a heat map)."""
        return self._derive("series", kind, which)

    def instance(self, kind: Kind, which: str = "1") -> str:
        """SOP Instance UID of the one instance in that series."""
        return self._derive("instance", kind, which)

    def dimensions(self, kind: Kind, which: str = "1") -> str:
        """Dimension Organization UID."""
        return self._derive("dimensions", kind, which)

    def tracking(self, thing: str) -> str:
        """Tracking UID of an anatomy (`liver`), one side of it (`kidney.left`) or a finding (`liver.cyst`).

        It depends on the series and the thing only: whoever follows a finding in the PACS meets it under one UID in
        every report on the series, of whatever generation, release or segmenter, and a reader's verdict on it stays
        with it. The next examination is another series: there the model does not know that it sees the same lesion.
        (IHE AI Results: tracking identifiers.)
        """
        return tracking_uid(self.series_uid, thing)


def tracking_uid(series_uid: str, thing: str) -> str:
    """`Names.tracking` for who has no reading at hand."""
    return derive_uid("tracking", series_uid, thing)


def in_zone_of(source: Dataset, moment: datetime) -> datetime:
    """`moment` in the time zone of the source's dates: its Timezone Offset From UTC, else the moment's own zone.

    Raises WriteError for a moment without time zone.
    """
    offset = moment.utcoffset()
    if offset is None:
        raise WriteError(Reason.INTERNAL, "the time of analysis has no time zone")
    text = str(source.get("TimezoneOffsetFromUTC") or "")
    if len(text) == 5 and text[0] in "+-" and text[1:].isascii() and text[1:].isdigit():
        minutes = int(text[1:3]) * 60 + int(text[3:])
        if minutes <= 14 * 60:
            return moment.astimezone(timezone(timedelta(minutes=-minutes if text[0] == "-" else minutes)))
    return moment.astimezone(timezone(timedelta(minutes=offset // timedelta(minutes=1))))


def algorithm_equipment(algorithm: AlgorithmIdentity, role: str, moment: datetime) -> ContributingEquipment:
    """Contributing Equipment item of an algorithm (IHE AI Results 6.5.3.1; PS3.3 C.12.1).

    Purpose: (109102, DCM, "Processing Equipment") of CID 7005. The serial number is the SHA-256 of the weights.
    """
    description = f"{role}. {TEST_MARKER}" if algorithm.test_only else role
    item = ContributingEquipment(
        manufacturer=long_string(algorithm.manufacturer),
        purpose_of_reference=codes.PROCESSING_EQUIPMENT,
        manufacturer_model_name=long_string(algorithm.name),
        software_versions=long_string(algorithm.version),
        device_serial_number=long_string(algorithm.digest),
        contribution_datetime=moment,
        contribution_description=description,
    )
    item.DeviceUID = device_uid(algorithm)
    return item


READS = "Reads findings"
SEGMENTS = "Segments anatomies"


def contributing_equipment(reading: Reading, moment: datetime) -> list[ContributingEquipment]:
    """One item an algorithm: the segmenter and the model."""
    return [
        algorithm_equipment(reading.segmenter, SEGMENTS, moment),
        algorithm_equipment(reading.model, READS, moment),
    ]


def software_versions(reading: Reading, context: WriteContext) -> list[str]:
    """Software Versions (0018,1020): the node, the model, the segmenter."""
    return [
        long_string(f"{PRODUCT} {context.node_version}"),
        long_string(f"{reading.model.name} {reading.model.version}"),
        long_string(f"{reading.segmenter.name} {reading.segmenter.version}"),
    ]


def algorithm_parameters(algorithm: AlgorithmIdentity) -> dict[str, str]:
    """Algorithm Parameters common to SR (TID 4019) and SEG: the weights, and the mark of a test model."""
    parameters = {"weights_sha256": algorithm.digest}
    if algorithm.test_only:
        parameters["use"] = TEST_MARKER
    return parameters


def stamp(dataset: Dataset, moment: datetime, context: WriteContext, source: Dataset) -> None:
    """Fill what both kinds of objects share and the encoders leave open or take from the clock."""
    for item in dataset.ContributingEquipmentSequence:
        if item.get("ManufacturerModelName") == "highdicom":
            item.ContributionDateTime = moment
    dataset.InstanceCreationDate = dataset.ContentDate = dataset.SeriesDate = moment.strftime("%Y%m%d")
    dataset.InstanceCreationTime = dataset.ContentTime = dataset.SeriesTime = moment.strftime("%H%M%S.%f")
    dataset.TimezoneOffsetFromUTC = moment.strftime("%z")[:5]
    dataset.DeviceUID = context.device_uid
    dataset.ContentQualification = "RESEARCH"
    institution = context.institution or str(source.get("InstitutionName") or "")
    if institution:
        dataset.InstitutionName = long_string(institution)
