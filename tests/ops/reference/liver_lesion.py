"""The liver lesion cases, LL-*."""

from __future__ import annotations

import numpy as np

from ops.diseases.liver_lesion.li_rads import MajorFeatures, li_rads
from ops.diseases.liver_lesion.recist import target_response
from ops.measure.diameters import in_plane_diameters
from tests.ops.reference.expect import Case, Check, check


def ll_01(case: Case) -> None:
    pixel = case["inputs"]["px"]
    rows, columns = np.mgrid[-40:41, -40:41] * pixel
    a, b = case["inputs"]["semi"]
    mask = (columns / a) ** 2 + (rows / b) ** 2 <= 1
    check(case, in_plane_diameters(mask, (pixel, pixel), "centre_to_centre").longest)


def ll_02(case: Case) -> None:
    check(case, [target_response(*row) for row in case["inputs"]["rows"]])


def ll_04(case: Case) -> None:
    check(case, [li_rads(MajorFeatures(row[0], *map(bool, row[1:]))) for row in case["inputs"]["rows"]])


CHECKS: dict[str, Check] = {"LL-01": ll_01, "LL-02": ll_02, "LL-04": ll_04}
