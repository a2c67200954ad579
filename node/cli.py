"""`fvlm-node`: every command a person types. Heavy imports stay inside the commands that need them."""

import sys
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape

from config.rules import RulesError
from config.settings import Settings, SettingsError
from config.vocabulary import VocabularyError
from dicom_sr.viewers import Viewer
from node.errors import CommandError
from node.feedback_commands import feedback_app
from node.job_commands import commands
from node.releases.commands import commands as release_commands
from node.report_commands import report_app
from node.retrieve.commands import pull_app
from node.rules.commands import rules_app
from node.series_commands import series_app
from node.worklist.commands import worklist_app

if TYPE_CHECKING:
    from node.search import Answer  # torch

_PLUGINS = "fvlm_node.commands"
"""Entry point group of Typer apps that stand beside the commands here (pyproject.toml)."""
_FILE_WIDTH = 160
"""Characters a line of tables that go into a file or a pipe."""
_BAD_END = 2
"""Exit status of anything that did not do what was asked."""


app = typer.Typer(
    help="A clinical AI node beside the PACS: CT series in, fVLM readings out as DICOM SR and SEG.",
    epilog="First steps: fvlm-node demo. Then: fvlm-node init node.yaml, fvlm-node serve --config node.yaml",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,  # locals may hold patient data
)
model_app = typer.Typer(
    help="Model releases: look at them, import the public checkpoint, shadow, promote, roll back.", no_args_is_help=True
)
model_app.add_typer(release_commands)
app.add_typer(model_app, name="model")
fetch_app = typer.Typer(help="Download weights of a segmenter (needs internet).", no_args_is_help=True)
model_app.add_typer(fetch_app, name="fetch")
findings_app = typer.Typer(help="Ask for findings that no release lists.", no_args_is_help=True)
app.add_typer(findings_app, name="findings")
app.add_typer(commands)
app.add_typer(pull_app)
app.add_typer(series_app, name="series")
app.add_typer(worklist_app, name="worklist")
app.add_typer(rules_app, name="rules")
app.add_typer(report_app, name="report")
app.add_typer(feedback_app, name="feedback")

console_app = typer.Typer(help="The web console that `serve` starts.", no_args_is_help=True)
app.add_typer(console_app, name="console")

ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help="Configuration file; none: the defaults.")]
AskedAnatomy = Annotated[str, typer.Option(help="Where to look: an anatomy of the release, such as `lung`.")]
Negative = Annotated[
    str | None, typer.Option(help="Prompt to compare with; none: negated as the release's own prompts are.")
]


@app.command(epilog="Example: fvlm-node demo --input ~/my-ct --out my-output")
def demo(
    input: Annotated[
        Path | None, typer.Option(help="Folder with your own CT instead of phantoms; each problem in it is one line.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where the results go.")] = Path("demo-output"),
    seed: Annotated[int, typer.Option(help="Which phantom patients: the same seed, the same patients.", min=0)] = 23,
) -> None:
    """Run the whole node on this machine: CT in by C-STORE, SR and SEG back from an archive.

    Exit status 2 if a phantom did not come back as it should; with --input, if nothing in the folder could be read.
    """
    from node.demo import run_demo

    raise typer.Exit(run_demo(input, out, seed, Console()))


@app.command(epilog="Example: fvlm-node init node.yaml")
def init(
    file: Annotated[Path, typer.Argument(help="File to write; it must not exist.")] = Path("fvlm-node.yaml"),
) -> None:
    """Write the default configuration, every setting with its explanation."""
    from node.init import write_default

    write_default(file)
    _say(f"{file} written. Name your senders (dicom.accept_from) and receivers (destinations) in it, then:")
    _say(f"  fvlm-node doctor --config {file}")
    _say(f"  fvlm-node serve --config {file}")


Role = Annotated[str, typer.Option(help="One process only: receiver, reconciler, analyze, deliver or console.")]
WorkerName = Annotated[str, typer.Option("--name", help="Of one of several analyze or deliver workers on a machine.")]


@app.command(epilog="Example: fvlm-node serve --config fvlm-node.yaml")
def serve(config: ConfigFile = None, only: Role = "", name: WorkerName = "") -> None:
    """Run the node: receiver, worker, reconciler, until Ctrl-C.

    With --only, one of its processes, for containers, systemd units or several machines: with the same settings file
    everywhere, one data folder, and a database and a broker of your own.
    """
    from node.serve import serve as run

    run(Settings.load(config), config, only, name)


