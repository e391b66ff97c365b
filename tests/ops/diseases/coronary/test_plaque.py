from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ops.diseases.coronary.plaque import PlaquePolicy, measure
from ops.diseases.coronary.plaque_formulae import (
    COMPONENTS,
    components,
    fat_attenuation_index,
    is_high_attenuation,
    is_high_risk,
    plaque_burden,
    plaque_class,
    remodelling_index,
)
from ops.measure.errors import NotEvaluableError
from ops.measure.record import MeasurementRecord
from ops.phantoms.heart.coronary_tree import (
    Attenuation,
    Plaque,
    PlaqueKind,
    Vessel,
    lumen_labels,
    sample_vessel,
    scan_vessel,
    wall_labels,
)
from ops.verdict import ResultStatus
from ops.volume import Volume

Scan = tuple[Volume, Volume, Volume]


def artery(kind: PlaqueKind, remodelling: float = 1.3) -> Vessel:
    vessel = sample_vessel(np.random.default_rng(2), "RCA")
    return replace(vessel, plaques=(Plaque(30.0, 14.0, 0.5, remodelling, 0.6, 1.0, kind),))


def scanned(vessel: Vessel) -> Scan:
    image, labels = scan_vessel(vessel, Attenuation(), (0.5, 0.5, 0.5), np.random.default_rng(0))
    return image, lumen_labels(labels), wall_labels(labels)


@pytest.fixture(scope="module")
def soft() -> Scan:
    return scanned(artery("non_calcified"))


def measured(scan: Scan, policy: PlaquePolicy | None = None, kvp: float = 120.0) -> MeasurementRecord:
    return measure(scan[0], "CT", kvp, lumen=scan[1], wall=scan[2], policy=policy or PlaquePolicy())


def test_bands_of_set_a() -> None:
    names = [COMPONENTS["A"][n] for n in components([-50, 29, 30, 130, 131, 350, 351])]
    assert names == ["low_attenuation"] * 2 + ["fibro_fatty"] * 2 + ["fibrous"] * 2 + ["calcified"]


def test_bands_of_motoyama() -> None:
    names = [COMPONENTS["motoyama"][n] for n in components([29, 30, 31, 150, 151, 219, 220], "motoyama")]
    assert names == ["low_attenuation"] * 2 + ["intermediate"] * 2 + ["unclassified"] * 2 + ["calcified"]


def test_burden_and_remodelling() -> None:
    assert plaque_burden(10.0, 4.0) == pytest.approx(60)
    assert remodelling_index(13.2, 13.0, 11.0) == pytest.approx(1.1)
    assert remodelling_index(9.0, 12.0) == pytest.approx(0.75)
    for function, arguments, reason in (
        (plaque_burden, (4.0, 5.0), "invalid_area"),
        (plaque_burden, (0.0, 0.0), "invalid_area"),
        (plaque_burden, (float("nan"), 1.0), "invalid_area"),
        (remodelling_index, (4.0, None), "no_healthy_reference"),
        (remodelling_index, (4.0, 0.0), "invalid_vessel_size"),
        (remodelling_index, (float("inf"), 3.0), "invalid_vessel_size"),
    ):
        with pytest.raises(NotEvaluableError) as error:
            function(*arguments)
        assert error.value.reason == reason


def test_classes_need_fractions() -> None:
    with pytest.raises(NotEvaluableError) as error:
        plaque_class(0.4, None)
    assert error.value.reason == "not_classified"
    found = [plaque_class(share, (0.02, 0.5)) for share in (0, 0.02, 0.021, 0.499, 0.5, 1)]
    assert found == ["non_calcified"] * 2 + ["mixed"] * 2 + ["calcified"] * 2
    with pytest.raises(NotEvaluableError):
        plaque_class(1.1, (0.02, 0.5))


