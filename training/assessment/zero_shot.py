"""Zero-shot figures: AUC with intervals, the CT-CLIP protocol, and both by subgroup."""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from training.assessment.examined import Examined, Floats
from training.evaluation.metrics import Estimate, Scored, Section, as_published, at_operating_points, held_out


def scored(examined: Examined, probability: Floats) -> Scored:
    """What the report leaves open is left out, as is what was not assessed."""
    told = np.where(examined.known, probability, np.nan)
    return Scored(examined.findings, examined.subjects, examined.positive, told)


def auc(data: Scored) -> Section:
    """AUC only, of what was assessed."""
    return at_operating_points(data, [None] * len(data.targets))


def protocol(examined: Examined, probability: Floats) -> tuple[Section, Section]:
    """As CT-CLIP and fVLM publish, what reports leave open counting as absent; and with held-out thresholds."""
    everything = Scored(examined.findings, examined.subjects, examined.positive, probability)
    return as_published(everything), held_out(scored(examined, probability))


@dataclass(frozen=True)
class Subgroup:
    """Cases that share an attribute."""

    attribute: str
    group: str
    cases: int
    patients: int
    findings: int
    """With both classes in the group: those that the mean is over."""
    macro_auc: Estimate
    macro_auc_of_all: float
    """Of the same findings on all cases: a group with easy findings only is no better for it."""


def subgroups(data: Scored, attributes: tuple[Mapping[str, str], ...]) -> tuple[Subgroup, ...]:
    """By scanner, slice thickness, sex, age, and kernel or contrast phase where they are known."""
    overall, rows = {row.target: row.metrics["auc"].value for row in auc(data).rows}, []
    for attribute, group_of in _ATTRIBUTES.items():
        groups: dict[str, list[int]] = defaultdict(list)
        for index, known in enumerate(attributes):
            groups[group_of(known)].append(index)
        if set(groups) == {_UNKNOWN}:
            continue
        for group in sorted(groups, key=_order):
            chosen = np.zeros(len(attributes), dtype=bool)
            chosen[groups[group]] = True
            part = data.take(chosen)
            section = auc(part)
            rated = [row.target for row in section.rows if not np.isnan(row.metrics["auc"].value)]
            of_all = float(np.mean([overall[target] for target in rated])) if rated else float("nan")
            macro, patients = section.macro["auc"], len(set(part.patients))
            rows.append(Subgroup(attribute, group, int(chosen.sum()), patients, len(rated), macro, of_all))
    return tuple(rows)


_UNKNOWN = "unknown"


def _order(group: str) -> tuple[bool, bool, bool, str]:
    """Bands from low to high, unknown last."""
    return group == _UNKNOWN, group.startswith("from "), not group.startswith("below "), group


def _named(*names: str) -> Callable[[Mapping[str, str]], str]:
    def group(known: Mapping[str, str]) -> str:
        return " ".join(known[name] for name in names if known.get(name)) or _UNKNOWN

    return group


def _banded(name: str, limits: tuple[float, ...], unit: str) -> Callable[[Mapping[str, str]], str]:
    """`047Y` and `1.25` are read; months and days of age are younger than the first limit."""

    def group(known: Mapping[str, str]) -> str:
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([YMWD]?)\s*", known.get(name, ""))
        if found is None:
            return _UNKNOWN
        value = float(found[1]) if found[2] in ("", "Y") else 0.0
        for low, high in zip((None, *limits), limits, strict=False):
            if value < high:
                return f"below {high:g} {unit}" if low is None else f"{low:g} to {high:g} {unit}"
        return f"from {limits[-1]:g} {unit}"

    return group


_ATTRIBUTES: dict[str, Callable[[Mapping[str, str]], str]] = {
    "scanner": _named("manufacturer", "model"),
    "kernel": _named("kernel"),
    "contrast phase": _named("phase"),
    "slice thickness": _banded("slice_thickness_mm", (1.6, 3.1, 5.1), "mm"),
    "sex": _named("sex"),
    "age": _banded("age", (40, 60, 80), "years"),
}
