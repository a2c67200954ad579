"""The SEG of one study, 512 x 512 x 400 with 15 anatomies, from masks in memory to a file: ours against plain use.

Ours tells left from right first (kidneys, lungs, adrenal glands) and writes one segment a side, tracked and coded as
the report needs it. Plain is what highdicom's documentation shows: one array of segment numbers, one segment an
anatomy, the same library, the same transfer syntax. Each runs in processes of its own, in turn; times are wall seconds,
and `_cpu_s` seconds of all cores together, which hold on a machine that does something else too. Memory is the peak
over the inputs (volume, masks and headers), MB.
"""

import argparse
import json
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import highdicom as hd
import numpy as np
from bench_result import Result
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from config import load_vocabulary
from ct.anatomy import AlgorithmIdentity, AnatomyMap
from ct.measure import measure
from ct.phantom import ANATOMIES, PhantomPatient, to_volume
from ct.sides import tell_sides
from ct.volume import Grid, Volume
from dicom_sr import segmentation
from dicom_sr.identity import Names, WriteContext
from dicom_sr.sources import working_copies
from fvlm.reading import AnatomyReading, Reading

SPACING, SHAPE = (1.5, 0.78, 0.78), (400, 512, 512)
LIMIT_S, LIMIT_MB = 5.0, 400.0
SEGMENTER = AlgorithmIdentity("Phantom truth", "1", "0" * 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3, help="pairs of ours and plain")
    parser.add_argument("--side", choices=sorted(SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(one_run(arguments.side, arguments.folder)))
        return
    result = Result("segmentation_objects", ("highdicom", "pydicom", "numpy", "scipy"))
    result.conditions |= {"shape": SHAPE, "anatomies": len(ANATOMIES), "repeats": arguments.repeats}
    with TemporaryDirectory() as name:
        folder = Path(name)
        volume, labels = to_volume(PhantomPatient.draw(11), SPACING, SHAPE)
        np.save(folder / "hu.npy", volume.hu)
        np.save(folder / "labels.npy", labels)
        del volume, labels
        runs: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
        for _ in range(arguments.repeats):
            for side, done in runs.items():
                done.append(_process(side, folder))
    ours, plain = (result.add(f"{side}_s", [run["wall"] for run in runs[side]]) for side in ("ours", "plain"))
    result.figures["ratio_vs_plain"] = round(plain / ours, 2)
    result.figures["seconds_limit_over_ours"] = round(LIMIT_S / ours, 2)
    cpu = {side: result.add(f"{side}_cpu_s", [run["cpu"] for run in runs[side]]) for side in ("ours", "plain")}
    result.figures["ratio_vs_plain_cpu"] = round(cpu["plain"] / cpu["ours"], 2)
    result.figures["seconds_limit_over_ours_cpu"] = round(LIMIT_S / cpu["ours"], 2)
    result.add("ours_of_it_telling_sides_s", [run["sides"] for run in runs["ours"]])
    memory = {side: result.add(f"{side}_memory_mb", [run["memory"] for run in runs[side]], 0) for side in SIDES}
    result.figures["memory_limit_over_ours"] = round(LIMIT_MB / memory["ours"], 2)
    result.add("label_map_s", [run["wall"] for run in runs["label_map"]])
    result.add("label_map_cpu_s", [run["cpu"] for run in runs["label_map"]])
    for side in SIDES:
        for what in ("segments", "frames", "file_mb"):
            result.figures[f"{side}_{what}"] = runs[side][0][what]
    result.finish()


def _process(side: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--side", side, "--folder", str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def one_run(side: str, folder: Path) -> dict[str, float]:
    """In a fresh process: inputs into memory, then the clock."""
    hu, labels = np.load(folder / "hu.npy"), np.load(folder / "labels.npy")
    volume = Volume(hu, Grid.axis_aligned(SHAPE, SPACING, (-200.0, -200.0, -300.0)))
    measures = measure(volume, labels, ANATOMIES)
    headers = working_copies(ct_headers(), AnatomyMap(labels, volume.grid, ANATOMIES, SEGMENTER, measures))
    out = folder / f"{side}.dcm"
    before = _memory_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    wall, cpu = time.perf_counter(), time.process_time()
    sides_s = SIDES[side](volume, labels, measures, headers, out)
    figures = {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "memory": _memory_mb("VmHWM") - before,
        "sides": sides_s,
        "file_mb": round(out.stat().st_size / 1e6, 1),
    }
    written = dcmread(out, defer_size=1024)
    numbers = [int(item.SegmentNumber) for item in written.SegmentSequence]
    return figures | {"segments": sum(n > 0 for n in numbers), "frames": int(written.NumberOfFrames)}


def ours(volume: Volume, labels: Any, measures: Any, headers: list[Dataset], out: Path) -> float:
    started = time.perf_counter()
    anatomy_map = _sided(volume, labels, measures)
    sides_s = time.perf_counter() - started
    segments = segmentation.build(_reading(measures), anatomy_map, headers, *_identity())
    assert segments is not None
    segments.dataset.save_as(out, enforce_file_format=True)
    return sides_s


def label_map(volume: Volume, labels: Any, measures: Any, headers: list[Dataset], out: Path) -> float:
    started = time.perf_counter()
    anatomy_map = _sided(volume, labels, measures)
    sides_s = time.perf_counter() - started
    reading, (names, context, moment, vocabulary) = _reading(measures), _identity()
    rows = segmentation.segment_rows(reading, anatomy_map, names, vocabulary)
    made = segmentation.build_label_map(rows, reading, anatomy_map, headers, names, context, moment, vocabulary)
    made.save_as(out, enforce_file_format=True)
    return sides_s


def plain(volume: Volume, labels: Any, measures: Any, headers: list[Dataset], out: Path) -> float:  # noqa: ARG001
    algorithm = hd.AlgorithmIdentificationSequence("Phantom truth", codes.DCM.ArtificialIntelligence, "1")
    vocabulary = load_vocabulary()
    descriptions = []
    for number, name in enumerate(ANATOMIES, start=1):
        code = vocabulary.anatomy(name).code
        descriptions.append(
            hd.seg.SegmentDescription(
                segment_number=number,
                segment_label=name,
                segmented_property_category=codes.SCT.AnatomicalStructure,
                segmented_property_type=hd.sr.CodedConcept(code.value, code.scheme, code.meaning),
                algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
                algorithm_identification=algorithm,
            )
        )
    hd.seg.Segmentation(
        source_images=headers,
        pixel_array=labels,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=descriptions,
        series_instance_uid=hd.UID(),
        series_number=100,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="Manufacturer",
        manufacturer_model_name="Model",
        software_versions="1",
        device_serial_number="1",
    ).save_as(out)
    return 0.0


SIDES = {"ours": ours, "plain": plain, "label_map": label_map}


def _sided(volume: Volume, labels: Any, measures: Any) -> AnatomyMap:
    sides = tell_sides(volume, labels, ANATOMIES, measures).sides
    assert set(sides) == {"lung", "kidney", "adrenal_gland"}
    return AnatomyMap(labels, volume.grid, ANATOMIES, SEGMENTER, measures, sides)


def _reading(measures: Any) -> Reading:
    anatomies = tuple(AnatomyReading(name, m.volume_ml, m.mean_hu, ()) for name, m in measures.items())
    return Reading(SEGMENTER, SEGMENTER, anatomies, (), datetime(2026, 1, 1, tzinfo=UTC))


def _identity() -> tuple[Names, WriteContext, datetime, Any]:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    names = Names("1.2.3", "sources", moment.isoformat(), SEGMENTER.digest, SEGMENTER.digest)
    return names, WriteContext(), moment, load_vocabulary()


def ct_headers() -> list[Dataset]:
    """Headers of a plain axial series, as a scanner writes them."""
    headers = []
    for index in range(SHAPE[0]):
        header = Dataset()
        header.SOPClassUID, header.SOPInstanceUID = CTImageStorage, f"1.2.3.{index + 1}"
        header.StudyInstanceUID, header.SeriesInstanceUID, header.FrameOfReferenceUID = "1.2", "1.2.3", "1.2.4"
        header.Modality, header.PatientID, header.PatientName = "CT", "P-1", "Phantom^One"
        header.StudyDate, header.StudyTime = "20260101", "080000"
        header.SeriesNumber, header.InstanceNumber = 2, index + 1
        header.Manufacturer = "fVLM Node project"
        header.Rows, header.Columns = SHAPE[1:]
        header.PixelSpacing = list(SPACING[1:])
        header.SliceThickness = SPACING[0]
        header.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        header.ImagePositionPatient = [-200, -200, -300 + index * SPACING[0]]
        header.ensure_file_meta()
        header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        headers.append(header)
    return headers


def _memory_mb(which: str) -> float:
    """VmRSS (now) or VmHWM (the peak) of this process, MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{which}:")) * 1024 / 1e6


if __name__ == "__main__":
    main()
