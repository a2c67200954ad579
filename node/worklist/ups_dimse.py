"""A worklist over DIMSE: UPS Pull SOP class (PS3.4 annex CC): C-FIND, N-GET, N-ACTION, N-SET."""

from typing import Any, Self

from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.sop_class import UnifiedProcedureStepPull, UnifiedProcedureStepPush

from config import Reason
from config.settings import Destination
from config.worklist_settings import DimseWorklist
from node.dimse_link import AwayError, open_association, require
from node.scu import cut
from node.worklist.link import MOST_MATCHES, Fate, Reply, WorklistAwayError, state_change
from node.worklist.workitem import Code, StepState, Workitem, WorkitemError

_CHANGE_STATE = 1
"""Action Type ID (PS3.4 table CC.2.1-1)."""
_PENDING = (0xFF00, 0xFF01)
_DONE = {0x0000, 0x0001, 0xB304, 0xB305, 0xB306}
"""Success, and the warnings that say that it is as asked for (PS3.4 tables CC.2.1-2, CC.2.6-1)."""
_CONFLICT = {0xC300, 0xC301, 0xC302, 0xC303, 0xC304, 0xC310, 0xC311}
_GONE = {0xC307, 0x0112}
_READ = (0x00741000, 0x00404041, 0x00741200, 0x00404025, 0x00404018, 0x00404021)
"""State, readiness, priority, station, workitem code, inputs."""


class DimseWorklistLink:
    """A `WorklistLink`: one association."""

    def __init__(self, worklist: DimseWorklist, calling: str, timeout_s: float) -> None:
        """Raises WorklistAwayError if no association comes about that offers the service."""
        ae = AE(ae_title=calling)
        ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = timeout_s
        ae.add_requested_context(UnifiedProcedureStepPull, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        peer = Destination(ae_title=worklist.ae_title, host=worklist.host, port=worklist.port, tls=worklist.tls)
        self._where = worklist.where
        try:
            self._association = open_association(ae, peer)
            require(self._association, peer)
        except AwayError as error:
            raise WorklistAwayError(error.outcome.reason or Reason.PEER_UNREACHABLE, error.outcome.detail) from error
        if not self._association.accepted_contexts:
            self.__exit__()
            raise WorklistAwayError(Reason.PEER_REFUSED, f"{self._where} does not offer Unified Procedure Step Pull")

    def search(self, station: Code, procedures: tuple[Code, ...]) -> tuple[list[Workitem], int]:
        found: dict[str, Workitem] = {}
        unreadable = 0
        keys = [("ScheduledWorkitemCodeSequence", code) for code in procedures]
        for keyword, code in keys or [("ScheduledStationNameCodeSequence", station)]:
            for match in self._find(keyword, code):
                try:
                    item = Workitem.from_dataset(match)
                    found[item.uid] = item
                except WorkitemError:
                    unreadable += 1
        return list(found.values()), unreadable

    def retrieve(self, uid: str) -> Workitem | None:
        status, dataset = self._request(
            self._association.send_n_get, list(_READ), UnifiedProcedureStepPush, uid, meta_uid=UnifiedProcedureStepPull
        )
        if status in _GONE:
            return None
        if status not in (0x0000, 0x0001) or dataset is None:
            raise WorkitemError(f"the worklist does not give it: status 0x{status:04X}")
        dataset.SOPInstanceUID = uid  # N-GET need not return it
        return Workitem.from_dataset(dataset)

    def change_state(self, uid: str, transaction: str, state: StepState) -> Reply:
        status, _ = self._request(
            self._association.send_n_action,
            state_change(transaction, state),
            _CHANGE_STATE,
            UnifiedProcedureStepPush,
            uid,
            meta_uid=UnifiedProcedureStepPull,
        )
        return judge(status)

    def update(self, uid: str, transaction: str, changes: Dataset) -> Reply:
        changes.TransactionUID = transaction
        status, _ = self._request(
            self._association.send_n_set, changes, UnifiedProcedureStepPush, uid, meta_uid=UnifiedProcedureStepPull
        )
        return judge(status)

    def _find(self, keyword: str, code: Code) -> list[Dataset]:
        """Raises WorklistAwayError."""
        query: Any = Dataset()
        query.SOPInstanceUID, query.ScheduledProcedureStepPriority = "", ""
        query.ProcedureStepState, query.InputReadinessState = str(StepState.SCHEDULED), "READY"
        for sequence in ("ScheduledStationNameCodeSequence", "ScheduledWorkitemCodeSequence"):
            item = Dataset()
            item.CodeValue, item.CodingSchemeDesignator = (code.value, code.scheme) if sequence == keyword else ("", "")
            setattr(query, sequence, [item])
        matches: list[Dataset] = []
        status: int | None = None
        try:
            for answer, match in self._association.send_c_find(query, UnifiedProcedureStepPull):
                status = answer.get("Status")
                if status in _PENDING and match is not None and len(matches) < MOST_MATCHES:
                    matches.append(match)
        except (RuntimeError, ValueError) as error:
            raise self._ended() from error
        if status is None:
            raise self._ended()
        if status != 0x0000:
            raise WorklistAwayError(Reason.PEER_REFUSED, f"{self._where} refuses C-FIND: status 0x{status:04X}")
        return matches

    def _request(self, send: Any, *arguments: Any, **more: Any) -> tuple[int, Dataset | None]:
        """Status and data set. Raises WorklistAwayError if no answer came."""
        try:
            answer, dataset = send(*arguments, **more)
        except (RuntimeError, ValueError) as error:
            raise self._ended() from error
        if "Status" not in answer:
            raise self._ended()
        return int(answer.Status), dataset

    def _ended(self) -> WorklistAwayError:
        cut(self._association)
        return WorklistAwayError(Reason.PEER_SILENT, f"{self._where} ended the association, or did not answer in time")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._association.is_established:
            self._association.release()


def judge(status: int) -> Reply:
    """What the status of an N-ACTION or N-SET means (PS3.4 tables CC.2.1-2 and CC.2.6-1)."""
    detail = f"status 0x{status:04X}"
    if status in _DONE:
        return Reply(Fate.DONE, detail)
    if status in _CONFLICT:
        return Reply(Fate.CONFLICT, detail)
    return Reply(Fate.GONE if status in _GONE else Fate.REFUSED, detail)
