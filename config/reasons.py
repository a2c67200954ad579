"""The stable reason codes: every refusal, rejection or failure names one of them in log, table, console and SR."""

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why something was refused, not assessed or failed. Values never change once released."""

    # what came in
    NOT_DICOM = "NOT_DICOM"
    TRUNCATED = "TRUNCATED"
    BAD_UID = "BAD_UID"
    DUPLICATE_CONFLICT = "DUPLICATE_CONFLICT"
    CLASS_NOT_TAKEN = "CLASS_NOT_TAKEN"
    OBJECT_TOO_LARGE = "OBJECT_TOO_LARGE"
    WRONG_STUDY = "WRONG_STUDY"
    GONE_AT_SOURCE = "GONE_AT_SOURCE"
    # vetting of a series
    IMAGES_DELETED = "IMAGES_DELETED"
    MIXED_PATIENT = "MIXED_PATIENT"
    MIXED_STUDY = "MIXED_STUDY"
    NOT_CT = "NOT_CT"
    LOCALIZER = "LOCALIZER"
    MULTI_FRAME = "MULTI_FRAME"
    TOO_FEW_SLICES = "TOO_FEW_SLICES"
    TOO_MANY_SLICES = "TOO_MANY_SLICES"
    NO_GEOMETRY = "NO_GEOMETRY"
    NON_AXIAL = "NON_AXIAL"
    TILT = "TILT"
    MIXED_ORIENTATION = "MIXED_ORIENTATION"
    MIXED_SIZE = "MIXED_SIZE"
    MIXED_FRAME_OF_REFERENCE = "MIXED_FRAME_OF_REFERENCE"
    GEOM_DUPLICATE = "GEOM_DUPLICATE"
    GEOM_GAP = "GEOM_GAP"
    GEOM_IRREGULAR = "GEOM_IRREGULAR"
    NO_PIXELS = "NO_PIXELS"
    UNDECODABLE = "UNDECODABLE"
    BAD_RESCALE = "BAD_RESCALE"
    # routing rules
    SKIPPED_BY_RULE = "SKIPPED_BY_RULE"
    NO_RULE = "NO_RULE"
    NOT_BEST_SERIES = "NOT_BEST_SERIES"
    # reading
    ANATOMY_ABSENT = "ANATOMY_ABSENT"
    ANATOMY_CUT_OFF = "ANATOMY_CUT_OFF"
    ANATOMY_TOO_SMALL = "ANATOMY_TOO_SMALL"
    ANATOMY_TOO_LARGE = "ANATOMY_TOO_LARGE"
    ANATOMY_IMPLAUSIBLE_HU = "ANATOMY_IMPLAUSIBLE_HU"
    ANATOMY_FRAGMENTED = "ANATOMY_FRAGMENTED"
    ANATOMY_SIDES_SWAPPED = "ANATOMY_SIDES_SWAPPED"
    ANATOMY_NOT_SEGMENTED = "ANATOMY_NOT_SEGMENTED"
    NOT_ASKED = "NOT_ASKED"
    PRESET_UNFIT = "PRESET_UNFIT"
    # reports of others
    NOT_A_REPORT = "NOT_A_REPORT"
    REPORT_DAMAGED = "REPORT_DAMAGED"
    REPORT_TOO_LARGE = "REPORT_TOO_LARGE"
    REPORT_ENCRYPTED = "REPORT_ENCRYPTED"
    REPORT_UNSAFE = "REPORT_UNSAFE"
    REPORT_NO_TEXT = "REPORT_NO_TEXT"
    # studies for training
    REPORT_NOT_ENGLISH = "REPORT_NOT_ENGLISH"
    VOLUME_MISSING = "VOLUME_MISSING"
    VOLUME_UNREADABLE = "VOLUME_UNREADABLE"
    MASK_UNUSABLE = "MASK_UNUSABLE"
    # what readers answer to results
    READER_FEEDBACK = "READER_FEEDBACK"
    FEEDBACK_UNKNOWN_RESULT = "FEEDBACK_UNKNOWN_RESULT"
    FEEDBACK_OTHER_STUDY = "FEEDBACK_OTHER_STUDY"
    FEEDBACK_NOT_A_PERSON = "FEEDBACK_NOT_A_PERSON"
    FEEDBACK_NOTHING_SAID = "FEEDBACK_NOTHING_SAID"
    # what is collected for training
    NO_REPORT = "NO_REPORT"
    NO_STUDY = "NO_STUDY"
    NO_PATIENT_ID = "NO_PATIENT_ID"
    NO_ORIGINAL_SERIES = "NO_ORIGINAL_SERIES"
    BURNED_IN = "BURNED_IN"
    INCOMPLETE_FETCH = "INCOMPLETE_FETCH"
    ARCHIVE_REFUSED = "ARCHIVE_REFUSED"
    REPORT_PRELIMINARY = "REPORT_PRELIMINARY"
    REPORT_BY_MACHINE = "REPORT_BY_MACHINE"
    REPORT_OTHER_PATIENT = "REPORT_OTHER_PATIENT"
    REPORT_AMBIGUOUS = "REPORT_AMBIGUOUS"
    STUDY_AMBIGUOUS = "STUDY_AMBIGUOUS"
    REPORT_NOT_SCRUBBED = "REPORT_NOT_SCRUBBED"
    # the node
    UNKNOWN_AE = "UNKNOWN_AE"
    WRONG_CALLED_AE = "WRONG_CALLED_AE"
    TOO_MANY_ASSOCIATIONS = "TOO_MANY_ASSOCIATIONS"
    PROTOCOL_ERROR = "PROTOCOL_ERROR"
    PEER_SILENT = "PEER_SILENT"
    TLS_CERTIFICATE_EXPIRED = "TLS_CERTIFICATE_EXPIRED"
    TLS_CERTIFICATE_UNTRUSTED = "TLS_CERTIFICATE_UNTRUSTED"
    TLS_CERTIFICATE_MISSING = "TLS_CERTIFICATE_MISSING"
    TLS_CERTIFICATE_REFUSED = "TLS_CERTIFICATE_REFUSED"
    TLS_EXPECTED = "TLS_EXPECTED"
    TLS_FAILED = "TLS_FAILED"
    DISK_FULL = "DISK_FULL"
    SPOOL_FAILED = "SPOOL_FAILED"
    MODEL_UNAVAILABLE = "MODEL_UNAVAILABLE"
    RELEASE_UNKNOWN = "RELEASE_UNKNOWN"
    RELEASE_DAMAGED = "RELEASE_DAMAGED"
    RELEASE_UNFIT = "RELEASE_UNFIT"
    RELEASE_GONE = "RELEASE_GONE"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    DEVICE_ERROR = "DEVICE_ERROR"
    TIME_LIMIT = "TIME_LIMIT"
    CANCELLED = "CANCELLED"
    ATTEMPTS_EXHAUSTED = "ATTEMPTS_EXHAUSTED"
    INVALID_OBJECT = "INVALID_OBJECT"
    PEER_UNREACHABLE = "PEER_UNREACHABLE"
    PEER_REFUSED = "PEER_REFUSED"
    NO_ADDRESS = "NO_ADDRESS"
    ADDRESS_NOT_ALLOWED = "ADDRESS_NOT_ALLOWED"
    STORED_WITH_WARNING = "STORED_WITH_WARNING"
    COMMITMENT_FAILED = "COMMITMENT_FAILED"
    COMMITMENT_TIMEOUT = "COMMITMENT_TIMEOUT"
    COMMITMENT_REFUSED = "COMMITMENT_REFUSED"
    COMMITMENT_UNSUPPORTED = "COMMITMENT_UNSUPPORTED"
    # worklists
    WORKITEM_UNUSABLE = "WORKITEM_UNUSABLE"
    WORKITEM_LOST = "WORKITEM_LOST"
    INPUTS_MISSING = "INPUTS_MISSING"
    INTERNAL = "INTERNAL"

    @property
    def meaning(self) -> str:
        """One line for a person: what it means."""
        return _TEXTS[self].meaning

    @property
    def cure(self) -> str:
        """One line for a person: what to do about it."""
        return _TEXTS[self].cure


BY_RULES = frozenset({Reason.SKIPPED_BY_RULE, Reason.NO_RULE, Reason.NOT_BEST_SERIES})
"""Why routing rules keep a series from being read."""


@dataclass(frozen=True)
class _Text:
    meaning: str
    cure: str


_TEXTS: dict[Reason, _Text] = {
    Reason.NOT_DICOM: _Text("The file is not DICOM.", "Send DICOM Part 10 files; export the series again."),
    Reason.TRUNCATED: _Text("The file or data set ends too early.", "Send the instance again."),
    Reason.BAD_UID: _Text("A UID is missing or not a valid DICOM UID.", "Correct it at the sender."),
    Reason.DUPLICATE_CONFLICT: _Text(
        "A SOP Instance UID came twice with different content.", "Find out which sender re-uses UIDs."
    ),
    Reason.CLASS_NOT_TAKEN: _Text(
        "The node does not take objects of this SOP class.", "Send CT; or add the class to dicom.more_storage_classes."
    ),
    Reason.OBJECT_TOO_LARGE: _Text("The object is larger than the node takes.", "Raise web.max_object_mb."),
    Reason.WRONG_STUDY: _Text(
        "The object is of another study than the one it was sent to, or asked for.", "Correct it at the sender."
    ),
    Reason.GONE_AT_SOURCE: _Text(
        "The archive no longer has what it announced, or does not give it.", "Look for the series there."
    ),
    Reason.IMAGES_DELETED: _Text(
        "Images of the series that came earlier were deleted from the spool: what came now is not the whole series.",
        "Send the whole series again.",
    ),
    Reason.MIXED_PATIENT: _Text(
        "Images of one series name different patients.",
        "Find out which sender re-uses Series Instance UIDs or merged two patients; correct it there.",
    ),
    Reason.MIXED_STUDY: _Text(
        "Images of one series name different studies.", "Find out which sender re-uses Series Instance UIDs."
    ),
    Reason.NOT_CT: _Text("The series is not CT.", "Route CT Image Storage only."),
    Reason.LOCALIZER: _Text("The series is a localizer (scout).", "Nothing: localizers are not read."),
    Reason.MULTI_FRAME: _Text(
        "Enhanced multi-frame CT is not supported yet.", "Send the classic single-frame series of the scan."
    ),
    Reason.TOO_FEW_SLICES: _Text("The series has too few slices.", "Send the whole series."),
    Reason.TOO_MANY_SLICES: _Text("The series has more slices than the node accepts.", "Send one phase a series."),
    Reason.NO_GEOMETRY: _Text(
        "Position, orientation or pixel spacing is missing or not a number.", "Send original CT images."
    ),
    Reason.NON_AXIAL: _Text("The slices are not axial.", "Send the axial reconstruction."),
    Reason.TILT: _Text("The gantry was tilted: slices are sheared.", "Send a reconstruction without tilt."),
    Reason.MIXED_ORIENTATION: _Text("Slices have different orientations.", "Split the series at the sender."),
    Reason.MIXED_SIZE: _Text("Slices differ in rows, columns or pixel spacing.", "Split the series at the sender."),
    Reason.MIXED_FRAME_OF_REFERENCE: _Text(
        "Slices belong to different frames of reference.", "Split the series at the sender."
    ),
    Reason.GEOM_DUPLICATE: _Text(
        "Several slices lie at the same position.", "Send one phase or reconstruction a series."
    ),
    Reason.GEOM_GAP: _Text("Slices are missing inside the series.", "Send the missing slices."),
    Reason.GEOM_IRREGULAR: _Text("The slice spacing is irregular.", "Send a reconstruction of constant spacing."),
    Reason.NO_PIXELS: _Text("The instance has no pixel data.", "Send complete images."),
    Reason.UNDECODABLE: _Text("The pixel data cannot be decoded.", "Send it uncompressed."),
    Reason.BAD_RESCALE: _Text("Rescale slope or intercept is missing or unusable.", "Send original CT images."),
    Reason.SKIPPED_BY_RULE: _Text(
        "A routing rule says that such a series is not read.",
        "Nothing; if it should be read, change the rule, or: fvlm-node series read",
    ),
    Reason.NO_RULE: _Text(
        "No routing rule fits the series.",
        "Nothing; if it should be read, add a rule for it, or: fvlm-node series read",
    ),
    Reason.NOT_BEST_SERIES: _Text(
        "A better series of the same study is read instead.",
        "Nothing; if every series should be read, remove best_of_study from the rule; one: fvlm-node series read",
    ),
    Reason.ANATOMY_ABSENT: _Text("The anatomy is not in the scan.", "Nothing: it is outside the field of view."),
    Reason.ANATOMY_CUT_OFF: _Text("The anatomy is cut by the border of the scan.", "Scan the whole organ."),
    Reason.ANATOMY_TOO_SMALL: _Text("The segmented volume is implausibly small.", "Check the segmentation."),
    Reason.ANATOMY_TOO_LARGE: _Text("The segmented volume is implausibly large.", "Check the segmentation."),
    Reason.ANATOMY_IMPLAUSIBLE_HU: _Text(
        "The mean attenuation inside the mask is implausible.", "Check the segmentation and the HU scale."
    ),
    Reason.ANATOMY_FRAGMENTED: _Text(
        "The segmentation is scattered in pieces and shows no organ.", "Check the segmentation."
    ),
    Reason.ANATOMY_SIDES_SWAPPED: _Text(
        "What was segmented as left lies on the patient's right.",
        "Is the image mirrored? Check the patient position at the scanner, then the segmentation.",
    ),
    Reason.ANATOMY_NOT_SEGMENTED: _Text(
        "The segmentation provider does not know this anatomy.", "Choose a provider that segments it."
    ),
    Reason.NOT_ASKED: _Text(
        "The site's routing rules do not ask about this anatomy.",
        "Nothing; another preset in the rule asks about more.",
    ),
    Reason.PRESET_UNFIT: _Text(
        "The release asks no finding of the preset that the routing rule names.",
        "Name a preset of this release, or none; then: fvlm-node retry",
    ),
    Reason.NOT_A_REPORT: _Text(
        "It is no report of a kind that is read.",
        "Give a DICOM SR, encapsulated PDF or CDA, an ORU^R01 message or a FHIR DiagnosticReport.",
    ),
    Reason.REPORT_DAMAGED: _Text("The report is damaged or breaks its format's rules.", "Export it again."),
    Reason.REPORT_TOO_LARGE: _Text("The report is larger than any report is.", "Look at what it holds; split it."),
    Reason.REPORT_ENCRYPTED: _Text("The document asks for a password.", "Export it without encryption."),
    Reason.REPORT_UNSAFE: _Text(
        "The XML declares a document type or entities, which can be used for attacks.", "Export it without them."
    ),
    Reason.REPORT_NO_TEXT: _Text(
        "The report holds no text and no coded finding; it may be a scan.", "Nothing: there is nothing to read."
    ),
    Reason.REPORT_NOT_ENGLISH: _Text(
        "The report is in another language; its text can be taken apart in English only.", "Collect it translated."
    ),
    Reason.VOLUME_MISSING: _Text(
        "A table of the data set names a volume whose file is not there.", "Copy the volume, or do without it."
    ),
    Reason.VOLUME_UNREADABLE: _Text("The file of a volume is damaged, or its geometry is.", "Copy the file again."),
    Reason.MASK_UNUSABLE: _Text(
        "The label map of a study is missing, damaged, or lies on another grid than its CT.",
        "Make the masks of this very volume, or let the segmenter make them.",
    ),
    Reason.READER_FEEDBACK: _Text(
        "It is a reader's answer to results of this node, and was taken as feedback.",
        "Nothing: fvlm-node feedback export shows it.",
    ),
    Reason.FEEDBACK_UNKNOWN_RESULT: _Text(
        "It refers to no finding and no object that this node has written.",
        "Import it on the node that wrote the result.",
    ),
    Reason.FEEDBACK_OTHER_STUDY: _Text(
        "It names a finding of this node, but is of another study or patient.",
        "Find out which workstation copies tracking UIDs from one patient to another.",
    ),
    Reason.FEEDBACK_NOT_A_PERSON: _Text(
        "No person is named as its observer: a machine's opinion of our result is no feedback.",
        "Let the workstation write the reader as observer or verifier.",
    ),
    Reason.FEEDBACK_NOTHING_SAID: _Text(
        "It says nothing about our findings that they do not say themselves.",
        "Change, remove or verify findings, or reject the result with a Key Object Selection.",
    ),
    Reason.NO_REPORT: _Text(
        "No report was found for the study.", "Name where reports are with --reports; it is looked for again next time."
    ),
    Reason.NO_STUDY: _Text(
        "The report names no CT study that was found in the archive.", "Ask for more days, or nothing."
    ),
    Reason.NO_PATIENT_ID: _Text(
        "The study has no Patient ID: whose it is decides on its split.", "Correct it in the archive."
    ),
    Reason.NO_ORIGINAL_SERIES: _Text(
        "The study has no original axial CT series.", "Nothing: reformats and captures are not taken."
    ),
    Reason.BURNED_IN: _Text(
        "The images say that annotations are burned into their pixels.", "Nothing: they may name the patient."
    ),
    Reason.INCOMPLETE_FETCH: _Text(
        "The archive gave fewer images than it lists.", "Nothing: it is tried again next time."
    ),
    Reason.ARCHIVE_REFUSED: _Text(
        "The archive refuses what is asked of it.",
        "Let its administrator allow it to the calling AE title or user; it is tried again next time.",
    ),
    Reason.REPORT_PRELIMINARY: _Text(
        "The only report is not final yet.", "Nothing: it is looked for again next time; or set unverified: true."
    ),
    Reason.REPORT_BY_MACHINE: _Text(
        "The only report was written by a device: an AI result, a measurement or a dose report.",
        "Nothing: training learns from radiologists.",
    ),
    Reason.REPORT_OTHER_PATIENT: _Text(
        "The report names the study, but another patient.", "Find out which system mixed them up."
    ),
    Reason.REPORT_AMBIGUOUS: _Text(
        "Several final reports with different texts belong to the study.", "Mark the valid one as corrected."
    ),
    Reason.STUDY_AMBIGUOUS: _Text(
        "The report fits several studies by accession number, patient and day.",
        "Give it the Study Instance UID of the right one.",
    ),
    Reason.REPORT_NOT_SCRUBBED: _Text(
        "Something known of the patient is left in the report after scrubbing, or it is too long to be scrubbed.",
        "Report the case; the study is left out.",
    ),
    Reason.UNKNOWN_AE: _Text("The calling AE title is not in the settings.", "Add the sender to dicom.accept_from."),
    Reason.WRONG_CALLED_AE: _Text(
        "The caller used another called AE title than the node's.", "Correct it at the sender, or set dicom.ae_title."
    ),
    Reason.TOO_MANY_ASSOCIATIONS: _Text(
        "More associations at once than the node takes.", "Let the sender try again, or raise dicom.max_associations."
    ),
    Reason.PROTOCOL_ERROR: _Text(
        "The peer does not keep to the DICOM protocol.", "The line's detail says how; ask the sender's vendor."
    ),
    Reason.PEER_SILENT: _Text(
        "The peer said nothing, or too little, for too long.",
        "Check the sender and the network, or raise dicom.network_timeout_s.",
    ),
    Reason.TLS_CERTIFICATE_EXPIRED: _Text(
        "The peer's TLS certificate has expired.", "Renew it at the peer; check the clocks of both machines."
    ),
    Reason.TLS_CERTIFICATE_UNTRUSTED: _Text(
        "The peer's TLS certificate is not of an authority that the node trusts, not valid yet, or not for this name.",
        "Put its authority into the ca file (dicom.tls, or tls of the destination or source); check tls.name.",
    ),
    Reason.TLS_CERTIFICATE_MISSING: _Text(
        "The peer showed no TLS certificate.", "Give it one, or set dicom.tls.client_certificate: false."
    ),
    Reason.TLS_CERTIFICATE_REFUSED: _Text(
        "The peer does not take the node's TLS certificate.",
        "See whether it has expired (fvlm-node doctor), and let the peer trust its authority.",
    ),
    Reason.TLS_EXPECTED: _Text(
        "One side spoke TLS and the other did not.", "Use dicom.port for plain DICOM and dicom.tls.port for TLS."
    ),
    Reason.TLS_FAILED: _Text(
        "No TLS connection came about: an old version of TLS, no common cipher, or damaged data.",
        "Let the peer speak TLS 1.2 or 1.3 with the ciphers of BCP 195.",
    ),
    Reason.SPOOL_FAILED: _Text(
        "The spool's disk reported an error.", "Check the disk; the kernel's log says more. Then send again."
    ),
    Reason.DISK_FULL: _Text("The spool's disk is below its low-water mark.", "Free space on the spool's disk."),
    Reason.MODEL_UNAVAILABLE: _Text(
        "The model release or the segmentation weights cannot be loaded.", "Run: fvlm-node doctor"
    ),
    Reason.OUT_OF_MEMORY: _Text(
        "The worker ran out of memory, in the smaller configuration too.",
        "Give the worker more memory, then: fvlm-node retry SERIES",
    ),
    Reason.DEVICE_ERROR: _Text(
        "The GPU reported an error.", "Look at the GPU (nvidia-smi, kernel log), then: fvlm-node retry SERIES"
    ),
    Reason.TIME_LIMIT: _Text(
        "The analysis took longer than work.time_limit_s.",
        "See in the analyze log where it stood; raise work.time_limit_s, then: fvlm-node retry SERIES",
    ),
    Reason.RELEASE_UNKNOWN: _Text(
        "The node knows no such release, or has none to go back to.",
        "Name the folder of a release, or the beginning of a digest that fvlm-node model list shows.",
    ),
    Reason.RELEASE_DAMAGED: _Text(
        "The release is not whole, or not what it was when it was sealed.",
        "Copy its folder again; fvlm-node model verify checks it.",
    ),
    Reason.RELEASE_UNFIT: _Text(
        "The release does not fit this node.", "Take a release whose anatomies and findings this version knows."
    ),
    Reason.RELEASE_GONE: _Text(
        "The release with which the study was begun is not there any more.",
        "Put its folder back, then fvlm-node retry; or read every series of the study again: fvlm-node rerun.",
    ),
    Reason.CANCELLED: _Text("Somebody cancelled the job.", "To run it after all: fvlm-node retry SERIES"),
    Reason.ATTEMPTS_EXHAUSTED: _Text(
        "Every attempt failed.", "See the job's detail, mend it, then: fvlm-node retry SERIES"
    ),
    Reason.INVALID_OBJECT: _Text("A result object did not pass validation.", "Report it with the series."),
    Reason.PEER_UNREACHABLE: _Text("The destination does not answer.", "Check host, port and firewall."),
    Reason.PEER_REFUSED: _Text(
        "The destination refused the object.", "Check its AE title list and SOP classes; then: fvlm-node retry SERIES"
    ),
    Reason.NO_ADDRESS: _Text(
        "The sender wants an answer, and the settings do not say where it is.",
        "Give its AE title, host and port under `sources`.",
    ),
    Reason.ADDRESS_NOT_ALLOWED: _Text(
        "The name of the destination leads to an address where it may not be; nothing was sent.",
        "If it really is there, add its network to `networks` of this message destination.",
    ),
    Reason.STORED_WITH_WARNING: _Text(
        "The destination stored the object and warned.", "The detail says of what; look at the object there."
    ),
    Reason.COMMITMENT_FAILED: _Text(
        "The destination says that it does not keep the object, each time it was sent.",
        "Ask its administrator, then: fvlm-node retry SERIES",
    ),
    Reason.COMMITMENT_TIMEOUT: _Text(
        "The destination stored the objects and never answered whether it keeps them.",
        "Let it know this node (AE title, host, port) and its AE title be in dicom.accept_from; "
        "then: fvlm-node retry SERIES",
    ),
    Reason.COMMITMENT_REFUSED: _Text(
        "The destination stored the objects and refuses to say whether it keeps them.",
        "Ask its administrator; then: fvlm-node retry SERIES, or set commitment: false for it",
    ),
    Reason.COMMITMENT_UNSUPPORTED: _Text(
        "The destination stored the objects and does not offer storage commitment.",
        "If stored is enough, set commitment: false for this destination.",
    ),
    Reason.WORKITEM_UNUSABLE: _Text(
        "The workitem does not say what is to be read.",
        "Let its creator name study and series of each input in the Input Information Sequence.",
    ),
    Reason.WORKITEM_LOST: _Text(
        "The workitem was taken or ended by somebody else, or the worklist no longer has it.",
        "Nothing; if it happens often, see who else works on this worklist.",
    ),
    Reason.INPUTS_MISSING: _Text(
        "Images that the workitem names did not come.",
        "Set `source` of the worklist to where they are, or let them be sent; then schedule the work again.",
    ),
    Reason.INTERNAL: _Text("An unexpected error inside the node.", "Report it with the log lines of the job."),
}
