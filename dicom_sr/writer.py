"""A reading becomes DICOM objects."""

from collections.abc import Sequence
from copy import deepcopy

from pydicom import Dataset

from config import Output, Plan, Reason, load_vocabulary
from ct.anatomy import AnatomyMap
from ct.volume import Volume
from dicom_sr import companions, report, segmentation
from dicom_sr.companion import Case
from dicom_sr.errors import WriteError
from dicom_sr.identity import Names, WriteContext, in_zone_of
from dicom_sr.sources import working_copies
from fvlm.reading import Reading

_AIR = Plan()


def write(
    reading: Reading,
    anatomy_map: AnatomyMap,
    sources: Sequence[Dataset],
    context: WriteContext | None = None,
    plan: Plan = _AIR,
    volume: Volume | None = None,
) -> list[Dataset]:
    """Encode a reading as the objects of a plan, in the order in which they are to be sent: [SEG, ..., SR].

    There is no SEG if nothing was segmented, and no key objects or heat maps if nothing is present. `sources` are the
    headers of the CT instances in the order of `Volume.sources`; they are not changed. `volume` is needed for the
    summary page and the PDF. The same arguments give the same bytes. Raises WriteError, which names a reason code.
    """
    context = context or WriteContext()
    if not sources:
        raise WriteError(Reason.INTERNAL, "no source headers")
    headers = working_copies(sources, anatomy_map)
    moment = in_zone_of(headers[0], context.images_at or reading.analysed_at)
    names = Names.of(
        reading,
        sop_instance_uids=[str(header.SOPInstanceUID) for header in headers],
        series_uid=str(headers[0].SeriesInstanceUID),
        moment=moment,
        context=context,
    )
    vocabulary = load_vocabulary()
    try:
        parts = (reading, anatomy_map, headers, names, context, moment, vocabulary)
        segments = segmentation.build(*parts)
        evidence = [deepcopy(headers[0]), *headers[1:]]  # the encoders put the first header's own elements in
        document = report.build(reading, segments, evidence, names, context, moment, vocabulary)
        case = Case(*parts)
        made = [] if segments is None else [segments.dataset]
        if segments is not None and Output.LABEL_MAP in plan.outputs:
            made.append(segmentation.build_label_map(segments.rows, *parts))
        return companions.add(case, made, document, plan, volume)
    except WriteError:
        raise
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        # what highdicom raises for headers it cannot encode; its texts may quote values, so only the type is told
        raise WriteError(Reason.INVALID_OBJECT, f"{type(error).__name__} while encoding") from error