@app.command(epilog="Example: fvlm-node health receiver")
def health(
    role: Annotated[str, typer.Argument(help="Process to ask after; none: all of a whole node.")] = "",
    config: ConfigFile = None,
    name: WorkerName = "",
) -> None:
    """Ask whether the node's processes on this machine live and can work: exit status 0, or 2 and a line for each that
    does not. For health checks of containers and monitoring; quick.
    """
    from node.health import ailing

    found = ailing(Settings.load(config), role, name)
    for line in found:
        typer.echo(line, err=True)
    if found:
        raise typer.Exit(_BAD_END)
    _say("healthy")


@app.command(epilog="Example: fvlm-node analyze ~/my-ct --out results")
def analyze(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder with DICOM files, searched with subfolders.")],
    out: Annotated[Path, typer.Option(help="Where the results go: one folder a series.")],
    config: ConfigFile = None,
) -> None:
    """Read every CT series of a folder, without network: SR, SEG, report and picture a series.

    Exit status 2 if anything in the folder could not be read; good series are analysed all the same.

    Results are dated by the newest file of their series: the same files give the same objects again.
    """
    from node.analyze import analyze_folder

    raise typer.Exit(analyze_folder(folder, out, Settings.load(config), Console()))


@app.command(epilog="Example: fvlm-node phantom --seed 7 --disease lung.nodule --disease kidney.cyst --out phantom-7")
def phantom(
    out: Annotated[Path, typer.Option(help="Folder for the DICOM series and the report.")],
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.", min=0)] = 1,
    disease: Annotated[
        list[str] | None, typer.Option(help="anatomy.finding; repeat for more; `none` for a healthy patient.")
    ] = None,
    nifti: Annotated[bool, typer.Option("--nifti", help="Write NIfTI (image and labels) instead of DICOM.")] = False,
    arms: Annotated[Literal["raised", "beside"], typer.Option(help="Where the patient holds the arms.")] = "raised",
) -> None:
    """Make a synthetic patient: chest-abdomen CT, radiology report, ground-truth masks."""
    from node.phantom_files import make_phantom

    for line in make_phantom(out, seed, disease, nifti, arms):
        _say(line)


@app.command(epilog="Example: fvlm-node send ~/my-ct --to 127.0.0.1:11112 --called FVLM --calling STORESCU")
def send(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder with DICOM files, searched with subfolders.")],
    to: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where the receiver listens.")],
    called: Annotated[str, typer.Option(help="AE title of the receiver.")] = "FVLM",
    calling: Annotated[str, typer.Option(help="AE title to call oneself.")] = "STORESCU",
) -> None:
    """Send a folder of DICOM files by C-STORE."""
    from rich.progress import Progress

    from node.send import Peer, send_folder

    host, _, port = to.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise CommandError(f"--to {to} is not HOST:PORT.", "For example --to 127.0.0.1:11112")
    if not folder.is_dir():
        raise CommandError(f"{folder} is no folder.", "Name a folder with DICOM files.")
    with Progress(console=Console()) as progress:
        bar = progress.add_task("C-STORE", total=None)
        sent = send_folder(
            folder,
            Peer(host, int(port), called, calling),
            lambda done, total: progress.update(bar, completed=done, total=total),
            lambda line: typer.echo(line, err=True),
        )
    _say(f"{sent.accepted} instances accepted by {called}")
    if sent.not_dicom:
        _say(f"{len(sent.not_dicom)} files are not DICOM and were left out")
    for why, count in sent.refused.items():
        _say(f"{count} instances not accepted: {why}")
    if sent.refused:
        raise typer.Exit(_BAD_END)


@app.command("check-sr", epilog="Example: fvlm-node check-sr results/series-1/SR.dcm --viewer ohif --viewer air")
def check_sr(
    file: Annotated[Path, typer.Argument(help="A DICOM SR, of any vendor.")],
    viewer: Annotated[
        list[Viewer] | None, typer.Option(help="Also check what this viewer or profile asks for; may be repeated.")
    ] = None,
) -> None:
    """Show a Structured Report as text, validate it with dciodvfy, and say what viewers would make of it."""
    from node.check_sr import check

    found = check(file, viewer or ())
    _say(found.text)
    _say(found.verdict)
    if not found.ok:
        raise typer.Exit(_BAD_END)


