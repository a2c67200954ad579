"""`fvlm-node model show` and `model verify`: what a release is, and whether it is whole."""

from rich.console import RenderableType
from rich.markdown import Markdown
from rich.table import Table

from config import load_vocabulary
from fvlm.checkpoint import Release, ReleaseError, load_release, read_release
from node.errors import CommandError
from node.release import release_folder


def describe(release: str) -> list[RenderableType]:
    """Tables for the terminal: identity, findings a anatomy, and the card. Raises CommandError."""
    try:
        found = read_release(release_folder(release))
    except ReleaseError as error:
        raise _unusable(error) from error
    return [_identity(found), _findings(found), Markdown(found.card)]


def verify(release: str) -> str:
    """Check the files against SHA256SUMS and load the weights; one line of praise. Raises CommandError."""
    try:
        model = load_release(release_folder(release))
    except ReleaseError as error:
        raise _unusable(error) from error
    assert model.release is not None  # load_release sets it
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return f"{model.release.path}: whole, {parameters:,} parameters load, digest {model.release.digest}"


def _unusable(error: ReleaseError) -> CommandError:
    return CommandError(str(error), "The bundled release always works: --help tells how to name one.")


def _identity(release: Release) -> Table:
    config = release.config
    table = Table.grid(padding=(0, 2))
    use = "TEST MODEL - NOT FOR CLINICAL USE" if config.test_only else "see the card"
    for key, value in (
        ("Release", f"{config.name} {config.version}, {config.manufacturer}"),
        ("Folder", str(release.path)),
        ("Digest", release.digest),
        ("Use", use),
        ("Anatomies", ", ".join(config.model.anatomies)),
        ("Image", f"spacing z, y, x {config.preprocess.spacing} mm, HU {config.preprocess.hu_window}"),
    ):
        table.add_row(key, value)
    return table


def _findings(release: Release) -> Table:
    vocabulary = load_vocabulary()
    table = Table(title="Findings", title_justify="left")
    for column in ("Anatomy", "Finding", "Present from", "Calibrated", "Positive prompt"):
        table.add_column(column)
    for finding in release.findings:
        table.add_row(
            vocabulary.anatomy(finding.anatomy).title,
            vocabulary.finding(finding.finding).title,
            "no operating point" if finding.threshold is None else f"{100 * finding.threshold:.0f} %",
            "yes" if finding.calibration else "no",
            finding.positive,
        )
    return table
