"""One study becomes one shard, or a reason why not."""

import hashlib
from pathlib import Path

from config import Reason
from ct.anatomy import AnatomyMeasure, SegmenterWeightsError, UInt8Array
from ct.volume import Int16Array
from training.report_text import AnatomyText
from training.shards.body_crop import BodyCrop, crop_body
from training.shards.folder import Entry, Skipped
from training.shards.format import SUFFIX, Fit, Shard, ShardError, open_shard, write_shard
from training.shards.plan import ShardPlan
from training.shards.record import AnatomyRecord, StudyRecord
from training.shards.texts import RULES, Texts, anatomy_texts, labels
from training.study import Study, StudyError

_UNFOUND = AnatomyMeasure(0, 0.0, float("nan"), Reason.ANATOMY_NOT_SEGMENTED)


def make(study: Study, texts: Texts | None, engine: str, plan: ShardPlan, folder: Path, fit: Fit) -> Entry | Skipped:
    """Write the shard of one study. Where there is one, only its text is made anew. Raises OSError.

    `texts` None: by rules. Raises `ct.anatomy.SegmenterWeightsError` as well.
    """
    path = folder / shard_file(study)
    try:
        if not study.report.strip():
            raise StudyError(Reason.REPORT_NO_TEXT, "the report has no text")
        said = anatomy_texts(study, plan.anatomies, texts)
        old = _whole(path, fit)
        record, image, voxel_labels = _imaged(study, plan, said) if old is None else _again(old, said)
    except StudyError as error:
        return Skipped(source=study.source, key=study.key, reason=error.reason, text=str(error))
    except MemoryError:
        return Skipped(source=study.source, key=study.key, reason=Reason.OUT_OF_MEMORY, text="out of memory")
    except SegmenterWeightsError:
        raise
    except Exception as error:  # one bad file must not end a run of days; its text may quote the file, so only its kind
        return Skipped(source=study.source, key=study.key, reason=Reason.INTERNAL, text=type(error).__name__)
    record = record.model_copy(
        update={
            "scan": study.scan,
            "subject": study.subject,
            "split": study.split,
            "report": study.report,
            "labels": labels(study),
            "known": tuple(sorted(study.known)),
            "attributes": dict(study.attributes),
            "provenance": {**record.provenance, **study.provenance, "text": engine},
        }
    )
    write_shard(path, record, image, voxel_labels, fit)
    return Entry.of(open_shard(path, fit))


def shard_file(study: Study) -> str:
    """No path is made from a name of a study."""
    return hashlib.sha256(f"{study.source}/{study.key}".encode()).hexdigest()[:32] + SUFFIX


def present(study: Study, engine: str, folder: Path, fit: Fit) -> Entry | None:
    """The entry of a study's shard; None if there is none, or its study or text engine is another by now."""
    path = folder / shard_file(study)
    if not path.is_file():
        return None
    try:
        shard = open_shard(path, fit)
    except ShardError:
        return None
    record = shard.record
    now = (study.report, study.split, study.subject, study.scan, engine)
    then = (record.report, record.split, record.subject, record.scan, record.provenance.get("text", RULES))
    return Entry.of(shard) if now == then else None


def _whole(path: Path, fit: Fit) -> Shard | None:
    """An undamaged shard that is there already."""
    if not path.is_file():
        return None
    try:
        shard = open_shard(path, fit)
        shard.verify()
    except ShardError:
        return None
    return shard


def _again(old: Shard, said: dict[str, AnatomyText]) -> tuple[StudyRecord, Int16Array, UInt8Array]:
    """The voxels of a shard with other text: nothing is segmented twice."""
    anatomies = tuple(
        anatomy.model_copy(
            update={"findings": text.findings, "impression": text.impression, "normal": text.normal},
        )
        for anatomy in old.record.anatomies
        if (text := said[anatomy.name])
    )
    return old.record.model_copy(update={"anatomies": anatomies}), old.image, old.labels


def _imaged(study: Study, plan: ShardPlan, said: dict[str, AnatomyText]) -> tuple[StudyRecord, Int16Array, UInt8Array]:
    """Read, segment, resample, crop."""
    volume, anatomy_map = study.load(plan.anatomies)
    crop = crop_body(volume, anatomy_map, plan)
    if crop is None:
        raise StudyError(Reason.ANATOMY_ABSENT, "none of the anatomies is in the scan")
    algorithm = anatomy_map.algorithm
    z, y, x = (float(step) for step in volume.spacing)
    record = StudyRecord(
        source=study.source,
        key=study.key,
        scan=study.scan,
        subject=study.subject,
        split=study.split,
        report=study.report,
        spacing=plan.preprocess.spacing,
        affine=crop.affine.tolist(),
        scan_shape=volume.grid.shape,
        scan_spacing=(z, y, x),
        anatomies=tuple(
            _anatomy(said[name], place, crop, anatomy_map.measures.get(name, _UNFOUND))
            for place, name in enumerate(plan.anatomies, start=1)
        ),
        provenance={"masks": f"{algorithm.name} {algorithm.version}", "masks_digest": algorithm.digest},
    )
    return record, crop.image, crop.labels


def _anatomy(text: AnatomyText, label: int, crop: BodyCrop, measure: AnatomyMeasure) -> AnatomyRecord:
    box = crop.boxes.get(text.anatomy)
    doubt = measure.doubt
    if box is None and doubt is None:
        doubt = Reason.ANATOMY_TOO_SMALL
    return AnatomyRecord(
        name=text.anatomy,
        start=None if box is None else box.start,
        stop=None if box is None else box.stop,
        voxels=0 if box is None else int((crop.labels[box.slices((0, 0, 0))] == label).sum()),
        volume_ml=measure.volume_ml,
        mean_hu=measure.mean_hu if measure.voxels else None,
        doubt=doubt,
        findings=text.findings,
        impression=text.impression,
        normal=text.normal,
    )
