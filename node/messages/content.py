"""What a message says: findings with probability and verdict, by which model, about which study as far as allowed.

Made once, when the result is; kept in the row as JSON; every form of a message is made from this alone, so that a
repetition says the same however late it comes.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter
from pydicom import Dataset

from config import Reason, load_vocabulary
from config.message_settings import Level
from fvlm.reading import Reading, Verdict

NOT_VERIFIED = "AI, not verified"
TEST_MODEL = "TEST MODEL - NOT FOR CLINICAL USE"


@dataclass(frozen=True)
class Told:
    """One finding."""

    finding: str
    """`anatomy.finding` of the vocabulary."""
    probability: float
    """0..1"""
    verdict: Verdict
    threshold: float | None
    """Present at or above it; None without an operating point."""
    calibrated: bool
    urgent: bool
    """At or above the threshold of `messages.urgent`."""


@dataclass(frozen=True)
class Model:
    """Who says it."""

    name: str
    version: str
    digest: str
    """SHA-256 of the release, hex."""


@dataclass(frozen=True)
class Whom:
    """Of which study, as far as the level allows; empty is not told or not known."""

    study_instance_uid: str = ""
    series_instance_uid: str = ""
    accession_number: str = ""
    patient_id: str = ""
    issuer_of_patient_id: str = ""

    def at(self, level: Level) -> "Whom":
        """No more than a level allows."""
        if level is Level.NONE:
            return Whom()
        return self if level is Level.PATIENT else replace(self, patient_id="", issuer_of_patient_id="")


@dataclass(frozen=True)
class Content:
    """What is said of one result."""

    job: int
    thread: str
    """The same for all readings of a series by one release, 32 hexadecimal digits that mean nothing elsewhere: a newer
    reading takes the place of the older one."""
    analysed_at: datetime
    """With time zone."""
    model: Model
    test_only: bool
    findings: tuple[Told, ...]
    """By falling probability."""
    not_assessed: tuple[tuple[str, Reason], ...]
    """Anatomy, and why nothing is said of it."""
    whom: Whom = field(default_factory=Whom)

    @property
    def urgent(self) -> tuple[Told, ...]:
        return tuple(told for told in self.findings if told.urgent)

    @property
    def notice(self) -> str:
        """What every message has to say of itself."""
        return f"{TEST_MODEL}. {NOT_VERIFIED}" if self.test_only else NOT_VERIFIED

    @property
    def summary(self) -> str:
        """The result in one line."""
        vocabulary = load_vocabulary()
        present = [told for told in self.findings if told.verdict is Verdict.PRESENT]
        names = [f"{vocabulary.finding(told.finding).title} ({told.probability:.2f})" for told in present]
        missing = [f"{vocabulary.anatomy(name).title} ({reason})" for name, reason in self.not_assessed]
        parts = [f"{self.notice}.", f"Present: {', '.join(names) or 'nothing'}."]
        return " ".join(parts + ([f"Not assessed: {', '.join(missing)}."] if missing else []))

    def at(self, level: Level) -> "Content":
        """No more than a level allows."""
        return replace(self, whom=self.whom.at(level))

    def to_json(self) -> dict[str, Any]:
        """For the row."""
        dumped: dict[str, Any] = _ADAPTER.dump_python(self, mode="json")
        return dumped

    @staticmethod
    def from_json(kept: Mapping[str, Any]) -> "Content":
        """What `to_json` made. Raises pydantic.ValidationError."""
        return _ADAPTER.validate_python(kept)


_ADAPTER = TypeAdapter(Content)


def content_of(job: int, thread: str, reading: Reading, whom: Whom, thresholds: Mapping[str, float]) -> Content:
    """What is said of a reading; `thresholds` say from which probability on a finding is urgent."""
    findings = [
        Told(
            found.key,
            found.probability,
            found.verdict,
            found.threshold,
            found.calibrated,
            found.verdict is not Verdict.ABSENT and found.probability >= thresholds.get(found.key, 2.0),
        )
        for anatomy in reading.anatomies
        for found in anatomy.findings
    ]
    model = reading.model
    return Content(
        job=job,
        thread=thread,
        analysed_at=reading.analysed_at,
        model=Model(model.name, model.version, model.digest),
        test_only=reading.test_only,
        findings=tuple(sorted(findings, key=lambda told: (-told.probability, told.finding))),
        not_assessed=tuple((missing.anatomy, missing.reason) for missing in reading.not_assessed),
        whom=whom,
    )


def whom_of(study_uid: str, series_uid: str, objects: Sequence[Dataset]) -> Whom:
    """Of which study a result is: its objects carry the attributes of the images."""
    header = objects[0] if objects else Dataset()
    names = ("AccessionNumber", "PatientID", "IssuerOfPatientID")
    return Whom(study_uid, series_uid, *(str(header.get(name) or "").strip() for name in names))


def derived(*parts: str) -> str:
    """32 hexadecimal digits: same parts, same digits."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
