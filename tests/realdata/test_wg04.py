"""The NEMA WG-04 compression set: every transfer syntax against the uncompressed reference."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from ops.dicom.decode import decode_frames
from ops.dicom.headers import read_header

pytestmark = pytest.mark.realdata

IMAGES = ("CT1", "CT2", "MR1", "MR3", "NM1")
# Largest difference from the reference. Near-lossless JPEG-LS was made with an error of at most 4; the lossy
# ones are a tenth of their range off at most, and in the mean far less.
LOSSLESS = {"RLE": 0, "JPLL": 0, "JLSL": 0, "J2KR": 0}
NEAR_LOSSLESS = {"JLSN": 4}
LOSSY_MEAN = {"J2KI": 40.0, "JPLY": 12.0}


def present(kinds: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of the set: 12-bit JPEG cannot hold the 16-bit CTs."""
    return [(kind, image) for kind in kinds for image in IMAGES if not (kind == "JPLY" and image.startswith("CT"))]


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(next(decode_frames(data, read_header(data)))).astype(np.int64)


def pair(realdata: Path, image: str, kind: str) -> tuple[np.ndarray, np.ndarray]:
    file = realdata / "wg04" / kind / f"{image}_{kind}"
    reference = imagecodecs.zstd_decode((realdata / "wg04" / "REF" / f"{image}_UNC.zst").read_bytes())
    return decoded(file.read_bytes()), decoded(bytes(reference))


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("kind", [*LOSSLESS, *NEAR_LOSSLESS])
def test_lossless_and_near_lossless(realdata: Path, image: str, kind: str) -> None:
    found, reference = pair(realdata, image, kind)
    assert np.abs(found - reference).max() <= (LOSSLESS | NEAR_LOSSLESS)[kind]


@pytest.mark.parametrize(("kind", "image"), present(LOSSY_MEAN))
def test_lossy(realdata: Path, image: str, kind: str) -> None:
    found, reference = pair(realdata, image, kind)
    difference = np.abs(found - reference)
    assert difference.mean() < LOSSY_MEAN[kind]
    assert np.corrcoef(found.ravel(), reference.ravel())[0, 1] > 0.9


@pytest.mark.parametrize(("kind", "image"), present([*LOSSLESS, *NEAR_LOSSLESS, *LOSSY_MEAN]))
def test_decoders_agree_with_itk(realdata: Path, image: str, kind: str) -> None:
    sitk = pytest.importorskip("SimpleITK")
    file = realdata / "wg04" / kind / f"{image}_{kind}"
    header = read_header(file.read_bytes())
    slope, intercept = header.number("RescaleSlope") or 1.0, header.number("RescaleIntercept") or 0.0
    theirs = sitk.GetArrayFromImage(sitk.ReadImage(str(file)))[0].astype(np.float64)
    ours = slope * decoded(file.read_bytes()) + intercept
    # The inverse wavelet and cosine transforms of lossy syntaxes may round differently.
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1.0 if kind in LOSSY_MEAN else 0.0)
