"""The commented default configuration, written from the settings model itself so that it cannot drift from it."""

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from config.inlet_settings import OrthancSource, WatchedFolder
from config.message_settings import Hl7Destination, Level, MessageDestination, WebhookDestination
from config.setting_types import SourceName
from config.settings import AnyDestination, Destination, Settings, Source, WebDestination
from config.worklist_settings import DimseWorklist, WebWorklist, Worklist
from node.errors import CommandError

_HEAD = """\
Configuration of fVLM Node. Every value below is the default: change what you need, delete what you like.
Start the node with it:  fvlm-node serve --config THIS_FILE
The environment wins over this file: FVLM_DICOM__PORT=11113 sets dicom.port."""
_EXAMPLES: dict[object, dict[str, BaseModel]] = {
    dict[str, Source]: {"scanner": Source(ae_title="CT1", host="ct1.example.org", port=104, quiet_s=30)},
    dict[SourceName, OrthancSource]: {
        "main": OrthancSource(url="http://127.0.0.1:8042", plugin_token="file:/etc/fvlm/orthanc-token")
    },
    dict[SourceName, WatchedFolder]: {"drop": WatchedFolder(path=Path("/srv/dicom-in"))},
    dict[SourceName, Worklist]: {
        "ris": WebWorklist(kind="rs", url="https://ris.example.org/dicom-web", station="FVLM1^99HOSPITAL^fVLM Node"),
        "manager": DimseWorklist(
            kind="dimse", ae_title="UPSMGR", host="ups.example.org", port=104, station="FVLM1^99HOSPITAL^fVLM Node"
        ),
    },
    dict[str, AnyDestination]: {
        "pacs": Destination(ae_title="PACS", host="pacs.example.org", port=104),
        "cloud": WebDestination(stow_url="https://cloud.example.org/dicom-web", token="env:CLOUD_TOKEN"),
    },
    dict[SourceName, MessageDestination]: {
        "ris": Hl7Destination(kind="hl7", host="ris.example.org", port=2575, level=Level.IDENTIFIERS),
        "hook": WebhookDestination(kind="webhook", url="https://hook.example.org/fvlm", secret="env:HOOK_SECRET"),
    },
}
_WIDTH = 110


def default_configuration() -> str:
    """The YAML text: each setting with its docstring above it, and its default."""
    lines = list(_comment(_HEAD, ""))
    for name, info in Settings.model_fields.items():
        lines.append("")
        lines += _setting(name, info, "")
    return "\n".join(lines) + "\n"


def write_default(file: Path) -> None:
    """Write the default configuration. Raises CommandError if the file exists or cannot be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as out:
            out.write(default_configuration())
    except FileExistsError as error:
        raise CommandError(f"{file} exists already; it is not overwritten.", "Name another, or remove it.") from error
    except OSError as error:
        raise CommandError(f"{file} cannot be written: {error.strerror}.", "Name one in a folder of yours.") from error


def _setting(name: str, info: FieldInfo, indent: str) -> Iterator[str]:
    if isinstance(info.default, BaseModel):
        section = type(info.default)
        yield from _comment(section.__doc__ or "", indent)
        yield f"{indent}{name}:"
        for child, child_info in section.model_fields.items():
            yield from _setting(child, child_info, indent + "  ")
        return
    yield from _comment(info.description or "", indent)
    # A tuple stands as list, a path as text, nothing as null.
    yield f"{indent}{name}: {json.dumps(info.default, default=str)}"
    if examples := next((named for kind, named in _EXAMPLES.items() if kind == info.annotation), None):
        example = {key: value.model_dump(mode="json", exclude_unset=True) for key, value in examples.items()}
        yield f"{indent}# Example:"
        yield from (f"{indent}#   {line}" for line in yaml.safe_dump(example, sort_keys=False).splitlines())


def _comment(text: str, indent: str) -> Iterator[str]:
    for paragraph in textwrap.dedent(text).strip().splitlines():
        yield from textwrap.wrap(
            paragraph, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ", break_on_hyphens=False
        )
