"""Synthetic patients: an anthropomorphic CT of chest, abdomen and pelvis with labels, diseases and a report."""

from ct.phantom.diseases import DISEASES, PREVALENCE
from ct.phantom.patient import Body, Lesion, PhantomPatient
from ct.phantom.render import ANATOMIES, Rendered, lesion_mask, render
from ct.phantom.report import AnatomyText, Report, write_report

__all__ = [
    "ANATOMIES",
    "DISEASES",
    "PREVALENCE",
    "AnatomyText",
    "Body",
    "Lesion",
    "PhantomPatient",
    "Rendered",
    "Report",
    "lesion_mask",
    "render",
    "write_report",
]
