"""The renal phantom: structures in the right places, whole, on the right side; files as KiPA22 has them."""

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from ct.nifti import read_labels, read_volume
from ct.phantom.renal import ARTERY, KIDNEY, TUMOR, VEIN, RenalPhantom, write_renal_phantoms
from ct.phantom.rendering import Rendered
from ct.phantom.scenery import INFERIOR_CAVA, descending_aorta
from ct.phantom.shapes import value_at


@pytest.fixture(scope="module", params=[1, 2], ids=["right", "left"])
def case(request: pytest.FixtureRequest) -> tuple[RenalPhantom, Rendered]:
    phantom = RenalPhantom.draw(request.param)
    return phantom, phantom.render()


def test_the_tumour_is_on_its_side_and_its_kidney_is_whole(case: tuple[RenalPhantom, Rendered]) -> None:
    phantom, rendered = case
    labels = rendered.labels
    assert set(np.unique(labels)) == {0, VEIN, KIDNEY, ARTERY, TUMOR}
    x = rendered.origin_mm[2] + np.argwhere(labels == TUMOR)[:, 2].mean() * rendered.spacing[2]
    assert (x > 0) == (phantom.side == "left")
    assert abs(x) > 30
    pieces, _ = ndimage.label(np.isin(labels, (KIDNEY, TUMOR)))
    own = pieces == pieces[tuple(np.argwhere(labels == TUMOR)[0])]
    assert own.sum() * np.prod(rendered.spacing) / 1000 > 80
    faces = [own[0], own[-1], own[:, 0], own[:, -1], own[:, :, 0], own[:, :, -1]]
    assert not any(face.any() for face in faces)


def test_artery_and_vein_lead_into_the_kidney_from_a_great_vessel(case: tuple[RenalPhantom, Rendered]) -> None:
    """The largest piece of each touches the kidney, and on its other end the aorta or the vena cava."""
    phantom, rendered = case
    for label, great in ((ARTERY, descending_aorta(phantom.patient)), (VEIN, INFERIOR_CAVA)):
        pieces, count = ndimage.label(rendered.labels == label)
        sizes = ndimage.sum_labels(np.ones_like(pieces), pieces, range(1, count + 1))
        vessel = pieces == int(np.argmax(sizes)) + 1
        assert (ndimage.binary_dilation(vessel) & (rendered.labels == KIDNEY)).any()
        at = np.argwhere(vessel)
        medial = at[np.argsort(at[:, 2] if phantom.side == "left" else -at[:, 2])[:60]]
        points = (np.array(rendered.origin_mm) + medial * rendered.spacing)[:, ::-1]
        away = min(value_at(great, phantom.patient.body.from_patient(tuple(point))) for point in points)
        assert -1.5 < away < 1.5
    hu = {label: rendered.hu[rendered.labels == label].mean() for label in (ARTERY, VEIN, KIDNEY)}
    assert hu[ARTERY] > 220 > hu[VEIN] > 90
    assert hu[ARTERY] > hu[KIDNEY]


def test_files_are_written_once_and_lie_in_patient_space(tmp_path: Path) -> None:
    image, *_ = write_renal_phantoms(tmp_path, range(2, 3))
    label = tmp_path / "label" / "2.nii.gz"
    before = image.read_bytes(), label.read_bytes(), image.stat().st_mtime_ns
    rendered = RenalPhantom.draw(2).render()
    volume, (labels, grid) = read_volume(image), read_labels(label)
    np.testing.assert_array_equal(volume.hu, rendered.hu)
    np.testing.assert_array_equal(labels, rendered.labels)
    assert volume.grid.coincides(grid)
    np.testing.assert_allclose(volume.grid.affine[:3, 3][::-1], rendered.origin_mm, atol=1e-3)
    list(write_renal_phantoms(tmp_path, range(2, 3)))
    assert (image.read_bytes(), label.read_bytes(), image.stat().st_mtime_ns) == before
    label.unlink()
    list(write_renal_phantoms(tmp_path, range(2, 3)))
    assert (image.read_bytes(), label.read_bytes()) == before[:2]
