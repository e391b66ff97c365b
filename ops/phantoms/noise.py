"""Blur and noise of a CT scanner: reconstruction kernel, correlated noise, its variation over the body."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ops.phantoms.sdf import Array


def double(a: Array, axis: int) -> Array:
    """Linear interpolation onto twice as many pixels of half the size along ``axis``."""
    a = np.moveaxis(a, axis, -1)
    out = np.empty((*a.shape[:-1], 2 * a.shape[-1]), dtype=np.float32)
    quarter = np.float32(0.25) * a
    out[..., 0::2] = out[..., 1::2] = 3 * quarter
    out[..., 2::2] += quarter[..., :-1]
    out[..., 1:-1:2] += quarter[..., 1:]
    out[..., 0] += quarter[..., 0]
    out[..., -1] += quarter[..., -1]
    return np.moveaxis(out, -1, axis)


def kernel_blur(hu: Array, pixel_mm: float, sigma_mm: float, sharpening: float) -> Array:
    """In-plane point spread of a reconstruction kernel, integrating to one: mass is conserved.

    A Gaussian of ``sigma_mm``; sharp kernels subtract ``sharpening`` of one twice as wide, which overshoots edges.
    """
    sigma = sigma_mm / pixel_mm
    out = ndimage.gaussian_filter(hu, (0, sigma, sigma), mode="nearest")
    if sharpening:
        wide = ndimage.gaussian_filter(hu, (0, 2 * sigma, 2 * sigma), mode="nearest")
        out = (1 + np.float32(sharpening)) * out - np.float32(sharpening) * wide
    return np.asarray(out, dtype=np.float32)


def correlated_noise(
    shape: tuple[int, int, int], pixel_mm: float, cutoff_mm: float, overlap: float, rng: np.random.Generator
) -> Array:
    """Noise ``(z, y, x)`` of unit standard deviation with the spectrum of filtered back-projection.

    The power rises as the ramp and falls behind the kernel's ``cutoff_mm`` (a length: larger is smoother).
    ``overlap`` is slice thickness over increment: above 1 neighbouring slices share projections.
    """
    nz, ny, nx = shape
    f = np.hypot(np.fft.fftfreq(ny, pixel_mm)[:, None], np.fft.rfftfreq(nx, pixel_mm)[None, :])
    transfer = (np.sqrt(f + 0.01) * np.exp(-((f * cutoff_mm) ** 2))).astype(np.float32)
    out = np.empty(shape, dtype=np.float32)
    for k in range(nz):
        out[k] = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((ny, nx), dtype=np.float32)) * transfer, s=(ny, nx))
    if overlap > 1:
        out = ndimage.gaussian_filter1d(out, 0.3 * overlap, axis=0, mode="reflect")
    return np.asarray(out / out.std(), dtype=np.float32)


def noise_map(hu: Array) -> Array:
    """Relative noise ``(1, y, x)``: highest in the middle of the body, about half in air."""
    body = (hu.mean(axis=0) > -500).astype(np.float32)
    depth = ndimage.gaussian_filter(body, 0.08 * body.shape[0], mode="nearest")
    return np.asarray(0.5 + 0.5 * depth / max(float(depth.max()), 1e-6), dtype=np.float32)[None]


def lung_texture(hu: Array, rng: np.random.Generator) -> Array:
    """Vessels and airways below the resolution of the painted tree: patchy HU, in aerated lung only."""
    nz, ny, nx = hu.shape
    coarse = rng.standard_normal((nz, -(-ny // 4), -(-nx // 4)), dtype=np.float32)
    coarse = ndimage.gaussian_filter(coarse, (0.6, 0.8, 0.8))
    texture = coarse
    for axis in (1, 2, 1, 2):
        texture = double(texture, axis)
    texture = texture[:, :ny, :nx]
    aerated = np.clip((-600 - hu) / 150, 0, 1) * (hu > -985)
    return np.asarray(45.0 / coarse.std() * texture * aerated, dtype=np.float32)