@app.command(epilog="Example: fvlm-node doctor --config fvlm-node.yaml")
def doctor(config: ConfigFile = None) -> None:
    """Check everything the node needs, and say how to mend what is missing."""
    from node.doctor import examine

    console = Console()
    checks = examine(Settings.load(config))
    healthy = True
    for check in checks:
        healthy &= check.ok
        mark = "[green]ok     [/green]" if check.ok else "[red]problem[/red]"
        console.print(f"{mark}  [bold]{check.name:<20}[/bold]{escape(check.found)}", soft_wrap=True, highlight=False)
        if not check.ok:
            console.print(f"         {'':<20}→ {escape(check.cure)}", soft_wrap=True, highlight=False)
    if not healthy:
        raise typer.Exit(_BAD_END)


@app.command(epilog="Example: fvlm-node status --config fvlm-node.yaml")
def status(
    config: ConfigFile = None,
    limit: Annotated[int, typer.Option(help="Newest rows shown of each table.", min=1)] = 30,
) -> None:
    """Show the series the node knows, their jobs and deliveries, and what it could not read."""
    from node.status import console_line, problems, release_lines, status_tables

    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, _FILE_WIDTH)
    settings = Settings.load(config)
    tables = status_tables(settings, limit)
    for problem in problems(settings):
        console.print(f"[red]Problem:[/red] {escape(problem)}", soft_wrap=True, highlight=False)
    for table in tables:
        console.print(table)
    for line in (*release_lines(settings), *console_line(settings)):
        console.print(line, soft_wrap=True, markup=False, highlight=False)


@console_app.command("password", epilog="Example: fvlm-node console password --config fvlm-node.yaml")
def console_password(
    generate: Annotated[bool, typer.Option("--generate", help="Make one and print it, instead of asking.")] = False,
    user: Annotated[str, typer.Option(help="`console`, or one of `console.readers` or `operators`.")] = "console",
    config: ConfigFile = None,
) -> None:
    """Set a new password of the web console; the old one no longer opens, also in a running node."""
    from node.console.password import SHORTEST, USER, PasswordFile

    settings = Settings.load(config)
    if user not in (USER, *settings.console.users):
        raise CommandError(f"{user} is no user of the console.", "Add the name to console.readers or operators first.")
    file = PasswordFile.of(settings.data_dir, user)
    try:
        if generate:
            _say(f"user {user}, password {file.generate()}")
            return
        asked = typer.prompt(f"New password ({SHORTEST} characters or more)", hide_input=True, confirmation_prompt=True)
        file.set(asked)
    except ValueError as error:
        raise CommandError(f"That is no password: {error}.", "Take another, or let one be made: --generate") from error
    except OSError as error:
        raise CommandError(
            f"{file.path} cannot be written: {error.strerror}.", "Name the node's configuration with --config."
        ) from error
    _say(f"The password of user {user} is set.")