@pytest.mark.parametrize(
    ("present", "unknown", "answer"),
    [
        (0, 0, False),
        (1, 0, False),
        (2, 0, True),
        (4, 0, True),
        (2, 2, True),
        (0, 1, False),
        (1, 1, "feature_not_read"),
        (0, 2, "feature_not_read"),
    ],
)
def test_high_risk_needs_two_features(present: int, unknown: int, answer: bool | str) -> None:
    names = ("positive_remodelling", "low_attenuation", "spotty_calcification", "napkin_ring")
    values = [True] * present + [None] * unknown + [False] * (4 - present - unknown)
    features = dict(zip(names, values, strict=True))
    if isinstance(answer, bool):
        assert is_high_risk(features) is answer
        return
    with pytest.raises(NotEvaluableError) as error:
        is_high_risk(features)
    assert error.value.reason == answer


def test_high_risk_needs_the_four_features() -> None:
    with pytest.raises(NotEvaluableError) as error:
        is_high_risk({"napkin_ring": True})
    assert error.value.reason == "unknown_feature"


def test_fat_attenuation() -> None:
    assert fat_attenuation_index([-191, -190, -30, -29, 400]) == -110
    with pytest.raises(NotEvaluableError) as error:
        fat_attenuation_index([-191, -29])
    assert error.value.reason == "no_fat"
    assert is_high_attenuation(-70.1, 120)
    assert not is_high_attenuation(-70.11, 120)
    for function in (components, fat_attenuation_index, lambda hu: is_high_attenuation(hu, 120)):
        with pytest.raises(NotEvaluableError) as error:
            function(float("nan"))
        assert error.value.reason == "not_finite"
    for kvp in (100, float("nan")):
        with pytest.raises(NotEvaluableError) as error:
            is_high_attenuation(-70, kvp)
        assert error.value.reason == "kvp_not_comparable"


def test_a_soft_plaque(soft: Scan) -> None:
    record, truth = measured(soft), artery("non_calcified")
    assert record.status is ResultStatus.OK
    assert record["plaque_volume_RCA"] == pytest.approx(truth.plaque_volume(), rel=0.08)
    assert record["calcified_volume_RCA"] == 0
    assert record["plaques_RCA"] == 1
    assert record["plaque_position_RCA_1"] == pytest.approx(30, abs=3)
    assert record["remodelling_index_RCA_1"] == pytest.approx(1.3, abs=0.06)
    assert record["plaque_burden_RCA_1"] == pytest.approx(100 * (1 - 0.25 / 1.3), abs=4)
    assert record["positive_remodelling_RCA_1"] == record["low_attenuation_RCA_1"] == "present"
    assert record["high_risk_plaque_RCA_1"] == "present"
    assert record.measurement("plaque_class_RCA_1").reason == "not_classified"
    assert record["fat_attenuation_index"] == pytest.approx(-85, abs=4)
    assert record["fat_attenuation"] == "normal"
    assert record.measurement("plaque_volume_LAD").reason == "empty_mask"
    assert record["lumen_attenuation"] > 350
    assert MeasurementRecord.from_json(record.to_json()) == record


def test_components_add_up(soft: Scan) -> None:
    for bands in COMPONENTS:
        record = measured(soft, PlaquePolicy(bands=bands))
        parts = [record[f"{name}_volume_RCA"] for name in (*COMPONENTS[bands], "partial_volume")]
        assert sum(parts) == pytest.approx(record["plaque_volume_RCA"])


def test_a_calcified_plaque_is_classified_when_told_how() -> None:
    scan = scanned(artery("calcified"))
    record = measured(scan, PlaquePolicy(class_fractions=(0.02, 0.5)))
    assert record["calcified_volume_RCA"] == pytest.approx(artery("calcified").calcium_volume(), rel=0.2)
    assert record["plaque_class_RCA_1"] == "calcified"
    assert record["spotty_calcification_RCA_1"] == "absent"


