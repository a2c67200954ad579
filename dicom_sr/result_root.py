"""The SR as root of the results: every other object of the run can be reached from it (IHE AI Results)."""

from collections.abc import Sequence

from pydicom import Dataset

from dicom_sr.companion import reference_to
from dicom_sr.identity import derive_uid


def link(document: Dataset, objects: Sequence[Dataset]) -> None:
    """Name `objects` of the same study in the SR's Current Requested Procedure Evidence Sequence.

    That sequence holds every object made for the procedure of which the creator is aware, also what the content tree
    does not mention (PS3.3 C.17.2). What is named there already stays once. An SR that names more is another document,
    under UIDs of its own: one UID never has two contents.
    """
    (study,) = document.CurrentRequestedProcedureEvidenceSequence
    named = {
        str(reference.ReferencedSOPInstanceUID)
        for series in study.ReferencedSeriesSequence
        for reference in series.ReferencedSOPSequence
    }
    added = [made for made in objects if str(made.SOPInstanceUID) not in named]
    for made in added:
        series = Dataset()
        series.SeriesInstanceUID = made.SeriesInstanceUID
        series.ReferencedSOPSequence = [reference_to(made)]
        study.ReferencedSeriesSequence.append(series)
    if added:
        uids = sorted(str(made.SOPInstanceUID) for made in added)
        document.SeriesInstanceUID = derive_uid("root", str(document.SeriesInstanceUID), *uids)
        document.SOPInstanceUID = derive_uid("root", str(document.SOPInstanceUID), *uids)
        document.file_meta.MediaStorageSOPInstanceUID = document.SOPInstanceUID
