from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from ops.dicom.assemble import build_volume
from ops.verdict import VerdictStatus
from tests.ops.dicom.builders import files, instance, only, pixels, setting, to_bytes


def moved(*shifts: tuple[int, tuple[float, float, float]]):
    table = dict(shifts)

    def change(number: int, dataset: Dataset) -> None:
        if number in table:
            position = np.array([float(v) for v in dataset.ImagePositionPatient]) + table[number]
            dataset.ImagePositionPatient = [round(float(v), 6) for v in position]

    return change


def reason(sources: dict[str, bytes]) -> str:
    verdict = only(sources)[1].verdict
    assert verdict.refused
    assert verdict.detail
    return verdict.reason


def test_grid_of_an_axial_stack() -> None:
    _series, assessment = only(files(4))
    assert assessment.verdict.status is VerdictStatus.ACCEPTED
    grid = assessment.grid
    assert grid is not None
    assert grid.shape == (4, 6, 5)
    assert grid.spacing == (2.0, 0.5, 0.7)
    np.testing.assert_allclose(grid.index_to_patient([1, 2, 3]), [-10 + 3 * 0.7, -20 + 2 * 0.5, 2.0])
    assert assessment.units == "HU"


@given(order=st.permutations(range(6)), backwards=st.booleans())
@settings(max_examples=20, deadline=None)
def test_slices_are_sorted_by_position_whatever_their_names_and_numbers(order: list[int], backwards: bool) -> None:
    def renumber(number: int, dataset: Dataset) -> None:
        dataset.InstanceNumber = -number if backwards else number

    sources = {f"/in/{order[n]}": to_bytes(instance(n, change=renumber)) for n in range(6)}
    series, assessment = only(sources)
    volume = build_volume(series, assessment, sources.__getitem__)
    np.testing.assert_array_equal(volume.voxels, [pixels(n) for n in range(6)])


def test_spacing_is_the_increment_not_the_thickness() -> None:
    overlapping = files(5, setting(SliceThickness=3.0, SpacingBetweenSlices=3.0), spacing=1.5)
    grid = only(overlapping)[1].grid
    assert grid is not None
    assert grid.spacing[0] == 1.5


@given(
    angles=st.tuples(*[st.floats(-80, 80)] * 3),
    step=st.floats(0.4, 8.0),
)
@settings(max_examples=30, deadline=None)
def test_oblique_stacks_are_sorted_along_their_normal(angles: tuple[float, float, float], step: float) -> None:
    from scipy.spatial.transform import Rotation

    axes = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    row, column, normal = axes.T
    origin = np.array([12.0, -40.0, 900.0])

    def oblique(number: int, dataset: Dataset) -> None:
        # 16 characters are what a decimal string holds (PS3.5 §6.2).
        dataset.ImageOrientationPatient = [f"{value:.10f}" for value in (*row, *column)]
        dataset.ImagePositionPatient = [f"{value:.8f}" for value in origin + number * step * normal]

    grid = only(files(4, oblique))[1].grid
    assert grid is not None
    corner = [3, 5, 4]
    expected = origin + 3 * step * normal + 5 * 0.5 * column + 4 * 0.7 * row
    np.testing.assert_allclose(grid.index_to_patient(corner), expected, atol=1e-5)


def test_missing_slice() -> None:
    sources = files(6)
    del sources["/in/003.dcm"]
    assert reason(sources) == "missing_slices"


def test_unequal_spacing() -> None:
    assert reason(files(6, moved((5, (0, 0, 0.7))))) == "unequal_spacing"


@pytest.mark.parametrize(("shift", "refused"), [(0.015, False), (0.03, True)])
def test_one_per_cent_is_the_limit_of_uneven_steps(shift: float, refused: bool) -> None:
    assert only(files(6, moved((5, (0, 0, shift)))))[1].verdict.refused is refused


