"""Which series the calcium programme accepts, and what it says about the others."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flows.programmes.calcium import accept, is_sharp_kernel
from flows.programmes.programme import Selection
from ops.diseases.calcium.scan import Gating, ScanFacts
from ops.verdict import ResultStatus, VerdictStatus
from ops.volume import Grid
from storage.records import SeriesRecord, VerdictRecord

STUDY = "1.2.3"


def series(
    uid: str,
    modality: str = "CT",
    shape: tuple[int, int, int] = (50, 512, 512),
    spacing: tuple[float, float, float] = (3.0, 0.4, 0.4),
    **header: Any,
) -> SeriesRecord:
    """A calcium-scoring series unless told otherwise; a keyword given as None is absent."""
    grid = Grid.from_spacing(shape, spacing)
    geometry = {"shape": list(grid.shape), "affine": grid.affine.tolist()}
    values = {"KVP": 120.0, "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"], **geometry, **header}
    given = {keyword: value for keyword, value in values.items() if value is not None}
    return SeriesRecord(
        uid, STUDY, modality, "dicom", shape[0], "digest", pixel_digest="p" * 64, volume_url="key", header=given
    )


def ingested(record: SeriesRecord, status: VerdictStatus = VerdictStatus.ACCEPTED, reason: str = "") -> VerdictRecord:
    return VerdictRecord(record.series_uid, record.study_uid, "ingest", status, reason, "as ingest found it")


def select(*records: SeriesRecord, **policy: Any) -> Selection:
    return accept(records, [ingested(record) for record in records], policy)


def reasons(selection: Selection) -> dict[str, str]:
    return {verdict.series_uid: verdict.reason for verdict in selection.verdicts}


def facts(selection: Selection) -> ScanFacts:
    return ScanFacts.from_dict(json.loads(json.dumps(selection.facts)))


def test_a_calcium_scan_is_accepted_with_its_facts() -> None:
    record = series("1", SeriesDescription="CaSc 3.0 B35f", PatientAge="061Y", PatientSex="F", PixelPaddingValue=-2000)
    selection = select(record)
    assert selection.roles == {"ct": record}
    assert selection.verdicts[0].status is VerdictStatus.ACCEPTED
    scan = facts(selection)
    assert (scan.kvp, scan.gating, scan.age, scan.sex, scan.padding_value) == (120.0, Gating.GATED, 61.0, "F", -2000)
    assert "CaSc" in scan.gating_evidence


def test_a_repaired_series_stays_repaired() -> None:
    record = series("1")
    selection = accept([record], [ingested(record, VerdictStatus.REPAIRED, "derived_uids")], {})
    assert selection.roles
    assert (selection.verdicts[0].status, selection.verdicts[0].reason) == (VerdictStatus.REPAIRED, "derived_uids")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"modality": "MR"}, "wrong_modality"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localiser"),
        ({"ImageType": ["DERIVED", "SECONDARY", "MIP"]}, "derived_image"),
        ({"ImageType": ["DERIVED", "SECONDARY", "REFORMATTED", "AVERAGE"]}, "derived_image"),
        ({"BodyPartExamined": "HEAD"}, "not_chest"),
        ({"BodyPartExamined": "KNEE"}, "not_chest"),
        ({"spacing": (7.5, 0.4, 0.4)}, "slice_increment_unsupported"),
        ({"shape": (20, 512, 512)}, "coverage_too_short"),
        ({"ContrastBolusAgent": "OMNIPAQUE 350"}, "contrast_enhanced"),
        ({"ContrastBolusAgent": "Non-ionic 300"}, "contrast_enhanced"),
        ({"KVP": None}, "kvp_missing"),
        ({"KVP": 0}, "kvp_missing"),
        ({"RescaleType": "MGML"}, "not_hounsfield"),
        ({"RescaleType": "HU_MOD"}, "not_hounsfield"),
        ({"spacing": (5.01, 0.4, 0.4)}, "slice_increment_unsupported"),
    ],
)
def test_refusals_have_a_reason(changes: dict[str, Any], reason: str) -> None:
    selection = select(series("1", **changes))
    assert not selection.roles
    assert (selection.reason, selection.status) == (reason, ResultStatus.NOT_EVALUABLE)
    assert reasons(selection) == {"1": reason}


def test_ingest_refusals_are_passed_on() -> None:
    record = series("1")
    selection = accept([record], [ingested(record, VerdictStatus.REFUSED, "gantry_tilt")], {})
    assert selection.reason == "gantry_tilt"


def test_sagittal_slices_are_not_axial() -> None:
    sagittal = [[3.0, 0, 0, 0], [0, 0, 0.4, 0], [0, -0.4, 0, 0], [0, 0, 0, 1]]
    assert select(series("1", affine=sagittal)).reason == "not_axial"


@pytest.mark.parametrize("text", ["NO", "None", "no contrast", "W/O", "without", "N", "", "ORAL", "Non-contrast"])
def test_denied_contrast_is_no_contrast(text: str) -> None:
    assert select(series("1", ContrastBolusAgent=text)).roles


def test_a_scan_called_calcium_score_may_carry_the_agent_of_its_protocol() -> None:
    assert select(series("1", ContrastBolusAgent="ULTRAVIST", SeriesDescription="CaScore 3mm")).roles


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"KVP": 110}, "kvp_out_of_table"),
        ({"KVP": 100}, "kvp_out_of_table"),
        ({"FilterMaterial": "TIN"}, "tin_filter"),
        ({"SeriesDescription": "CaSc Sn100"}, "tin_filter"),
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "VMI"]}, "spectral_image"),
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "MAT_REMOVED"]}, "spectral_image"),
        ({"SeriesDescription": "CaSc Monoenergetic Plus 50 keV"}, "spectral_image"),
        ({"SeriesDescription": "Heart VNC 3.0"}, "spectral_image"),
        ({"PatientAge": "017Y"}, "outside_intended_use"),
        ({"PatientAge": "204M"}, "outside_intended_use"),
    ],
)
def test_spectra_without_a_table_and_children_are_out_of_range(changes: dict[str, Any], reason: str) -> None:
    selection = select(series("1", **changes))
    assert (selection.reason, selection.status) == (reason, ResultStatus.OUT_OF_MODEL_RANGE)


@pytest.mark.parametrize("age", ["018Y", "216M", ""])
def test_adults_and_people_of_unknown_age_are_accepted(age: str) -> None:
    assert select(series("1", PatientAge=age)).roles


def test_100_kvp_and_missing_kvp_need_a_named_policy() -> None:
    assert select(series("1", KVP=100), score={"weight_edges_100kvp": [145, 222, 334, 446]}).roles
    assumed = facts(select(series("1", KVP=None), assumed_kvp=120))
    assert (assumed.kvp, assumed.kvp_assumed) == (120, True)
    stated = facts(select(series("1", KVP=80), assumed_kvp=120))
    assert (stated.kvp, stated.kvp_assumed) == (80, False)


def test_the_gated_scan_is_preferred_and_the_others_say_so() -> None:
    lung = series("1", spacing=(1.0, 0.7, 0.7), shape=(330, 512, 512), SeriesDescription="Chest lung")
    calcium = series("2", SeriesDescription="Calcium score")
    scout = series("3", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    report = series("4", modality="SR")
    selection = select(lung, calcium, scout, report)
    assert selection.roles["ct"] is calcium
    assert reasons(selection) == {"1": "not_primary_series", "2": "", "3": "localiser", "4": "wrong_modality"}


def test_in_a_combined_study_the_calcium_series_is_scored_and_not_the_chest() -> None:
    study = {"StudyDescription": "CT CHEST AND CALCIUM SCORE"}
    smart_score = series("1", spacing=(2.5, 0.4, 0.4), CardiacSynchronizationTechnique="PROSPECTIVE", **study)
    chest = series("2", spacing=(3.0, 0.7, 0.7), shape=(110, 512, 512), SeriesDescription="Chest 3.0", **study)
    assert select(smart_score, chest).roles == {"ct": smart_score}


@pytest.mark.parametrize("increment", [5.0, 5.000000000000001, 5.0015])
def test_positions_written_with_few_decimals_do_not_refuse_five_millimetres(increment: float) -> None:
    assert select(series("1", spacing=(increment, 0.4, 0.4))).roles


def test_soft_kernels_and_three_millimetres_are_preferred() -> None:
    sharp = series("9", ConvolutionKernel="B60f", SeriesDescription="cardiac")
    soft = series("1", ConvolutionKernel="B35f", SeriesDescription="cardiac")
    thin = series(
        "8", ConvolutionKernel="B35f", SeriesDescription="cardiac", spacing=(0.6, 0.4, 0.4), shape=(250, 9, 9)
    )
    assert select(sharp, soft, thin).roles["ct"] is soft


def test_the_reason_of_a_study_is_that_of_its_nearest_series() -> None:
    selection = select(series("1", modality="MR"), series("2", KVP=None), series("3", BodyPartExamined="HEAD"))
    assert selection.reason == "kvp_missing"


@pytest.mark.parametrize(
    ("changes", "gating", "evidence"),
    [
        ({"SeriesDescription": "Chest non-gated 3mm"}, Gating.NONGATED, "non-gat"),
        ({"SeriesDescription": "NonGated Ca Score"}, Gating.NONGATED, "NonGat"),
        ({"CardiacSynchronizationTechnique": "NONE"}, Gating.NONGATED, "NONE"),
        ({"CardiacSynchronizationTechnique": "PROSPECTIVE"}, Gating.GATED, "PROSPECTIVE"),
        ({"TriggerTime": 620}, Gating.GATED, "TriggerTime"),
        ({"HeartRate": 61}, Gating.GATED, "HeartRate"),
        ({"ProtocolName": "DS_CaScSeq"}, Gating.GATED, "CaSc"),
        ({"SeriesDescription": "SMART SCORE"}, Gating.GATED, "SMART SCORE"),
        ({"SeriesDescription": "Ca-Score Heartbeat"}, Gating.GATED, "Ca-Sc"),
        ({"SeriesDescription": "CHEST NOT GATED"}, Gating.NONGATED, "NOT GAT"),
        ({"SeriesDescription": "Thorax without ECG gating"}, Gating.NONGATED, "without ECG gat"),
        ({"SeriesDescription": "Chest no ECG"}, Gating.NONGATED, "no ECG"),
        ({"SeriesDescription": "Thorax ohne EKG"}, Gating.NONGATED, "ohne EKG"),
        ({"SeriesDescription": "CT CHEST NON-CARDIAC"}, Gating.NONGATED, "NON-CARDIAC"),
        ({"SeriesDescription": "CARDIAC NON CONTRAST"}, Gating.GATED, "CARDIAC"),
        ({"CardiacSynchronizationTechnique": "REALTIME", "spacing": (3.0, 0.7, 0.7)}, Gating.NONGATED, "field of view"),
        ({"StudyDescription": "CT calcium score and chest", "spacing": (3.0, 0.7, 0.7)}, Gating.NONGATED, "no tag"),
        ({"StudyDescription": "h/o heart failure", "spacing": (3.0, 0.7, 0.7)}, Gating.NONGATED, "no tag"),
        ({"StudyDescription": "CT CALCIUM SCORE"}, Gating.GATED_INFERRED, "field of view"),
        ({"StudyDescription": "Chest, non-gated"}, Gating.NONGATED, "non-gat"),
        ({}, Gating.GATED_INFERRED, "field of view"),
        ({"spacing": (3.0, 0.7, 0.7)}, Gating.NONGATED, "field of view 358 mm"),
        ({"spacing": (1.0, 0.4, 0.4), "shape": (150, 512, 512)}, Gating.NONGATED, "increment 1 mm"),
        ({"shape": (100, 512, 512)}, Gating.NONGATED, "300 mm long"),
        ({"SeriesDescription": "Africa screening 3mm", "spacing": (3.0, 0.7, 0.7)}, Gating.NONGATED, "field of view"),
    ],
)
def test_gating_is_decided_with_evidence(changes: dict[str, Any], gating: Gating, evidence: str) -> None:
    scan = facts(select(series("1", **changes)))
    assert scan.gating is gating
    assert evidence in scan.gating_evidence


@pytest.mark.parametrize(
    ("kernel", "sharp"),
    [("B35f", False), ("B60f", True), ("Qr36d", False), ("I70f", True), ("STANDARD", False), ("LUNG", True),
     ("BONEPLUS", True), ("FC12", False), ("FC51", True), ("", False)],
)  # fmt: skip
def test_sharp_kernels(kernel: str, sharp: bool) -> None:
    assert is_sharp_kernel(kernel) is sharp


def test_stripped_headers_do_not_break_anything() -> None:
    odd = {"KVP": [], "ImageType": None, "PatientAge": "unknown", "PixelPaddingValue": "", "ScanOptions": []}
    assert select(series("1", **odd)).reason == "kvp_missing"
    bare = SeriesRecord("1", STUDY, "CT", "derived", 40, "digest", header={})
    assert accept([bare], [ingested(bare, VerdictStatus.REFUSED, "no_position")], {}).reason == "no_position"


def test_one_study_at_a_time() -> None:
    other = SeriesRecord("9", "9.9", "CT", "dicom", 1, "digest")
    with pytest.raises(ValueError, match="one study at a time"):
        select(series("1"), other)
