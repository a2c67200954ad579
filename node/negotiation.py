"""Who may come in and what they may send: an A-ASSOCIATE-RQ is answered (PS3.8 sections 7.1 and 9.3).

pynetdicom decodes the request, chooses contexts and encodes the acceptance; nothing of it lives longer than that.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import ALL_TRANSFER_SYNTAXES, build_context
from pynetdicom import sop_class as sop
from pynetdicom.acse import APPLICATION_CONTEXT_NAME
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
)
from pynetdicom.presentation import negotiate_as_acceptor

from config import Reason
from config.settings import DicomSettings
from node.announced import INSTANCE_AVAILABILITY, MPPS
from node.commitment import STORAGE_COMMITMENT
from node.file_meta import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION
from node.upper_layer import Abort, ProtocolError, reject

STORAGE_CLASSES = (
    sop.CTImageStorage,
    sop.EnhancedCTImageStorage,
    sop.LegacyConvertedEnhancedCTImageStorage,
    sop.MRImageStorage,
    sop.PositronEmissionTomographyImageStorage,
    sop.SecondaryCaptureImageStorage,
    sop.MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    sop.MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    sop.MultiFrameTrueColorSecondaryCaptureImageStorage,
    sop.BasicTextSRStorage,
    sop.EnhancedSRStorage,
    sop.ComprehensiveSRStorage,
    sop.Comprehensive3DSRStorage,
    sop.ExtensibleSRStorage,
    sop.ChestCADSRStorage,
    sop.ColonCADSRStorage,
    sop.XRayRadiationDoseSRStorage,
    sop.EnhancedXRayRadiationDoseSRStorage,
    sop.PatientRadiationDoseSRStorage,
    sop.SegmentationStorage,
    sop.LabelMapSegmentationStorage,
    sop.SurfaceSegmentationStorage,
    sop.ParametricMapStorage,
    sop.KeyObjectSelectionDocumentStorage,
    sop.GrayscaleSoftcopyPresentationStateStorage,
    sop.EncapsulatedPDFStorage,
    sop.EncapsulatedCDAStorage,
)
"""What senders may put into an association beside CT. Only CT is read; SR and Key Object Selections may be feedback
(`node.feedback_arrivals`); the rest ends as NOT_CT, visibly."""
VERIFICATION = str(sop.Verification)
NOT_STORED = frozenset({VERIFICATION, STORAGE_COMMITMENT, MPPS, INSTANCE_AVAILABILITY})
"""Abstract syntaxes that are no storage."""
MORE_TRANSFER_SYNTAXES = (
    "1.2.840.10008.1.2.1.98",
    *(f"1.2.840.10008.1.2.4.{number}" for number in (52, 53, 54, 55, 56, 58, 59, 60, 61, 62, 63, 64, 65, 66)),
)
"""Taken beside those that pynetdicom names: Encapsulated Uncompressed, and retired JPEG processes (PS3.6 annex A)."""
_SMALL_SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]

_PERMANENT, _TRANSIENT = 1, 2
_SERVICE_USER, _ACSE, _PRESENTATION = 1, 2, 3
_CALLING_NOT_RECOGNIZED, _CALLED_NOT_RECOGNIZED, _PROTOCOL_VERSION, _LOCAL_LIMIT = 3, 7, 2, 2
"""PS3.8 table 9-21."""


@dataclass(frozen=True)
class Context:
    """An accepted presentation context."""

    abstract_syntax: str
    transfer_syntax: str


@dataclass(frozen=True)
class Accepted:
    """The association is taken."""

    answer: bytes
    """The A-ASSOCIATE-AC to send."""
    calling_ae: str
    contexts: Mapping[int, Context]
    """By presentation context id."""
    longest_pdu: int
    """Bytes that the peer takes in a PDU (its length field); 0: unlimited."""


@dataclass(frozen=True)
class Rejected:
    """The association is not taken."""

    answer: bytes
    """The A-ASSOCIATE-RJ to send."""
    calling_ae: str
    called_ae: str
    reason: Reason


class Negotiator:
    """Answers association requests for one set of settings. From any thread."""

    def __init__(self, settings: DicomSettings) -> None:
        self._settings = settings
        commitment = build_context(STORAGE_COMMITMENT, _SMALL_SYNTAXES)
        commitment.scu_role = commitment.scp_role = True  # who reports on an association of its own is SCP there
        offered = [build_context(VERIFICATION), commitment]
        for announcement in (MPPS, INSTANCE_AVAILABILITY):
            offered.append(build_context(announcement, _SMALL_SYNTAXES))
        for storage in dict.fromkeys((*STORAGE_CLASSES, *settings.more_storage_classes)):
            offered.append(build_context(storage, [*ALL_TRANSFER_SYNTAXES, *MORE_TRANSFER_SYNTAXES]))
        self._offered = {str(context.abstract_syntax): context for context in offered}

    def answer(self, request: bytes, full: bool) -> Accepted | Rejected:
        """The answer to an A-ASSOCIATE-RQ, given as a whole PDU. `full`: there is no place for one more association.

        Raises ProtocolError if it cannot be understood.
        """
        pdu = A_ASSOCIATE_RQ()
        try:
            pdu.decode(request)
            wanted: Any = pdu.to_primitive()
            if rejected := self._reject(pdu, full):
                return rejected
            return self._accept(wanted)
        except ProtocolError:
            raise
        except Exception as error:  # pynetdicom's decoders raise nearly any type on damaged bytes; each means the same
            raise ProtocolError(Abort.INVALID_PARAMETER, "the association request cannot be decoded") from error

    def _reject(self, pdu: A_ASSOCIATE_RQ, full: bool) -> Rejected | None:
        calling, called = str(pdu.calling_ae_title), str(pdu.called_ae_title)
        if not pdu.protocol_version & 1:
            code, reason = (_PERMANENT, _ACSE, _PROTOCOL_VERSION), Reason.PROTOCOL_ERROR
        elif full:
            code, reason = (_TRANSIENT, _PRESENTATION, _LOCAL_LIMIT), Reason.TOO_MANY_ASSOCIATIONS
        elif called != self._settings.ae_title:
            code, reason = (_PERMANENT, _SERVICE_USER, _CALLED_NOT_RECOGNIZED), Reason.WRONG_CALLED_AE
        elif calling not in self._settings.accept_from:
            code, reason = (_PERMANENT, _SERVICE_USER, _CALLING_NOT_RECOGNIZED), Reason.UNKNOWN_AE
        else:
            return None
        return Rejected(reject(*code), calling, called, reason)

    def _accept(self, wanted: Any) -> Accepted:
        proposed = wanted.presentation_context_definition_list
        ids = [context.context_id for context in proposed]
        if len(ids) != len(set(ids)):
            raise ProtocolError(Abort.INVALID_PARAMETER, "a presentation context id stands for two contexts")
        # Only what is proposed: negotiation takes time for each context that is offered.
        names = {str(context.abstract_syntax) for context in proposed}
        names -= self._not_for(str(wanted.calling_ae_title))
        offered = [context for name, context in self._offered.items() if name in names]
        asked = [i for i in wanted.user_information if isinstance(i, SCP_SCU_RoleSelectionNegotiation)]
        results, roles = negotiate_as_acceptor(
            proposed, offered, {item.sop_class_uid: (item.scu_role, item.scp_role) for item in asked}
        )
        acceptance = A_ASSOCIATE()
        acceptance.application_context_name = UID(APPLICATION_CONTEXT_NAME)
        acceptance.calling_ae_title, acceptance.called_ae_title = wanted.calling_ae_title, wanted.called_ae_title
        acceptance.result, acceptance.result_source = 0, 1
        acceptance.presentation_context_definition_results_list = results
        acceptance.user_information = [*self._about_us(), *roles]
        accepted = {
            int(context.context_id): Context(str(context.abstract_syntax), str(context.transfer_syntax[0]))
            for context in results
            if context.result == 0
        }
        longest = next(
            (i.maximum_length_received for i in wanted.user_information if isinstance(i, MaximumLengthNotification)), 0
        )
        return Accepted(A_ASSOCIATE_AC(acceptance).encode(), str(wanted.calling_ae_title), accepted, int(longest or 0))

    def _not_for(self, calling: str) -> set[str]:
        """Abstract syntaxes that this caller is not offered."""
        takes = {MPPS: self._settings.mpps_from, INSTANCE_AVAILABILITY: self._settings.ian_from}
        return {name for name, titles in takes.items() if calling not in titles}

    def _about_us(self) -> list[Any]:
        """No asynchronous operations window: one operation at a time (PS3.7 D.3.3.3)."""
        length = MaximumLengthNotification()
        length.maximum_length_received = self._settings.max_pdu
        implementation = ImplementationClassUIDNotification()
        implementation.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
        version = ImplementationVersionNameNotification()
        version.implementation_version_name = IMPLEMENTATION_VERSION
        return [length, implementation, version]