def test_slow_drift_adds_up() -> None:
    def drift(number: int, dataset: Dataset) -> None:
        dataset.ImagePositionPatient = [0, 0, round(number * 1.0 + 0.009 * max(0, number - 40), 4)]

    assert reason(files(80, drift)) == "unequal_spacing"


def test_positions_rounded_to_two_decimals_are_regular() -> None:
    def rounded(number: int, dataset: Dataset) -> None:
        dataset.ImagePositionPatient = [0, 0, round(number * 1.2345, 2)]

    grid = only(files(30, rounded))[1].grid
    assert grid is not None
    assert grid.spacing[0] == pytest.approx(1.2345, abs=2e-4)


def test_gantry_tilt() -> None:
    def tilted(number: int, dataset: Dataset) -> None:
        cosine, sine = np.cos(np.radians(18.5)), np.sin(np.radians(18.5))
        dataset.ImageOrientationPatient = [1, 0, 0, 0, round(cosine, 6), -round(sine, 6)]

    assert reason(files(5, tilted)) == "gantry_tilt"


def test_sideways_shift_of_one_slice() -> None:
    assert reason(files(60, moved((30, (3.0, 0, 0))))) == "misaligned_slices"


def test_duplicate_positions_with_other_pixels() -> None:
    assert reason(files(5, moved((3, (0, 0, -2.0))))) == "duplicate_slices"


def test_mixed_orientation() -> None:
    def turned(number: int, dataset: Dataset) -> None:
        if number == 2:
            dataset.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]

    assert reason(files(5, turned)) == "mixed_orientation"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"ImagePositionPatient": None}, "no_position"),
        ({"ImageOrientationPatient": None}, "no_position"),
        ({"PixelSpacing": None}, "no_position"),
        ({"PixelSpacing": [0.5, 0.0]}, "no_position"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "invalid_orientation"),
        ({"RescaleIntercept": None}, "missing_rescale"),
        ({"RescaleSlope": 0}, "invalid_rescale"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "monochrome1"),
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "colour_image"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localiser"),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, "secondary_capture"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "secondary_capture"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.67", "PixelData": None, "Rows": None}, "not_an_image"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"}, "not_an_image"),
        ({"PixelData": None}, "no_pixel_data"),
        ({"PixelData": bytes(20)}, "truncated_pixel_data"),
        ({"BitsStored": 17}, "invalid_pixel_description"),
        ({"Rows": 0}, "invalid_pixel_description"),
        ({"NumberOfFrames": 3}, "multi_frame_unsupported"),
    ],
)
def test_reason_codes(values: dict[str, object], expected: str) -> None:
    assert reason(files(4, setting(**values))) == expected


def test_unknown_transfer_syntax() -> None:
    sources = {
        name: data.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.9\0") for name, data in files(4).items()
    }
    assert reason(sources) == "unsupported_transfer_syntax"


def test_mixed_sizes() -> None:
    def smaller(number: int, dataset: Dataset) -> None:
        if number == 3:
            dataset.Rows, dataset.PixelData = 4, bytes(40)

    assert reason(files(4, smaller)) == "mixed_sizes"


def test_mixed_spacing_and_frame_of_reference() -> None:
    def zoomed(number: int, dataset: Dataset) -> None:
        dataset.PixelSpacing = [0.5, 0.7] if number else [0.6, 0.7]

    def elsewhere(number: int, dataset: Dataset) -> None:
        dataset.FrameOfReferenceUID = f"1.2.{number // 2}"

    assert reason(files(4, zoomed)) == "mixed_spacing"
    assert reason(files(4, elsewhere)) == "mixed_frame_of_reference"


def test_a_frame_of_reference_that_some_slices_do_not_state_is_that_of_the_others() -> None:
    def silent(number: int, dataset: Dataset) -> None:
        if number != 2:
            del dataset.FrameOfReferenceUID

    assert only(files(4, silent))[1].verdict.status is VerdictStatus.ACCEPTED


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_slices(count: int) -> None:
    assert reason(files(count)) == "too_few_slices"
