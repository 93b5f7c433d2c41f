"""The noise of a CT, measured and made again."""

from __future__ import annotations

import numpy as np

PATCH = 16


def noise_of(hu: np.ndarray) -> tuple[np.ndarray, float]:
    """(amplitude spectrum of PATCH x PATCH pixels, correlation between slices) of the noise, from the evenest
    soft-tissue patches."""
    nk, nj, ni = hu.shape[0], hu.shape[1] // PATCH, hu.shape[2] // PATCH
    patches = (
        hu[:, : nj * PATCH, : ni * PATCH].reshape(nk, nj, PATCH, ni, PATCH).transpose(0, 1, 3, 2, 4).astype(np.float32)
    )
    mean, spread = patches.mean((3, 4)), patches.std((3, 4))
    spread[(mean < 0) | (mean > 200) | (spread < 1)] = np.inf
    spread[-1] = np.inf  # so that every patch has one below it
    count = min(60, int(np.isfinite(spread).sum()))
    if count < 5:
        return np.full((PATCH, PATCH), 10.0 * PATCH), 0.0
    k, j, i = np.unravel_index(np.argsort(spread, axis=None)[count // 2 : count], spread.shape)
    here, below = (_detrended(patches[index, j, i]) for index in (k, k + 1))
    persistence = float((here * below).mean() / (here.std() * below.std() + 1e-6))
    return np.sqrt((np.abs(np.fft.fft2(here)) ** 2).mean(0)), float(np.clip(persistence, 0, 0.95))


def _detrended(patches: np.ndarray) -> np.ndarray:
    """Patches (n, rows, cols) less their best-fitting planes."""
    axis = np.linspace(-1, 1, PATCH)
    basis = np.stack([np.ones((PATCH, PATCH)), *np.meshgrid(axis, axis)]).reshape(3, -1).T
    flat = patches.reshape(len(patches), -1).T
    return (flat - basis @ np.linalg.lstsq(basis, flat, rcond=None)[0]).T.reshape(patches.shape)


def noise_like(
    rng: np.random.Generator, shape: tuple[int, int, int], spectrum: np.ndarray, persistence: float
) -> np.ndarray:
    """Noise (k, j, i) of the given amplitude spectrum per slice and correlation between slices, float32."""
    correlation = (
        np.fft.fftshift(np.fft.ifft2(spectrum**2).real)
        / PATCH**2
        * np.hanning(PATCH + 1)[:-1]
        * np.hanning(PATCH + 1)[:-1, None]
    )
    rows, columns = (max(size, PATCH) for size in shape[1:])
    padded = np.zeros((rows, columns))
    padded[:PATCH, :PATCH] = correlation
    amplitude = np.sqrt(np.maximum(np.fft.fft2(np.roll(padded, (-(PATCH // 2),) * 2, (0, 1))).real, 0))
    noise = np.fft.ifft2(np.fft.fft2(rng.normal(size=(shape[0], rows, columns))) * amplitude).real
    for k in range(1, shape[0]):
        noise[k] = persistence * noise[k - 1] + np.sqrt(1 - persistence**2) * noise[k]
    return noise[:, : shape[1], : shape[2]].astype(np.float32)