def test_policies_count(soft: Scan) -> None:
    default = measured(soft)
    diameter = measured(soft, PlaquePolicy(remodelling="diameter"))
    assert diameter["remodelling_index_RCA_1"] ** 2 == pytest.approx(default["remodelling_index_RCA_1"], rel=0.01)
    edge = measured(soft, PlaquePolicy(outer_edge="exclude"))
    assert edge["low_attenuation_volume_RCA"] < default["low_attenuation_volume_RCA"]
    assert edge["plaque_volume_RCA"] == default["plaque_volume_RCA"]
    narrow = measured(soft, PlaquePolicy(site="narrowest_lumen"))
    assert narrow["plaque_position_RCA_1"] == pytest.approx(default["plaque_position_RCA_1"], abs=2)
    assert measured(soft, PlaquePolicy(lesion_burden=0.9))["plaques_RCA"] == 0
    high = PlaquePolicy(smallest_low_attenuation_mm3=500.0)
    assert measured(soft, high)["low_attenuation_RCA_1"] == "absent"


def test_low_attenuation_beside_calcium_is_partial_volume(soft: Scan) -> None:
    image, lumen, wall = soft
    before = measured(soft)
    voxels = image.voxels.copy()
    at = np.argwhere((wall.voxels != 0) & (lumen.voxels == 0) & (voxels < 20))
    voxels[tuple(at[len(at) // 2])] = 900
    after = measured((replace(image, voxels=voxels), lumen, wall))
    assert after["calcified_volume_RCA"] == pytest.approx(0.125)
    assert after["partial_volume_volume_RCA"] > 0
    assert after["low_attenuation_volume_RCA"] < before["low_attenuation_volume_RCA"] - 0.125
    assert after["spotty_calcification_RCA_1"] == "present"


def test_napkin_ring_decides_where_one_feature_is_present(soft: Scan) -> None:
    policy = PlaquePolicy(smallest_low_attenuation_mm3=500.0)
    for given, answer in ((None, None), (True, "present"), (False, "absent")):
        read = None if given is None else {"RCA": given}
        record = measure(soft[0], "CT", 120, lumen=soft[1], wall=soft[2], napkin_ring=read, policy=policy)
        assert record["high_risk_plaque_RCA_1"] == answer


def test_fat_of_a_short_vessel_and_at_another_voltage(soft: Scan) -> None:
    vessel = artery("non_calcified")
    ends = {"RCA": vessel.points[[0, 90]]}
    short = measure(soft[0], "CT", 120, lumen=soft[1], wall=soft[2], vessels=ends)
    assert short.measurement("fat_attenuation_index").reason == "vessel_too_short"
    low = measured(soft, kvp=100)
    assert low["fat_attenuation_index"] is not None
    assert low.measurement("fat_attenuation").reason == "kvp_not_comparable"
    assert low["kvp"] == 100


def test_refusals(soft: Scan) -> None:
    image, lumen, wall = soft
    empty = replace(wall, voxels=np.zeros_like(wall.voxels))
    small = replace(wall, voxels=np.where(wall.voxels == lumen.voxels, 0, wall.voxels))
    for arguments, reason in (
        ({"modality": "MR"}, "wrong_modality"),
        ({"image": replace(image, units="a.u.")}, "wrong_units"),
        ({"kvp": 0.0}, "invalid_kvp"),
        ({"wall": empty}, "empty_mask"),
        ({"lumen": empty}, "empty_mask"),
        ({"wall": wall.crop((0, 0, 0), (5, 5, 5))}, "grid_mismatch"),
        ({"wall": replace(wall, voxels=wall.voxels.astype(float))}, "not_a_label_map"),
        ({"wall": small}, "lumen_outside_wall"),
    ):
        record = measure(**({"image": image, "modality": "CT", "kvp": 120.0, "lumen": lumen, "wall": wall} | arguments))
        assert (record.status, record.reason) == (ResultStatus.NOT_EVALUABLE, reason)
        assert record.policy == PlaquePolicy().to_dict()


@pytest.mark.parametrize(
    "wrong",
    [
        {"bands": "B"},
        {"remodelling": "volume"},
        {"site": "middle"},
        {"outer_edge": "maybe"},
        {"class_fractions": (0.5, 0.5)},
        {"class_fractions": (-0.1, 0.5)},
        {"lesion_burden": 0.0},
        {"smallest_low_attenuation_mm3": 0.0},
    ],
)
def test_impossible_policies(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PlaquePolicy(**wrong)