@app.command(epilog="Example: fvlm-node clean --dry-run --config fvlm-node.yaml")
def clean(
    older_than: Annotated[
        int | None, typer.Option(help="Days since the last change; none: `retention` of the configuration.", min=0)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go, and why the rest stays.")] = False,
    config: ConfigFile = None,
) -> None:
    """Delete images and results that are old and that every destination keeps; nothing else is touched.

    Kept means committed, or stored where no commitment is asked for.
    """
    from node import clean
    from node.status import open_existing

    settings = Settings.load(config)
    run = clean.dry_run if dry_run else clean.clean
    for line in run(open_existing(settings), settings, older_than):
        _say(line)


@model_app.command(
    "import", epilog="Example: fvlm-node model import model.pth --tokenizer cxr-bert --out releases/fvlm"
)
def model_import(
    checkpoint: Annotated[Path, typer.Argument(metavar="FILE", help="The authors' model.pth.")],
    tokenizer: Annotated[
        Path, typer.Option(help="Folder of the tokenizer (microsoft/BiomedVLP-CXR-BERT-specialized).")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the release; it must not exist.")],
    preset: Annotated[
        str, typer.Option(help="Anatomies in the checkpoint's order, and prompts: a name, or your own YAML file.")
    ] = "ct-rate",
) -> None:
    """Make a release of the authors' public checkpoint. No code of the file is run; what does not fit is listed."""
    from node.release_info import import_checkpoint

    for line in import_checkpoint(checkpoint, tokenizer, out, preset):
        _say(line)


@fetch_app.command(
    "totalsegmentator", epilog="Example: fvlm-node model fetch totalsegmentator --fast --out /srv/totalsegmentator"
)
def fetch_totalsegmentator(
    out: Annotated[Path | None, typer.Option(help="Folder to put them; default: the package's own.")] = None,
    fast: Annotated[bool, typer.Option("--fast", help="The 3 mm network instead of the five of 1.5 mm.")] = False,
) -> None:
    """Download TotalSegmentator's weights of task `total` and show their checksums; what is there already stays."""
    from node import fetch_weights

    for line in fetch_weights.fetch_totalsegmentator(out, fast=fast):
        _say(line)


@app.command(epilog='Example: fvlm-node search "pericardial effusion" --anatomy heart --top 20 --config fvlm-node.yaml')
def search(
    text: Annotated[str, typer.Argument(help="What to look for, a sentence as in a report.")],
    anatomy: AskedAnatomy,
    top: Annotated[int, typer.Option(help="Studies shown.", min=1)] = 20,
    negative: Negative = None,
    config: ConfigFile = None,
) -> None:
    """Rank all studies that the node's release has read by a sentence, without touching the images."""
    from node.search import Question
    from node.search import search as ask

    _show(ask(Settings.load(config), Question(text, anatomy, negative)), top)


@findings_app.command("try", epilog='Example: fvlm-node findings try "Honeycombing." --anatomy lung --study 1.2.3.4')
def findings_try(
    text: Annotated[str, typer.Argument(help="The finding as a sentence, such as `Honeycombing.`")],
    anatomy: AskedAnatomy,
    study: Annotated[str, typer.Option(metavar="UID", help="Study Instance UID of a study that the node has read.")],
    negative: Negative = None,
    config: ConfigFile = None,
) -> None:
    """Score a new prompt on the stored features of one study, without touching the images."""
    from node.search import Question, try_finding

    _show(try_finding(Settings.load(config), Question(text, anatomy, negative), study))


def _show(answer: "Answer", top: int | None = None) -> None:
    from node.search import answer_table, how_asked

    for line in how_asked(answer):
        _say(line)
    Console().print(answer_table(answer, top))


@model_app.command("show", epilog="Example: fvlm-node model show")
def model_show(
    release: Annotated[str, typer.Argument(help="Folder of a release, or `bundled`.")] = "bundled",
) -> None:
    """Show what a release is: identity, anatomies, findings with operating points, and its card."""
    from node.release_info import describe

    console = Console()
    for part in describe(release):
        console.print(part)


@model_app.command("verify", epilog="Example: fvlm-node model verify /srv/releases/site-7")
def model_verify(
    release: Annotated[str, typer.Argument(help="Folder of a release, or `bundled`.")] = "bundled",
) -> None:
    """Check every file of a release against its checksums, and load it."""
    from node.release_info import verify

    console = Console()
    for part in verify(release):
        console.print(part)


@app.callback(invoke_without_command=True)
def _main(
    show_version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if show_version:
        _say(f"fvlm-node {version('fvlm-node')}")
        raise typer.Exit


def main() -> None:
    """The console script: known errors end as one line with cause and cure, and status 2."""
    first = sys.argv[1] if len(sys.argv) > 1 else "--help"
    for plugin in entry_points(group=_PLUGINS):
        if first in (plugin.name, "--help"):  # not imported for any other command
            app.add_typer(plugin.load(), name=plugin.name)
    try:
        app(prog_name="fvlm-node")
    except CommandError as error:
        _complain(error.cause, error.cure)
    except RulesError as error:
        _complain(error.cause, error.cure)
    except (SettingsError, VocabularyError) as error:
        _complain(str(error), "Mend the file and try again.")
    raise SystemExit(_BAD_END)


def _say(line: str) -> None:
    typer.echo(line)


def _complain(cause: str, cure: str) -> None:
    console = Console(stderr=True)
    console.print(f"[red]Problem:[/red] {escape(cause)} → {escape(cure)}", soft_wrap=True, highlight=False)
