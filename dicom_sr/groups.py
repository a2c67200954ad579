"""The measurement groups of the report: one an organ, one a finding (TID 1411; TID 1501 without a segment)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from highdicom.sr import (
    AlgorithmIdentification,
    FindingSite,
    Measurement,
    MeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    ReferencedSegment,
    SourceSeriesForSegmentation,
    TrackingIdentifier,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from pydicom.sr.coding import Code
from pydicom.uid import SegmentationStorage

from config import Reason, Vocabulary
from ct.anatomy import AlgorithmIdentity
from dicom_sr import codes, identity
from dicom_sr.errors import WriteError
from dicom_sr.identity import Kind, Names
from dicom_sr.segmentation import SegmentRow, Segments
from fvlm.reading import AnatomyReading, Finding, Reading, Verdict

Group: TypeAlias = VolumetricROIMeasurementsAndQualitativeEvaluations | MeasurementsAndQualitativeEvaluations


@dataclass(frozen=True)
class GroupWriter:
    """Turns the parts of a reading into measurement groups that point at the segments."""

    reading: Reading
    segments: Segments | None
    names: Names
    vocabulary: Vocabulary

    def all(self) -> list[Group]:
        """Organ by organ in the reading's order: the organ, then its findings by falling probability.

        Never empty (TID 1500 and viewers want a group): where nothing at all was assessed or segmented, one group
        says so.
        """
        groups: list[Group] = []
        for anatomy in self.reading.anatomies:
            groups.extend(self.organ(anatomy, row) for row in self._rows(anatomy.anatomy) or (None,))
            findings = sorted(anatomy.findings, key=lambda finding: -finding.probability)
            groups.extend(self.finding(finding) for finding in findings)
        if self.segments is not None:
            refused = {entry.anatomy for entry in self.reading.not_assessed}
            groups.extend(self.unread_organ(row) for row in self.segments.rows if row.anatomy in refused)
        return groups or [self.nothing()]

    def _rows(self, anatomy: str) -> tuple[SegmentRow, ...]:
        return () if self.segments is None else self.segments.of(anatomy)

    def organ(self, anatomy: AnatomyReading, row: SegmentRow | None) -> Group:
        """Volume (mm3) and mean attenuation (HU) of an assessed anatomy, or of its one side that `row` is."""
        kind = self.vocabulary.anatomy(anatomy.anatomy)
        algorithm = algorithm_identification(self.reading.segmenter, with_parameters=False)
        sided = row is not None and row.laterality is not None
        volume_mm3 = row.volume_mm3 if row is not None and sided else anatomy.volume_ml * 1000.0
        mean_hu = row.mean_hu if row is not None and sided else anatomy.mean_hu
        measurements = [
            Measurement(
                name=codes.VOLUME,
                value=round(_finite(volume_mm3, anatomy.anatomy, "volume")),
                unit=codes.CUBIC_MM,
                algorithm_id=algorithm,
            ),
            Measurement(
                name=codes.ATTENUATION,
                value=round(_finite(mean_hu, anatomy.anatomy, "mean attenuation"), 1),
                unit=codes.HOUNSFIELD,
                derivation=codes.MEAN,
                algorithm_id=algorithm,
            ),
        ]
        return self._group(
            row=row,
            tracking=TrackingIdentifier(row.tracking_uid, row.tracking_id)
            if row is not None
            else TrackingIdentifier(self.names.tracking(anatomy.anatomy), kind.title),
            finding=codes.coded(kind.code),
            category=codes.ANATOMICAL_STRUCTURE,
            site=self._sided_site(row),
            algorithm=algorithm_identification(self.reading.segmenter),
            measurements=measurements,
        )

    def _sided_site(self, row: SegmentRow | None) -> FindingSite | None:
        """The site of an organ's group, where it says more than the finding: the side."""
        if row is None or row.laterality is None:
            return None
        code = self.vocabulary.anatomy(row.anatomy).code
        return FindingSite(anatomic_location=codes.coded(code), laterality=codes.SIDES[row.laterality])

    def unread_organ(self, row: SegmentRow) -> Group:
        """A segment of an anatomy that was not assessed: no numbers."""
        kind = self.vocabulary.anatomy(row.anatomy)
        return self._group(
            row=row,
            tracking=TrackingIdentifier(row.tracking_uid, row.tracking_id),
            finding=codes.coded(kind.code),
            category=codes.ANATOMICAL_STRUCTURE,
            site=self._sided_site(row),
            algorithm=algorithm_identification(self.reading.segmenter),
            evaluations=[QualitativeEvaluation(codes.coded(kind.code), codes.NOT_EVALUATED)],
        )

    def finding(self, finding: Finding) -> Group:
        """The certainty of a finding in percent, and its verdict where there is an operating point.

        It refers to the anatomy's segment where there is one; of two, neither is the region that was analysed.
        The region is the whole anatomy that was analysed, not the lesion; the tracking identifier says so.
        """
        kind = self.vocabulary.finding(finding.key)
        site = self.vocabulary.anatomy(finding.anatomy)
        if not 0.0 <= finding.probability <= 1.0:
            raise WriteError(Reason.INTERNAL, f"{finding.key}: probability {finding.probability} is not in 0..1")
        certainty = Measurement(
            name=codes.CERTAINTY_OF_FINDING,
            value=percent(finding.probability),
            unit=codes.PERCENT,
            algorithm_id=algorithm_identification(self.reading.model, with_parameters=False),
        )
        verdict = codes.VERDICTS.get(finding.verdict)
        rows = self._rows(finding.anatomy)
        return self._group(
            row=rows[0] if len(rows) == 1 else None,
            tracking=TrackingIdentifier(
                self.names.tracking(finding.key), f"{site.title} (analysed region): {kind.title}"
            ),
            finding=codes.coded(kind.code),
            category=codes.CLINICAL_FINDING,
            site=FindingSite(anatomic_location=codes.coded(site.code)),
            algorithm=algorithm_identification(self.reading.model, finding=finding),
            measurements=[certainty],
            evaluations=[QualitativeEvaluation(codes.coded(kind.code), verdict)] if verdict else [],
        )

    def nothing(self) -> Group:
        """The one group of a report without any assessed or segmented anatomy (TID 1501)."""
        return MeasurementsAndQualitativeEvaluations(
            tracking_identifier=TrackingIdentifier(self.names.tracking("summary"), "AI reading: nothing assessed"),
            algorithm_id=algorithm_identification(self.reading.model),
            qualitative_evaluations=[QualitativeEvaluation(codes.PROCESSING_SUMMARY, codes.NONE_SUCCEEDED)],
        )

    def _group(
        self,
        row: SegmentRow | None,
        tracking: TrackingIdentifier,
        finding: Code,
        category: Code,
        algorithm: AlgorithmIdentification,
        site: FindingSite | None = None,
        measurements: Sequence[Measurement] = (),
        evaluations: Sequence[QualitativeEvaluation] = (),
    ) -> Group:
        sites = [site] if site else None
        if row is None:
            return MeasurementsAndQualitativeEvaluations(
                tracking_identifier=tracking,
                finding_type=finding,
                finding_category=category,
                algorithm_id=algorithm,
                finding_sites=sites,
                measurements=list(measurements) or None,
                qualitative_evaluations=list(evaluations) or None,
            )
        return VolumetricROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=tracking,
            referenced_segment=ReferencedSegment(
                sop_class_uid=SegmentationStorage,
                sop_instance_uid=self.names.instance(Kind.SEG),
                segment_number=row.number,
                source_series=SourceSeriesForSegmentation(self.names.series_uid),
            ),
            finding_type=finding,
            finding_category=category,
            algorithm_id=algorithm,
            finding_sites=sites,
            measurements=list(measurements) or None,
            qualitative_evaluations=list(evaluations) or None,
        )


