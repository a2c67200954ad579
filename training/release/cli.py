"""`fvlm-node train release`"""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

_console = Console(stderr=True)
_NOT_SAID = "Not stated by whoever made this release."


def release(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a finished run of `train pretrain`.")],
    out: Annotated[Path, typer.Option(help="Folder of the release; it must not exist.")],
    name: Annotated[str, typer.Option(help="Of the release, as it stands in every result.")],
    version: Annotated[str, typer.Option(help="Of the release.")],
    data: Annotated[str, typer.Option(help="What it was trained on: sites, years, number of studies, exclusions.")],
    preset: Annotated[
        str, typer.Option(help="Prompts: a preset of the vocabulary, or your own YAML file.")
    ] = "ct-rate",
    use: Annotated[str, typer.Option(help="Intended use.")] = _NOT_SAID,
    licence: Annotated[str, typer.Option(help="Of the weights.")] = _NOT_SAID,
    manufacturer: Annotated[str, typer.Option(help="Who answers for it.")] = "local",
    recipe: Annotated[Path | None, typer.Option(help="The run's YAML file, to stand in the card.")] = None,
    evaluation: Annotated[
        list[Path] | None,
        typer.Option(help="results.json of fvlm-node evaluate, evaluation.json of train evaluate; repeat for more."),
    ] = None,
    clinical: Annotated[
        bool, typer.Option("--clinical", help="Do not mark what it writes as a test model's; needs --evaluation.")
    ] = False,
) -> None:
    """Make a release of a trained model: a folder with weights, prompts, tokenizer and card, sealed by its digest.

    Without --evaluation it is a draft to be evaluated; with it, the card holds the figures.
    """
    from fvlm.release import ReleaseError
    from training.release.card import Statement
    from training.release.from_run import Title, release_run

    try:
        said = Statement(data, use, licence, recipe.read_text(encoding="utf-8") if recipe is not None else "")
        title = Title(name, version, manufacturer, clinical)
        with _console.status("reading the run, writing the release"):
            digest = release_run(checkpoint, out, title, preset, said, evaluation or ())
    except (ReleaseError, UnicodeDecodeError) as error:
        raise _problem(str(error)) from error
    except OSError as error:
        raise _problem(f"{error.filename or out}: {error.strerror}; name another file or folder") from error
    _console.print(f"{out} written, digest {digest}", soft_wrap=True, highlight=False)
    _console.print("Next: fvlm-node evaluate, fvlm-node calibrate, fvlm-node model shadow", highlight=False)


def _problem(text: str) -> typer.Exit:
    _console.print(f"[red]Problem:[/red] {escape(text)}", soft_wrap=True, highlight=False)
    return typer.Exit(2)
