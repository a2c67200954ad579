"""An earlier reading that was read back from an archive, as a job keeps it: no patient data, no image."""

from dataclasses import asdict, dataclass
from typing import Any, Self

from dicom_sr.prior import Prior, Said
from fvlm.reading import Verdict
from node.whose import day_of


@dataclass(frozen=True)
class ArchivedPrior:
    """What one of our reports says of an older study."""

    release: str
    """Digest of the release that read it."""
    patient: str
    """As `node.whose` has it."""
    studied_at: str
    report: str
    """SOP Instance UID."""
    findings: dict[str, list[Any]]
    """`anatomy.finding` -> probability 0..1, verdict."""

    def kept(self) -> dict[str, Any]:
        """For a JSON column."""
        return asdict(self)

    @classmethod
    def of(cls, kept: dict[str, Any] | None) -> Self | None:
        """From `kept`; None for none."""
        return cls(**kept) if kept else None

    def prior(self) -> Prior | None:
        """To compare with; None without a Study Date."""
        day = day_of(self.studied_at[:8])
        findings = {
            finding: Said(float(probability), Verdict(verdict))
            for finding, (probability, verdict) in self.findings.items()
        }
        return None if day is None else Prior(day, self.report, findings)
