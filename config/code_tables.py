"""The vocabulary's codes as a page, made from the YAML: `python -m config.code_tables FILE`."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from config.vocabulary import WHOLE_SCAN, Anatomy, FindingType, Vocabulary, load_vocabulary


def page() -> str:
    """The page, Markdown: a table of anatomies, and one of findings for each of them."""
    vocabulary = load_vocabulary()
    findings = vocabulary.findings
    lines = [
        "# Codes of anatomies and findings",
        "",
        "Made from `config/anatomies.yaml`, `findings.yaml` and `presets.yaml` by",
        "`python -m config.code_tables docs/codes.md`; do not edit.",
        "",
        "- **Verified**: the code was found, with this meaning, in an authority: a context group of DICOM (PS3.16),",
        "  TotalSegmentator's SNOMED table, the Human Phenotype Ontology (HPO, 2025-01) or the Human Disease Ontology",
        "  (DO). **no**: only in other public files; a terminologist has to look before it is relied on.",
        "- **own**: no public code was found. The code is of the project's scheme `99FVLMNODE`, which each object",
        "  declares in its Coding Scheme Identification Sequence (0008,0110).",
        "- None was looked up in a release of SNOMED CT: whether a code is still active is for a terminologist to say.",
        "- **CT-RATE** and **RADAR**: what the finding is called there. RADAR's catalogue",
        "  (github.com/alibaba-damo-academy/damo-radar) has 146 findings in 18 anatomies.",
        "- **Presets**: which lists of prompts ask for it. `medvl-54` are the diseases of the fVLM paper's own",
        "  evaluation, 53 from recollection and one (esophageal wall) our choice: the paper's list could not be had.",
        "",
        *_count(vocabulary),
        "",
        "## Anatomies",
        "",
        "| Anatomy | Code | Scheme | Meaning | Verified | Evidence |",
        "|---|---|---|---|---|---|",
        *(f"| {_row(a.name, *_coded(a))} |" for a in vocabulary.anatomies),
    ]
    for name, title in [*((a.name, a.title) for a in vocabulary.anatomies), (WHOLE_SCAN, "The whole scan")]:
        mine = [finding for finding in findings if finding.anatomy == name]
        if mine:
            lines += ["", f"## {title}", "", *_findings(mine, vocabulary)]
    return "\n".join(lines) + "\n"


def _count(vocabulary: Vocabulary) -> Iterable[str]:
    kinds = {
        "with a verified code": [f for f in vocabulary.findings if f.verified],
        "with a public code that is not verified": [f for f in vocabulary.findings if not f.verified and not f.local],
        "with a code of their own": [f for f in vocabulary.findings if f.local],
        "of CT-RATE": [f for f in vocabulary.findings if f.ct_rate],
        "of RADAR": [f for f in vocabulary.findings if f.radar],
    }
    yield "| Findings | |"
    yield "|---|---|"
    yield f"| all | {len(vocabulary.findings)} |"
    yield from (f"| {what} | {len(found)} |" for what, found in kinds.items())


def _findings(findings: Sequence[FindingType], vocabulary: Vocabulary) -> Iterable[str]:
    yield "| Finding | Title | Code | Scheme | Meaning | Verified | Evidence | CT-RATE | RADAR | Presets |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for finding in findings:
        asked = [p.name for p in vocabulary.presets if any(q.finding == finding.key for q in p.prompts)]
        cells = (finding.key, finding.title, *_coded(finding), finding.ct_rate, finding.radar, ", ".join(asked))
        yield f"| {_row(*cells)} |"


def _coded(entry: Anatomy | FindingType) -> tuple[str, ...]:
    verified = "own" if entry.local else "yes" if entry.verified else "no"
    return entry.code.value, entry.code.scheme, entry.code.meaning, verified, entry.evidence


def _row(*cells: str) -> str:
    return " | ".join(cell.replace("|", "\\|") for cell in cells)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
