"""The vocabulary's codes as a page, made from the YAML: `python -m config.code_tables FILE`."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from config.reasons import Reason
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
        "A paired anatomy has a segment a side, with the modifier Left (7771000, SCT) or Right (24028007, SCT).",
        "**Presets**: whose anatomy map has it. **Plausible**: outside, it is not assessed",
        "(`docs/radiologist/not-assessed.md`); *cut*: it may be read where the border of the scan cuts it.",
        "",
        "| Anatomy | Code | Scheme | Meaning | Verified | Evidence | Presets | Paired | TotalSegmentator | Plausible |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(f"| {_row(*_anatomy(a, vocabulary))} |" for a in vocabulary.anatomies),
        "",
        "## Why an anatomy was not assessed",
        "",
        "Codes of the scheme `99FVLMNODE`, in the report, in messages and in `fvlm-node check-sr`.",
        "",
        "| Code | Meaning | What to do |",
        "|---|---|---|",
        *(f"| {_row(r.value, r.meaning, r.cure)} |" for r in Reason if r.value.startswith("ANATOMY_")),
    ]
    for name, title in [*((a.name, a.title) for a in vocabulary.anatomies), (WHOLE_SCAN, "The whole scan")]:
        mine = [finding for finding in findings if finding.anatomy == name]
        if mine:
            lines += ["", f"## {title}", "", *_findings(mine, vocabulary)]
    return "\n".join(lines) + "\n"


def _anatomy(anatomy: Anatomy, vocabulary: Vocabulary) -> tuple[str, ...]:
    listed = ", ".join(preset.name for preset in vocabulary.presets if anatomy.name in preset.anatomies)
    classes = ", ".join(_runs(anatomy.totalsegmentator)) or "none"
    if anatomy.part_of:
        classes += f" (where it is not asked for: {anatomy.part_of})"
    (smallest, largest), (lowest, highest) = anatomy.volume_ml, anatomy.mean_hu
    plausible = f"{smallest:g}..{largest:g} ml, {lowest:g}..{highest:g} HU, {anatomy.most_pieces} "
    plausible += "piece" if anatomy.most_pieces == 1 else "pieces"
    plausible += ", cut" if anatomy.may_be_cut else ""
    return anatomy.name, *_coded(anatomy), listed, "yes" if anatomy.paired else "", classes, plausible


def _runs(classes: Sequence[str]) -> Iterable[str]:
    """The names of classes, those that only differ by a number once: `rib_left_1..12`."""
    by_stem: dict[str, list[int]] = {}
    for name in classes:
        stem = name.rstrip("0123456789")
        by_stem.setdefault(stem, []).append(int(name[len(stem) :] or 0))
    for stem, numbers in by_stem.items():
        yield f"{stem}{min(numbers)}..{max(numbers)}" if max(numbers) else stem


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
