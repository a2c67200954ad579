"""The commands of `fvlm-node rules`."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from config import Settings
from node.errors import CommandError

rules_app = typer.Typer(help="Routing rules: which series are read, how, and where results go.", no_args_is_help=True)

_FILE_WIDTH = 160
"""Characters a line of tables that go into a file or a pipe."""
_ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help="Configuration file; none: the defaults.")]
_RulesFile = Annotated[Path, typer.Argument(metavar="RULES", help="The rules file, such as routing.yaml.")]


@rules_app.command("check", epilog="Example: fvlm-node rules check routing.yaml --config fvlm-node.yaml")
def check(rules: _RulesFile, config: _ConfigFile = None) -> None:
    """Check a rules file: language, names of destinations and releases. Status 2 and one line if it is wrong."""
    from node.rules.book import check_rules
    from node.rules.table import rules_table

    _console().print(rules_table(check_rules(rules, Settings.load(config)).rules))


@rules_app.command("facts", epilog="Example: fvlm-node rules facts")
def facts() -> None:
    """List what a rule may ask of a series."""
    from node.rules.table import facts_table

    _console().print(facts_table())


@rules_app.command("test", epilog="Example: fvlm-node rules test routing.yaml --on last-week --config fvlm-node.yaml")
def try_rules(
    rules: _RulesFile,
    on: Annotated[
        str, typer.Option(metavar="WHICH", help="last-week, all, DATE..DATE (YYYY-MM-DD), or a series (number or UID).")
    ] = "last-week",
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
    config: _ConfigFile = None,
) -> None:
    """Say for real past series what each rule would say, and why, term by term. Changes nothing.

    It needs the images in the spool. It shows descriptions, which may hold names.
    """
    from node.retry import database_answers
    from node.rules.book import check_rules
    from node.rules.past import as_json as to_json
    from node.rules.past import judge_past, past
    from node.rules.table import judged_table
    from node.status import open_existing

    settings = Settings.load(config)
    checked, which = check_rules(rules, settings).rules, past(on)
    records = open_existing(settings)
    with database_answers(), Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("Series", total=None)
        judged = judge_past(
            records,
            settings,
            checked,
            which,
            progress=lambda done, total: progress.update(bar, completed=done, total=total),
        )
    if as_json:
        told = {"version": checked.version, "digest": checked.digest, "series": [to_json(one) for one in judged]}
        typer.echo(json.dumps(told, ensure_ascii=False, indent=1))
        return
    title = f"Rules, version {checked.version}, on {which.text}: {len(judged)} series that passed vetting"
    _console().print(judged_table(judged, title))


@rules_app.command("save", epilog="Example: fvlm-node rules save routing.yaml --why 'no more thick slices'")
def save(
    rules: _RulesFile,
    why: Annotated[str, typer.Option(help="Why; kept with the rules.")] = "",
    config: _ConfigFile = None,
) -> None:
    """Put rules in force, also in a running node. They are kept in the data folder with who saved them, when and why.

    They stay in force when the node is started again, until others are saved or the file in the settings is changed.
    """
    from node.rules.book import save_rules
    from node.whoami import operator

    settings = Settings.load(config)
    try:
        text = rules.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{rules} cannot be read ({type(error).__name__}).", "Name a rules file.") from error
    made = save_rules(settings, text, str(rules), operator(), why)
    typer.echo(f"{made.name} are in force, SHA-256 {made.digest[:12]}")


@rules_app.command("versions", epilog="Example: fvlm-node rules versions --config fvlm-node.yaml")
def versions(config: _ConfigFile = None) -> None:
    """List the rules that were ever in force, the newest first: number, when, by whom, why."""
    from node.rules.table import versions_table
    from node.rules.versions import RuleVersions

    _console().print(versions_table(RuleVersions(Settings.load(config).data_dir)))


@rules_app.command("show", epilog="Example: fvlm-node rules show 3 > routing.yaml")
def show(
    number: Annotated[int, typer.Argument(help="Number of the rules, as `rules versions` lists it.")],
    config: _ConfigFile = None,
) -> None:
    """Print rules that were in force as they were saved; to go back to them, save that text again."""
    from node.rules.versions import RuleVersions

    found = RuleVersions(Settings.load(config).data_dir).get(number)
    if found is None:
        raise CommandError(f"There are no rules of number {number}.", "See them all: fvlm-node rules versions")
    typer.echo(found.text, nl=not found.text.endswith("\n"))


def _console() -> Console:
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, _FILE_WIDTH)
    return console
