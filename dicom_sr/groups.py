"""The measurement groups of the report: one an organ or side of it, one a finding."""

from dataclasses import dataclass

from highdicom.sr import FindingSite, QualitativeEvaluation, ReferencedSegment, TrackingIdentifier

from config import Vocabulary
from dicom_sr import codes, identity, templates
from dicom_sr.identity import Kind, Names
from dicom_sr.prior import Prior
from dicom_sr.segmentation import SegmentRow, Segments
from dicom_sr.templates import Group, algorithm_identification, percent
from fvlm.reading import AnatomyReading, Finding, Reading, Verdict

__all__ = ["Group", "GroupWriter", "percent"]


@dataclass(frozen=True)
class GroupWriter:
    """Turns the parts of a reading into measurement groups that point at the segments."""

    reading: Reading
    segments: Segments | None
    names: Names
    vocabulary: Vocabulary
    prior: Prior | None = None

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

    def organ(self, anatomy: AnatomyReading, row: SegmentRow | None) -> Group:
        """Site, volume (mm3) and mean attenuation (HU) of an assessed anatomy, or of its one side that `row` is.

        It has the tracking pair of its segment.
        """
        name, segmenter = anatomy.anatomy, self.reading.segmenter
        cubic_mm, hu = anatomy.volume_ml * 1000.0, anatomy.mean_hu
        if row is not None and row.laterality is not None:
            cubic_mm, hu = row.volume_mm3, row.mean_hu
        return templates.measurement_group(
            tracking=self._tracking(name, row),
            algorithm=algorithm_identification(segmenter, identity.algorithm_parameters(segmenter)),
            region=self._region((row,) if row else ()),
            finding=codes.coded(self.vocabulary.anatomy(name).code),
            category=codes.ANATOMICAL_STRUCTURE,
            site=self._site(name, row),
            measurements=[
                templates.volume(name, cubic_mm, segmenter),
                templates.mean_attenuation(name, hu, segmenter),
            ],
        )

    def unread_organ(self, row: SegmentRow) -> Group:
        """A segment of an anatomy that was not assessed: no numbers."""
        segmenter = self.reading.segmenter
        code = codes.coded(self.vocabulary.anatomy(row.anatomy).code)
        return templates.measurement_group(
            tracking=self._tracking(row.anatomy, row),
            algorithm=algorithm_identification(segmenter, identity.algorithm_parameters(segmenter)),
            region=self._region((row,)),
            finding=code,
            category=codes.ANATOMICAL_STRUCTURE,
            site=self._site(row.anatomy, row),
            evaluations=[QualitativeEvaluation(code, codes.NOT_EVALUATED)],
        )

    def finding(self, finding: Finding) -> Group:
        """The certainty of a finding in percent, its verdict where there is an operating point, and its change.

        The region is the whole anatomy that was analysed, not the lesion; the tracking identifier says so. The model
        reads a paired anatomy as one: its region is both sides' segments, and its site has no laterality.
        """
        kind = self.vocabulary.finding(finding.key)
        model = self.reading.model
        verdict = codes.VERDICTS.get(finding.verdict)
        changed = self.prior.change(finding) if self.prior else None
        title = self.vocabulary.anatomy(finding.anatomy).title
        return templates.measurement_group(
            tracking=TrackingIdentifier(self.names.tracking(finding.key), f"{title} (analysed region): {kind.title}"),
            algorithm=algorithm_identification(model, {**identity.algorithm_parameters(model), **_points(finding)}),
            region=self._region(self._rows(finding.anatomy)),
            finding=codes.coded(kind.code),
            category=codes.CLINICAL_FINDING,
            site=self._site(finding.anatomy, None),
            measurements=[templates.certainty(finding.key, finding.probability, model)],
            evaluations=[
                *([QualitativeEvaluation(codes.coded(kind.code), verdict)] if verdict else []),
                *([QualitativeEvaluation(codes.CHANGE, codes.change(changed))] if changed else []),
            ],
        )

    def nothing(self) -> Group:
        """The one group of a report without any assessed or segmented anatomy."""
        model = self.reading.model
        return templates.measurement_group(
            tracking=TrackingIdentifier(self.names.tracking("summary"), "AI reading: nothing assessed"),
            algorithm=algorithm_identification(model, identity.algorithm_parameters(model)),
            evaluations=[QualitativeEvaluation(codes.PROCESSING_SUMMARY, codes.NONE_SUCCEEDED)],
        )

    def _rows(self, anatomy: str) -> tuple[SegmentRow, ...]:
        return () if self.segments is None else self.segments.of(anatomy)

    def _region(self, rows: tuple[SegmentRow, ...]) -> ReferencedSegment | None:
        if not rows:
            return None
        numbers = [row.number for row in rows]
        return templates.referenced_segments(self.names.instance(Kind.SEG), numbers, self.names.series_uid)

    def _tracking(self, anatomy: str, row: SegmentRow | None) -> TrackingIdentifier:
        if row is None:
            return TrackingIdentifier(self.names.tracking(anatomy), self.vocabulary.anatomy(anatomy).title)
        return TrackingIdentifier(row.tracking_uid, row.tracking_id)

    def _site(self, anatomy: str, row: SegmentRow | None) -> FindingSite:
        """The anatomy, and the side of one that is a segment of its own."""
        side = row.laterality if row else None
        return FindingSite(
            anatomic_location=codes.coded(self.vocabulary.anatomy(anatomy).code),
            laterality=codes.SIDES[side] if side else None,
        )


def _points(finding: Finding) -> dict[str, str]:
    """Calibration and operating points of a finding as algorithm parameters."""
    parameters = {"calibrated": "yes" if finding.calibrated else "no"}
    if finding.threshold is not None and finding.verdict is not Verdict.NO_OPERATING_POINT:
        parameters["threshold"] = repr(finding.threshold)
        if finding.absent_below is not None:
            parameters["absent_below"] = repr(finding.absent_below)
    return parameters
