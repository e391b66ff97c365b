"""Calibration of real ultrasound images: an apical four-chamber loop, and a Doppler screen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ops.dicom.headers import parse
from ops.dicom.kinds import RefusedSeriesError
from ops.dicom.ultrasound import frame_times_ms, read_regions, tissue_region

pytestmark = pytest.mark.realdata


def test_echo_loop_with_a_negative_delta(realdata: Path) -> None:
    dataset = parse((realdata / "us_xa" / "DIRW0007.dcm").read_bytes())
    region = tissue_region(dataset)
    assert region.bounds == (48, 27, 391, 548)
    assert region.spacing_mm == pytest.approx((0.5247813, 0.5247813), abs=1e-6)
    assert region.directions == (1, -1)
    # The screen says 180 mm, which the calibrated region is deep.
    assert (391 - 48 + 1) * region.spacing_mm[0] == pytest.approx(180, abs=1)
    assert [one.reason for one in read_regions(dataset)] == ["not_a_tissue_image", ""]
    times = frame_times_ms(dataset)
    assert len(times) == 65
    # The rate wavers between 20 and 30 frames a second.
    assert np.diff(times).min() == pytest.approx(33.333)
    assert np.diff(times).max() == pytest.approx(50.0)


def test_image_beside_a_trace(realdata: Path) -> None:
    dataset = parse((realdata / "us_xa" / "OBXXXX1A_2frame.dcm").read_bytes())
    region = tissue_region(dataset)
    # The file says 800 for the last of 800 columns.
    assert region.bounds == (60, 120, 518, 799)
    assert region.spacing_mm == pytest.approx((0.2622879, 0.2622879), abs=1e-6)
    assert [one.reason for one in read_regions(dataset)] == ["", "not_a_tissue_image"]


def test_image_without_calibration(realdata: Path) -> None:
    with pytest.raises(RefusedSeriesError) as caught:
        tissue_region(parse((realdata / "us_xa" / "US1_UNCI.dcm").read_bytes()))
    assert caught.value.reason == "no_ultrasound_region"
