"""The answer to a STOW-RS request: the Store Instances Response Module (PS3.18 section 10.5.3 and annex I).

As DICOM JSON (PS3.18 annex F) or as XML (Native DICOM Model, PS3.19 section A.1).
"""

import json
from collections.abc import Sequence
from xml.etree import ElementTree

from pydicom import DataElement, Dataset

from config import Reason
from node.web.stow import Outcome

JSON, XML = "application/dicom+json", "application/dicom+xml"
_OTHER_NAMES = {"application/json": JSON, "*/*": JSON, "application/*": JSON, "application/xml": XML, "text/xml": XML}
_NAMESPACE = "http://dicom.nema.org/PS3.19/models/NativeDICOM"
_BUSY = (Reason.DISK_FULL, Reason.SPOOL_FAILED)


def status_of(outcomes: Sequence[Outcome], broken: bool) -> int:
    """The HTTP status (PS3.18 table 10.5.3-1): 200 all stored, 202 some, 409 none; and, if none: 400 the message cannot
    be read, 413 too large, 503 the node has no place now.
    """
    refused = [outcome.refused.reason for outcome in outcomes if outcome.refused is not None]
    if len(refused) < len(outcomes):
        return 202 if refused else 200
    if broken or not refused:
        return 400
    if all(reason in _BUSY for reason in refused):
        return 503
    if all(reason is Reason.OBJECT_TOO_LARGE for reason in refused):
        return 413
    return 409


def response_module(outcomes: Sequence[Outcome]) -> Dataset:
    """Referenced SOP Sequence (0008,1199): what is stored; Failed SOP Sequence (0008,1198): what is not; Other Failures
    Sequence (0008,119A): what cannot even be named. Retrieve URL is empty: the node gives nothing back over DICOMweb.
    """
    told = Dataset()
    told.RetrieveURL = ""
    stored: list[Dataset] = []
    failed: list[Dataset] = []
    other: list[Dataset] = []
    for outcome in outcomes:
        item = Dataset()
        if outcome.origin is not None:
            item.ReferencedSOPClassUID = outcome.origin.sop_class_uid
            item.ReferencedSOPInstanceUID = outcome.origin.sop_instance_uid
        if outcome.refused is None:
            item.RetrieveURL = ""
            stored.append(item)
            continue
        item.FailureReason = outcome.refused.status
        (other if outcome.origin is None else failed).append(item)
    if stored:
        told.ReferencedSOPSequence = stored
    if failed:
        told.FailedSOPSequence = failed
    if other:
        told.OtherFailuresSequence = other
    return told


def chosen_type(accept: str) -> str | None:
    """JSON or XML, whichever an Accept header prefers; None if it wants neither."""
    best, weight = None, 0.0
    for part in accept.split(",") if accept.strip() else ["*/*"]:
        name, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = next((parameter[2:] for parameter in parameters if parameter.startswith("q=")), "1")
        try:
            q = float(quality)
        except ValueError:
            q = 0.0
        known = name if name in (JSON, XML) else _OTHER_NAMES.get(name)
        if known is not None and q > weight:
            best, weight = known, q
    return best


def encoded(told: Dataset, kind: str) -> bytes:
    """The response module as JSON or XML."""
    if kind == JSON:
        return json.dumps(told.to_json_dict()).encode()
    root = ElementTree.Element("NativeDicomModel", {"xmlns": _NAMESPACE, "xml:space": "preserve"})
    _add(root, told)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


def _add(parent: ElementTree.Element, dataset: Dataset) -> None:
    for element in dataset:
        attributes = {"tag": f"{int(element.tag):08X}", "vr": element.VR, "keyword": element.keyword}
        node = ElementTree.SubElement(parent, "DicomAttribute", attributes)
        for number, value in enumerate(_values(element), 1):
            kind = "Item" if element.VR == "SQ" else "Value"
            child = ElementTree.SubElement(node, kind, {"number": str(number)})
            if isinstance(value, Dataset):
                _add(child, value)
            else:
                child.text = str(value)


def _values(element: DataElement) -> Sequence[object]:
    if element.VR == "SQ":
        return list(element.value)
    return [] if element.is_empty else [element.value]
