"""A collection of the hospital's archive (`training.collection`) as studies."""

from functools import partial
from pathlib import Path

from config import Reason
from ct.anatomy import AnatomyMap
from ct.load import load_series
from ct.part10 import Unfit
from ct.volume import Volume
from training.collection import Collection, Pair
from training.shards.folder import Skipped
from training.sources.listing import Listing
from training.sources.masks import Masks
from training.study import Split, Study, StudyError

_SPLITS: dict[str, Split] = {"train": "train", "validate": "valid", "test": "test"}


def collected(folder: Path, masks: Masks) -> Listing:
    """All pairs of a collection; those with a report in another language than English are dropped.

    A report whose source names no language is taken for English. Raises `training.collection.CollectionError`.
    """
    collection = Collection.open(folder)
    studies, dropped = [], []
    for pair in sorted(collection, key=lambda pair: pair.pair_id):
        try:
            studies.append(_study(collection, pair, masks))
        except StudyError as error:
            left = Skipped(source="collection", key=pair.pair_id, reason=error.reason, text=str(error))
            dropped.append(left)
    return Listing(tuple(studies), tuple(dropped))


def _study(collection: Collection, pair: Pair, masks: Masks) -> Study:
    if pair.language and pair.language.lower().split("-")[0] != "en":
        raise StudyError(Reason.REPORT_NOT_ENGLISH, f"its report is in {pair.language}")
    try:
        report = collection.text(pair)
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(Reason.REPORT_NO_TEXT, f"{pair.report}: cannot be read ({type(error).__name__})") from error
    about = pair.provenance
    known = {
        "sex": about.sex,
        "age": about.age_years,
        "manufacturer": about.manufacturer,
        "model": about.model,
        "kernel": about.kernel,
        "slice_thickness_mm": about.slice_thickness_mm,
        "contrast": about.contrast,
        "study_year": about.study_year,
    }
    return Study(
        source="collection",
        key=pair.pair_id,
        scan=pair.pair_id,
        subject=pair.subject_id,
        split=_SPLITS[pair.split],
        report=report,
        load=partial(_load, pair.pair_id, collection.images(pair), masks),
        attributes={name: str(value) for name, value in known.items() if value not in (None, "")},
        provenance={"report_source": pair.report_source},
    )


def _load(name: str, folder: Path, masks: Masks, anatomies: tuple[str, ...]) -> tuple[Volume, AnatomyMap]:
    try:
        volumes = load_series(folder)
    except Unfit as error:
        raise StudyError(error.reason, error.detail) from error
    except OSError as error:
        raise StudyError(Reason.VOLUME_MISSING, f"{folder}: cannot be read ({error.strerror})") from error
    if len(volumes) != 1:
        raise StudyError(Reason.VOLUME_UNREADABLE, f"{folder}: {len(volumes)} series instead of one")
    return volumes[0], masks.find(name, volumes[0], anatomies)
