from __future__ import annotations

import random

import numpy as np
import pytest
from pydicom.dataset import Dataset

from ops.dicom.uids import is_valid_uid
from tests.ops.dicom.builders import SERIES_UID, STUDY_UID, files, group, instance, set_pixels, setting, to_bytes


def renamed(sources: dict[str, bytes], folder: str) -> dict[str, bytes]:
    return {name.replace("/in/", f"{folder}/"): data for name, data in sources.items()}


def without_uids(number: int, dataset: Dataset) -> None:
    del dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID


def reasons(series: object) -> list[str]:
    return [repair.reason for repair in series.repairs]  # type: ignore[attr-defined]


def test_plain_series() -> None:
    (series,) = group(files())
    assert (series.study_uid, series.series_uid, series.uid_source) == (STUDY_UID, SERIES_UID, "dicom")
    assert series.repairs == ()
    assert len(series.instances) == 4


def test_order_of_files_does_not_matter() -> None:
    items = list((files(5) | renamed(files(5, setting(SeriesInstanceUID="1.2.9")), "/b")).items())
    expected = group(items)
    random.Random(1).shuffle(items)
    assert group(items) == expected


def test_one_series_over_many_folders() -> None:
    sources = {f"/part{n}/x": data for n, data in enumerate(files().values())}
    assert len(group(sources)) == 1


def test_missing_uids_are_derived_and_said() -> None:
    (series,) = group(files(change=without_uids))
    assert is_valid_uid(series.study_uid)
    assert is_valid_uid(series.series_uid)
    assert series.uid_source == "derived"
    assert reasons(series) == ["derived_uids"]


def test_derived_uids_do_not_depend_on_the_place_or_on_a_late_slice() -> None:
    (series,) = group(files(6, change=without_uids))
    (moved,) = group(renamed(files(6, change=without_uids), "/elsewhere/deep"))
    (early,) = group(dict(list(files(6, change=without_uids).items())[:4]))
    assert (series.study_uid, series.series_uid) == (moved.study_uid, moved.series_uid)
    assert (series.study_uid, series.series_uid) == (early.study_uid, early.series_uid)


def test_two_studies_without_uids_in_two_folders_stay_two() -> None:
    def other_patient(number: int, dataset: Dataset) -> None:
        without_uids(number, dataset)
        set_pixels(dataset, np.full((6, 5), number + 7, np.int16))

    found = group(renamed(files(change=without_uids), "/a") | renamed(files(change=other_patient), "/b"))
    assert len({series.study_uid for series in found}) == 2
    assert [len(series.instances) for series in found] == [4, 4]


def test_copies_in_another_folder_are_left_out_and_said() -> None:
    (series,) = group(files() | renamed(files(), "/copy"))
    assert len(series.instances) == 4
    assert reasons(series) == ["identical_duplicates_dropped"]
    (derived,) = group(files(change=without_uids) | renamed(files(change=without_uids), "/copy"))
    assert len(derived.instances) == 4


def test_missing_series_uid_groups_by_what_series_share() -> None:
    thick = files(4, setting(SeriesInstanceUID=None))
    sharp = renamed(files(4, setting(SeriesInstanceUID=None, ConvolutionKernel="Br64", SeriesNumber=4)), "/in/sharp")
    found = group(thick | sharp)
    assert {series.study_uid for series in found} == {STUDY_UID}
    assert [len(series.instances) for series in found] == [4, 4]


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_invalid_uids_stay_the_identifiers() -> None:
    (series,) = group(files(change=setting(StudyInstanceUID="1.2.03", SeriesInstanceUID="4.1.2")))
    assert (series.study_uid, series.series_uid) == ("1.2.03", "4.1.2")
    assert reasons(series) == ["invalid_uid"]


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_unsafe_uids_are_replaced_but_still_tell_series_apart() -> None:
    one = files(3, setting(SeriesInstanceUID="../../etc"))
    two = renamed(files(3, setting(SeriesInstanceUID="../../usr")), "/in/two")
    found = group(one | two)
    assert len(found) == 2
    assert all(is_valid_uid(series.series_uid) for series in found)


def test_a_scout_is_set_aside() -> None:
    def scout(_number: int, dataset: Dataset) -> None:
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]

    found = group(files(5) | {"/in/scout": to_bytes(instance(9, change=scout))})
    sizes = {series.series_uid == SERIES_UID: len(series.instances) for series in found}
    assert sizes == {True: 5, False: 1}
    assert {series.parent_uid for series in found} == {SERIES_UID}


def test_two_phases_under_one_uid_are_split() -> None:
    def late(number: int, dataset: Dataset) -> None:
        dataset.NominalPercentageOfCardiacPhase = 75.0
        dataset.SOPInstanceUID += ".7"
        dataset.PixelData = bytes(60)

    early = files(4, setting(NominalPercentageOfCardiacPhase=40.0))
    found = group(early | renamed(files(4, late), "/in/late"))
    assert [len(series.instances) for series in found] == [4, 4]
    assert {reason for series in found for reason in reasons(series)} == {"series_split"}
    phases = [{h.number("NominalPercentageOfCardiacPhase") for h in series.instances} for series in found]
    assert sorted(map(min, phases)) == [40.0, 75.0]
    assert max(map(len, phases)) == 1


def test_bolus_tracking_is_not_split_into_single_slices() -> None:
    def same_place(number: int, dataset: Dataset) -> None:
        dataset.ImagePositionPatient = [0, 0, 0]
        dataset.AcquisitionNumber = number

    assert len(group(files(5, same_place))) == 1


def test_same_position_and_pixels_under_another_instance_uid_is_dropped() -> None:
    resent = instance(1)
    resent.SOPInstanceUID += ".9"
    (series,) = group(files(4) | {"/in/resent": to_bytes(resent)})
    assert len(series.instances) == 4
    assert reasons(series) == ["identical_duplicates_dropped"]


def test_a_screen_shot_in_a_series_does_not_cost_its_slices() -> None:
    def screen_shot(number: int, dataset: Dataset) -> None:
        if number == 4:
            dataset.ImageType = ["DERIVED", "SECONDARY", "SCREEN SAVE"]

    stack, shot = sorted(group(files(5, screen_shot)), key=lambda series: -len(series.instances))
    assert (stack.series_uid, len(stack.instances)) == (SERIES_UID, 4)
    assert (len(shot.instances), reasons(shot)) == (1, ["series_split"])
