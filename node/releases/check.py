"""What a release has to pass before it may read, here and now: whole, loadable, sane, and known to this node."""

from dataclasses import dataclass

from config import Reason, Vocabulary, load_vocabulary
from config.settings import ModelSettings
from ct.anatomy import SegmenterWeightsError
from fvlm.release import Release, ReleaseError
from node.release import Facts, facts_of, release_folder
from node.releases.registry import ReleaseRefusedError


@dataclass(frozen=True)
class Checked:
    """A release that may read."""

    facts: Facts
    notes: tuple[str, ...]
    """What a person should know, a line each."""


def check_release(path: str, settings: ModelSettings, digest: str | None = None) -> Checked:
    """Verify every file, load the weights, compare with vocabulary and segmenter. Takes seconds.

    `digest`: what it has to be. Raises ReleaseRefusedError (RELEASE_UNKNOWN, RELEASE_DAMAGED, RELEASE_UNFIT).
    """
    from fvlm.checkpoint import load_release  # torch

    folder = release_folder(path)
    if not folder.is_dir():
        raise ReleaseRefusedError(Reason.RELEASE_UNKNOWN, f"{folder} is no folder")
    try:
        model = load_release(folder)
    except ReleaseError as error:
        raise ReleaseRefusedError(Reason.RELEASE_DAMAGED, str(error)) from error
    release = model.release
    assert release is not None  # load_release sets it
    if digest is not None and release.digest != digest:
        raise ReleaseRefusedError(
            Reason.RELEASE_DAMAGED, f"{folder} holds the release {release.digest[:12]} now, not {digest[:12]}"
        )
    broken = [name for name, tensor in model.state_dict().items() if not tensor.isfinite().all()]
    if broken:
        raise ReleaseRefusedError(Reason.RELEASE_DAMAGED, f"weights that are no numbers: {', '.join(broken[:5])}")
    _check_words(release, load_vocabulary())
    return Checked(facts_of(path, release.digest), (*_use(release), *_unseen(release, settings)))


def _check_words(release: Release, vocabulary: Vocabulary) -> None:
    """Every anatomy and finding has a code here. Raises ReleaseRefusedError (RELEASE_UNFIT)."""
    known = {anatomy.name for anatomy in vocabulary.anatomies} | {finding.key for finding in vocabulary.findings}
    asked = (*release.config.model.anatomies, *(finding.finding for finding in release.findings))
    if unknown := [name for name in asked if name not in known]:
        raise ReleaseRefusedError(
            Reason.RELEASE_UNFIT, f"the vocabulary of this version does not know {', '.join(unknown)}"
        )
    if not release.findings:
        raise ReleaseRefusedError(Reason.RELEASE_UNFIT, "it asks for no finding")


def _use(release: Release) -> list[str]:
    return ["TEST MODEL - NOT FOR CLINICAL USE"] if release.config.test_only else []


def _unseen(release: Release, settings: ModelSettings) -> list[str]:
    """Anatomies that the node's segmenter does not find; RELEASE_UNFIT if it finds none of them."""
    names = release.config.model.anatomies
    if settings.segmenter == "totalsegmentator":
        vocabulary = load_vocabulary()
        found = {name for name in names if vocabulary.anatomy(name).totalsegmentator}
    elif settings.segmenter in ("nnunet", "monai"):
        from ct.segmenter_file import read_segmenter_file

        assert settings.segmenter_labels is not None  # the settings see to it
        try:
            described = read_segmenter_file(settings.segmenter_labels)
        except SegmenterWeightsError as error:
            raise ReleaseRefusedError(Reason.RELEASE_UNFIT, str(error)) from error
        found = {target.anatomy for target in described.labels.values()}
    else:
        from ct.bundled import BundledSegmenter

        found = set(names) & set(BundledSegmenter().anatomies)
    if not found:
        raise ReleaseRefusedError(
            Reason.RELEASE_UNFIT, f"the segmenter `{settings.segmenter}` finds none of its anatomies"
        )
    missing = [name for name in names if name not in found]
    if not missing:
        return []
    return [f"Never assessed here, the segmenter `{settings.segmenter}` does not find it: {', '.join(missing)}"]
