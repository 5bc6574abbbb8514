"""Pictures of high dynamic range (HDR10, HLG) as a standard screen shows them: faces neither grey nor washed out.

Source: ITU-R BT.2100 (the transfer functions of PQ and HLG), BT.2087 (conversion of BT.2020 primaries to BT.709),
BT.2408 (203 cd/m² as diffuse white), BT.1886 (the standard screen's gamma).
"""

from __future__ import annotations

import functools

import numpy as np

# AVColorTransferCharacteristic, which are the numbers of ITU-T H.273.
PQ, HLG = 16, 18
TRANSFERS = frozenset({PQ, HLG})
_WHITE, _PEAK = 203.0, 1000.0  # cd/m²
_TO_709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32)
_LUMINANCE = np.array([0.2627, 0.6780, 0.0593], np.float32)


def to_standard_range(image: np.ndarray, transfer: int) -> np.ndarray:
    """uint8 (height, width, 3) in BT.709, from uint16 (height, width, 3) in BT.2020 with the transfer PQ or HLG."""
    linear = _linear(transfer)[image >> 4] / _WHITE  # a table of 12 bits, as fine as the deepest videos
    if transfer == HLG:  # the scene's light becomes that of a display of 1000 cd/m²
        linear *= ((linear @ _LUMINANCE) / (_PEAK / _WHITE)).clip(1e-6)[..., None] ** np.float32(0.2)
    # Diffuse white stays nearly white, what is brighter is compressed (Reinhard's curve with a white point).
    luminance = linear @ _LUMINANCE
    white = (_PEAK / _WHITE) ** 2
    mapped = luminance * (1 + luminance / white) / (1 + luminance) / np.float32(0.52)
    linear *= (mapped / luminance.clip(1e-6))[..., None]
    standard = (linear @ _TO_709.T).clip(0, 1) ** np.float32(1 / 2.4)
    return np.round(standard * 255).astype(np.uint8)


@functools.cache
def _linear(transfer: int) -> np.ndarray:
    """Light in cd/m² (of the scene, scaled to 1000, for HLG) for each signal of 12 bits, float32 (4096,)."""
    signal = np.linspace(0, 1, 4096)
    if transfer == PQ:
        m1, m2, c1, c2, c3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875
        root = signal ** (1 / m2)
        light = 10_000 * (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)
    else:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = _PEAK * np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    return light.astype(np.float32)
