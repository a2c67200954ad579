"""`fvlm-node model list`, `add`, `shadow`, `shadow-report`, `promote`, `rollback`."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from config.settings import Settings
from node.errors import CommandError

if TYPE_CHECKING:
    from node.database import Records
    from node.releases.binding import Switched
    from node.releases.check import Checked
    from node.releases.registry import Deed

commands = typer.Typer()

_FILE_WIDTH = 160
"""Characters a line of tables that go into a file or a pipe."""
_HISTORY = 20
ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help="Configuration file; none: the defaults.")]
Which = Annotated[
    str,
    typer.Argument(
        metavar="RELEASE", help="Folder of a release, `bundled`, or the beginning of a digest in `model list`."
    ),
]
Why = Annotated[str, typer.Option(help="Kept with who and when, and shown: no patient data.")]


@commands.command("list", epilog="Example: fvlm-node model list --config node.yaml")
def list_releases(config: ConfigFile = None) -> None:
    """Show the releases that the node knows, which one is in force, and what was done with them."""
    from node.releases.standing import history, standing
    from node.retry import database_answers
    from node.status import open_existing

    settings = Settings.load(config)
    with database_answers(), open_existing(settings).reading() as session:
        found, events = standing(session, settings), history(session, _HISTORY)
    releases = Table("State", "Release", "Digest", "Since (UTC)", "At work", "Folder", title="Releases")
    for row in found.releases:
        name = row.name + (", TEST MODEL" if row.test_only else "")
        releases.add_row(row.state, name, row.digest[:12], f"{row.since:%Y-%m-%d %H:%M}", str(row.at_work), row.path)
    past = Table("At (UTC)", "Digest", "What", "By", "Why", title=f"The last {_HISTORY} deeds")
    for event in events:
        past.add_row(f"{event.at:%Y-%m-%d %H:%M}", event.digest[:12], event.action, event.done_by, event.why)
    console = _console()
    console.print(releases)
    console.print(past)
    for line in found.lines():
        console.print(line, soft_wrap=True, markup=False, highlight=False)


@commands.command("add", epilog="Example: fvlm-node model add /srv/releases/site-8 --config node.yaml")
def add_release(which: Which, why: Why = "", config: ConfigFile = None) -> None:
    """Check a release and let the node know it, as a candidate. Nothing is read with it."""
    from node.releases import registry

    settings, records = _open(config)
    checked = _checked(records, settings, which)
    with _refusals(), records.session() as session:
        state = registry.add(session, checked.facts, _deed(why)).state
    typer.echo(f"{checked.facts.name} ({checked.facts.digest[:12]}) is known: {state}")


@commands.command(epilog="Example: fvlm-node model shadow /srv/releases/site-8 --config node.yaml")
def shadow(
    which: Annotated[
        str, typer.Argument(metavar="[RELEASE]", help="Folder, `bundled`, or the beginning of a digest.")
    ] = "",
    off: Annotated[bool, typer.Option("--off", help="No release is in shadow any more; what it read stays.")] = False,
    why: Why = "",
    config: ConfigFile = None,
) -> None:
    """Let a release read beside the current one, after its results are written. Nothing of it is sent.

    What the two say is compared by `fvlm-node model shadow-report`.
    """
    from node.releases import registry

    if bool(which) == off:
        raise CommandError("Name a release, or --off.", "For example: fvlm-node model shadow /srv/releases/site-8")
    settings, records = _open(config)
    if off:
        with _refusals(), records.session() as session:
            ended = registry.end_shadow(session, _deed(why))
        typer.echo(f"{ended.name} ({ended.digest[:12]}) is a candidate" if ended else "no release was in shadow")
        return
    checked = _checked(records, settings, which)
    with _refusals(), records.session() as session:
        registry.shadow(session, checked.facts, _deed(why))
    typer.echo(f"{checked.facts.name} ({checked.facts.digest[:12]}) reads in shadow; nothing of it is sent")
    typer.echo("How it agrees: fvlm-node model shadow-report")


@commands.command("shadow-report", epilog="Example: fvlm-node model shadow-report --json agreement.json")
def shadow_report(
    which: Annotated[
        str, typer.Argument(metavar="[RELEASE]", help="Beginning of a digest; none: the release in shadow.")
    ] = "",
    against: Annotated[str, typer.Option(help="Beginning of the other's digest; none: the release in force.")] = "",
    out: Annotated[Path | None, typer.Option("--json", help="Also write everything to this file.")] = None,
    config: ConfigFile = None,
) -> None:
    """Compare what a release said in shadow with what was sent: verdicts, probabilities, cases to look at."""
    from node.releases import registry
    from node.releases.agreement import compare
    from node.releases.agreement_report import as_json, headline, tables

    _, records = _open(config)
    with _refusals(), records.reading() as session:
        rows = registry.in_shadow(session), registry.current(session)
        digests = [
            _known(records, text) if text else (row.digest if row is not None else "")
            for text, row in zip((which, against), rows, strict=True)
        ]
        if not all(digests):
            raise CommandError(
                "No release is in shadow." if not digests[0] else "No release is in force.",
                "fvlm-node model list shows the releases; name the beginning of a digest.",
            )
        agreement = compare(session, digests[1], digests[0])
    if out is not None:
        try:
            out.write_text(json.dumps(as_json(agreement), indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise CommandError(f"{out} cannot be written: {error.strerror}.", "Name another file.") from error
    for line in headline(agreement):
        typer.echo(line)
    for table in tables(agreement):
        _console().print(table)


@commands.command(epilog='Example: fvlm-node model promote /srv/releases/site-8 --why "shadow 1.-14. May, 98 % agree"')
def promote(
    which: Which,
    why: Annotated[str, typer.Option(help="Kept with who and when, and shown: no patient data.")],
    config: ConfigFile = None,
) -> None:
    """Put a release in force, without a restart. Studies that were begun end with the release they began with."""
    from node.releases import registry

    settings, records = _open(config)
    checked = _checked(records, settings, which)
    with _refusals(), records.session() as session:
        switched = registry.promote(session, checked.facts, _deed(why))
    _tell(checked, switched)


@commands.command(epilog='Example: fvlm-node model rollback --why "calls every nodule"')
def rollback(
    why: Annotated[str, typer.Option(help="Kept with who and when, and shown: no patient data.")],
    config: ConfigFile = None,
) -> None:
    """Put the release in force that was before the current one, with the same checks and promises as `promote`."""
    from node.releases import registry
    from node.releases.check import check_release

    settings, records = _open(config)
    with _refusals():
        with records.reading() as session:
            before = registry.former(session)
        checked = check_release(before.path, settings.model, before.digest)
        with records.session() as session:
            switched = registry.roll_back(session, before.digest, _deed(why))
    _tell(checked, switched)


def _tell(checked: "Checked", switched: "Switched") -> None:
    typer.echo(f"{checked.facts.name} ({checked.facts.digest[:12]}) is in force")
    for note in checked.notes:
        typer.echo(note)
    typer.echo(
        f"{switched.moved} waiting jobs go to it; {switched.stay} of studies that were begun end with their release"
    )


def _checked(records: "Records", settings: Settings, which: str) -> "Checked":
    """The release that a person names, checked. Raises CommandError."""
    from node.releases import registry
    from node.releases.check import check_release

    with _refusals():
        if which == "bundled" or Path(which).is_dir():
            return check_release(which, settings.model)
        digest = _known(records, which)
        with records.reading() as session:
            path = registry.path_of(session, digest)
        return check_release(path or "", settings.model, digest)


def _known(records: "Records", beginning: str) -> str:
    """The one digest that begins so. Raises ReleaseRefusedError (RELEASE_UNKNOWN)."""
    from sqlalchemy import select

    from config import Reason
    from node.releases.registry import ReleaseRefusedError
    from node.releases.rows import ModelRelease

    found: list[str] = []
    if re.fullmatch(r"[0-9a-f]{6,64}", beginning):
        with records.reading() as session:
            query = select(ModelRelease.digest).where(ModelRelease.digest.startswith(beginning))
            found = list(session.scalars(query))
    if len(found) != 1:
        raise ReleaseRefusedError(
            Reason.RELEASE_UNKNOWN, f"{beginning} is no folder, and {len(found)} known digests begin so"
        )
    return found[0]


@contextmanager
def _refusals() -> Iterator[None]:
    """What a release is refused for, and an absent database, as a CommandError."""
    from node.releases.registry import ReleaseRefusedError
    from node.retry import database_answers

    try:
        with database_answers():
            yield
    except ReleaseRefusedError as error:
        raise CommandError(f"{error.reason}: {error.detail}.", error.reason.cure) from error


def _open(config: Path | None) -> "tuple[Settings, Records]":
    from node.status import open_existing

    settings = Settings.load(config)
    return settings, open_existing(settings)


def _deed(why: str) -> "Deed":
    """By the user who runs this."""
    from node.releases.registry import Deed
    from node.whoami import operator

    return Deed(operator(), " ".join(why.split()))


def _console() -> Console:
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, _FILE_WIDTH)
    return console
