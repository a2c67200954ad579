"""The objects beside SEG and SR that a plan asks for, and the SR as their root."""

from collections.abc import Sequence

from pydicom import Dataset

from config import Output, Plan, Reason
from ct.volume import Volume
from dicom_sr import key_objects, parametric_map, pdf, result_root, secondary_capture, text_report
from dicom_sr.companion import Case
from dicom_sr.errors import WriteError
from dicom_sr.heat_stack import HeatStack, heat_stack, key_slices
from dicom_sr.outputs import output_of
from dicom_sr.summary_image import Page, draw_page


def looked_at(case: Case) -> tuple[dict[str, HeatStack], dict[str, list[int]]]:
    """Of each present finding (key) its heat, where it has any, and the source slices to look at, the best first."""
    stacks: dict[str, HeatStack] = {}
    slices: dict[str, list[int]] = {}
    for finding in case.reading.positives:
        stack = None
        if finding.heat is not None and finding.anatomy in case.anatomy_map.names:
            stack = heat_stack(finding.heat, case.anatomy_map, finding.anatomy)
        if stack is not None:
            stacks[finding.key] = stack
        slices[finding.key] = key_slices(finding, case.anatomy_map, stack)
    return stacks, slices


def add(case: Case, made: Sequence[Dataset], document: Dataset, plan: Plan, volume: Volume | None) -> list[Dataset]:
    """`made`, the companions of the plan, and `document` (the SR), in the order of sending.

    Raises WriteError if the summary page or the PDF is wanted and there is no volume to draw.
    """
    objects = list(made)
    stacks: dict[str, HeatStack] = {}
    slices: dict[str, list[int]] = {}
    if plan.outputs - {Output.SEG, Output.LABEL_MAP, Output.SR}:
        stacks, slices = looked_at(case)
    if Output.PM in plan.outputs:
        of_key = {finding.key: finding for finding in case.reading.positives}
        objects += [parametric_map.build(case, of_key[key], stack) for key, stack in stacks.items()]
    if plan.outputs & {Output.SC, Output.PDF}:
        if volume is None:
            raise WriteError(Reason.INTERNAL, "a summary page is to be drawn, and there is no volume")
        page: Page = draw_page(case, volume, stacks, slices)
        if Output.SC in plan.outputs:
            objects.append(secondary_capture.build(case, page.image, page.shown))
        if Output.PDF in plan.outputs:
            objects.append(pdf.build(case, page.image, slices))
    if Output.KO in plan.outputs and (selection := key_objects.build(case, slices)) is not None:
        objects.append(selection)
    if Output.TEXT in plan.outputs:
        objects.append(text_report.build(case, slices))
    result_root.link(document, [each for each in objects if output_of(each) in plan.linked])
    order = list(Output)
    return sorted([*objects, document], key=lambda each: order.index(output_of(each)))
