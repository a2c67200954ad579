"""`fvlm-node model import`, `show` and `verify`: a release of the public checkpoint, what a release is, is it whole."""

from pathlib import Path

from rich.console import RenderableType
from rich.markdown import Markdown
from rich.table import Table

from config import load_vocabulary
from fvlm.release import Release, ReleaseError, read_release
from node.errors import CommandError
from node.release import release_folder


def import_checkpoint(checkpoint: Path, tokenizer: Path, out: Path, preset: str) -> list[str]:
    """Import the authors' checkpoint; lines about the release that was made. Raises CommandError."""
    from fvlm.official import import_official  # torch

    try:
        digest = import_official(checkpoint, tokenizer, out, preset)
    except ReleaseError as error:
        raise CommandError(str(error), "fvlm-node model import --help tells what is needed.") from error
    except OSError as error:
        raise CommandError(f"{out} cannot be written: {error.strerror}.", "Name another folder with --out.") from error
    return [
        f"{out} written, digest {digest}",
        "Its findings have no operating point yet: fvlm-node calibrate. Look at it: fvlm-node model show " + str(out),
        f"Use it: model.release: {out} in the node's configuration",
    ]


def describe(release: str) -> list[RenderableType]:
    """Tables for the terminal: identity, findings a anatomy, and the card. Raises CommandError."""
    try:
        found = read_release(release_folder(release))
    except ReleaseError as error:
        raise _unusable(error) from error
    return [_identity(found), _findings(found), Markdown(found.card)]


def verify(release: str) -> list[RenderableType]:
    """Check the files against SHA256SUMS and load the weights; identity, card and praise. Raises CommandError."""
    from fvlm.checkpoint import load_release  # torch

    try:
        model = load_release(release_folder(release))
    except ReleaseError as error:
        raise _unusable(error) from error
    assert model.release is not None  # load_release sets it
    parameters = sum(parameter.numel() for parameter in model.parameters())
    praise = f"Whole: every file is as it was sealed, {parameters:,} parameters load."
    return [_identity(model.release), Markdown(model.release.card), praise]


def _unusable(error: ReleaseError) -> CommandError:
    return CommandError(str(error), "The bundled release always works: --help tells how to name one.")


def _identity(release: Release) -> Table:
    config = release.config
    model, text = config.model, config.model.text
    stem = "" if model.stem == "patch" else f" behind {len(model.stages)} convolutions"
    cells = "" if model.cells is None else f", cells z, y, x {model.finest}"
    table = Table.grid(padding=(0, 2))
    use = "TEST MODEL - NOT FOR CLINICAL USE" if config.test_only else "see the card"
    for key, value in (
        ("Release", f"{config.name} {config.version}, {config.manufacturer}"),
        ("Folder", str(release.path)),
        ("Digest", release.digest),
        ("Use", use),
        (
            "Architecture",
            f"ViT of {model.depth} blocks, width {model.width}, patch z, y, x {model.patch}{stem}{cells}; BERT of "
            f"{text.depth} blocks, width {text.width}; features of {model.embedding}",
        ),
        ("Anatomies", ", ".join(model.anatomies)),
        ("Image", f"spacing z, y, x {config.preprocess.spacing} mm, HU {config.preprocess.hu_window}"),
    ):
        table.add_row(key, value)
    return table


def _findings(release: Release) -> Table:
    vocabulary = load_vocabulary()
    table = Table(title="Findings", title_justify="left")
    for column in ("Anatomy", "Finding", "Absent below", "Present from", "Calibrated", "Positive prompt"):
        table.add_column(column)
    for finding in release.findings:
        table.add_row(
            vocabulary.anatomy(finding.anatomy).title,
            vocabulary.finding(finding.finding).title,
            "never" if finding.absent_below is None else f"{100 * finding.absent_below:.0f} %",
            "no operating point" if finding.threshold is None else f"{100 * finding.threshold:.0f} %",
            "yes" if finding.calibration else "no",
            finding.positive,
        )
    return table
