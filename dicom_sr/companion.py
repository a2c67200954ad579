"""What all objects of one reading beside SEG and SR are made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from config import Vocabulary
from ct.anatomy import AnatomyMap
from dicom_sr import identity
from dicom_sr.identity import Kind, Names, WriteContext
from fvlm.reading import Finding, Reading


@dataclass(frozen=True)
class Case:
    """One reading, where it comes from, and under which names it is written."""

    reading: Reading
    anatomy_map: AnatomyMap
    headers: Sequence[Dataset]
    """Working copies (`sources.working_copies`) of the source headers, in the order of the source slices."""
    names: Names
    context: WriteContext
    moment: datetime
    vocabulary: Vocabulary

    def arguments(self, kind: Kind, which: str = "1") -> dict[str, Any]:
        """What the constructor of every highdicom object takes. `which`: see `Names.series`."""
        return {
            "series_instance_uid": self.names.series(kind, which),
            "series_number": kind.series_number,
            "sop_instance_uid": self.names.instance(kind, which),
            "instance_number": 1,
            "manufacturer": identity.MANUFACTURER,
            "manufacturer_model_name": identity.PRODUCT,
            "software_versions": identity.software_versions(self.reading, self.context),
            "device_serial_number": identity.long_string(self.context.device_uid),
            "contributing_equipment": identity.contributing_equipment(self.reading, self.moment),
            "series_description": kind.series_description(self.reading.test_only),
            "transfer_syntax_uid": ExplicitVRLittleEndian,
            "content_date": self.moment.date(),
            "content_time": self.moment.time(),
        }

    def finish(self, dataset: Dataset) -> None:
        """Fill what the encoders leave open or take from the clock."""
        identity.stamp(dataset, self.moment, self.context, self.headers[0])

    @property
    def body_part(self) -> str:
        """Body Part Examined (0018,0015): the source's, else by the anatomies that were looked at (PS3.16 annex L)."""
        told = self.headers[0].get("BodyPartExamined")
        if told:
            return str(told)
        found = {anatomy.anatomy for anatomy in self.reading.anatomies}
        chest, abdomen = "lung" in found, "liver" in found
        return "CHEST" if chest and not abdomen else "ABDOMEN" if abdomen and not chest else "CHESTABDOMEN"

    def title(self, finding: Finding) -> str:
        """`Pleural effusion`."""
        return self.vocabulary.finding(finding.key).title

    def site(self, finding: Finding) -> str:
        """`Lung`."""
        return self.vocabulary.anatomy(finding.anatomy).title


def reference_to(instance: Dataset) -> Dataset:
    """An item that refers to an instance by SOP class and UID (PS3.3 table 10-11)."""
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = instance.SOPClassUID, instance.SOPInstanceUID
    return reference