def percent(probability: float) -> float:
    """A probability 0..1 in percent, with one decimal."""
    return round(probability * 100.0, 1)


def algorithm_identification(
    algorithm: AlgorithmIdentity, finding: Finding | None = None, with_parameters: bool = True
) -> AlgorithmIdentification:
    """TID 4019; the parameters (`key=value`) name weights, operating points and calibration, and mark a test model."""
    parameters = identity.algorithm_parameters(algorithm) if with_parameters else {}
    if finding is not None:
        parameters["calibrated"] = "yes" if finding.calibrated else "no"
        if finding.threshold is not None and finding.verdict is not Verdict.NO_OPERATING_POINT:
            parameters["threshold"] = repr(finding.threshold)
            if finding.absent_below is not None:
                parameters["absent_below"] = repr(finding.absent_below)
    return AlgorithmIdentification(
        name=algorithm.name,
        version=algorithm.version,
        parameters=[f"{key}={value}" for key, value in parameters.items()] or None,
        family=codes.ARTIFICIAL_INTELLIGENCE,
        manufacturer=algorithm.manufacturer,
    )


def _finite(value: float, anatomy: str, what: str) -> float:
    if not math.isfinite(value):
        raise WriteError(Reason.INTERNAL, f"{anatomy}: the {what} is not a number")
    return value
