"""A linear layer that slides over a series: its sums for every window of bars at once.

Here: one way of summing that needs an eighth of the multiplications, in float64, and when it is worth it. Not here:
the rest of a network (policy.py).

The layer over a window of bars, for every window of a series, is a correlation over time. Cut into blocks and taken to
frequencies, a window's sum becomes one product for each frequency ("overlap-save": Oppenheim, Schafer: Discrete-Time
Signal Processing, section 8.7). The transforms are matrix products themselves, because a window is short and matrices
are what the machine multiplies fastest.

In float64 the sums are nearer to the exact ones than a float32 sum over thousands of products, bar by bar, is
(measured for the production network: largest error 2.4e-7 against 2.3e-5). What a block's other bars add to a sum is
below the float32 rounding of the result, as long as no feature is a million times another: such series are summed
directly.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

# Larger values could leave traces in the sums of neighbouring windows.
_LARGEST_VALUE = 1e6
# Float64 products take twice as long as float32 ones, and transforms are smaller products than a convolution is.
_COST_OF_FLOAT64 = 3.0
# Units and blocks transformed together: bounds memory (some 60 MB), and what is held stays in the cache longer.
_UNITS = 256
_BLOCKS = 64
# Points of a block, for windows up to half of that; the cheapest for production networks and a plan's bars.
_POINTS = 192


def window_sums(series: torch.Tensor, taps: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """The layer's output for every full window of a series.

    Args:
        series: float32 [bar, feature], finite.
        taps: weights, float32 [bar of the window, feature, unit], the oldest bar first.
        bias: float32 [unit].

    Returns:
        float32 [bar - window + 1, unit]: row i belongs to the window that ends with bar i + window - 1.
    """
    [sums] = several_window_sums([series], taps, bias)
    return sums


def several_window_sums(
    several: Sequence[torch.Tensor], taps: torch.Tensor, bias: torch.Tensor | None
) -> list[torch.Tensor]:
    """``window_sums`` of a series, and of shorter ones beside it for little more, in the way that suits the first.

    The first one's sums are, to the last bit, those that it has alone.
    """
    import torch

    with torch.inference_mode():
        by_frequencies = [False] * len(several)
        if several[0].device.type == "cpu" and _pays(several[0], taps):
            by_frequencies = [_is_moderate(series) for series in several]
        frequent = [series for series, chosen in zip(several, by_frequencies, strict=True) if chosen]
        sums = iter(_by_frequencies(frequent, taps, bias) if frequent else ())
        return [
            next(sums) if chosen else _directly(series, taps, bias)
            for series, chosen in zip(several, by_frequencies, strict=True)
        ]


def _directly(series: torch.Tensor, taps: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    import torch

    # Whole float32: on CUDA a convolution would else be rounded to the 10 bits of TF32. The flag is the process's,
    # so models are worked on one after the other there.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        kernel = taps.permute(2, 1, 0)
        return torch.nn.functional.conv1d(series.T[None], kernel, bias)[0].T.contiguous()


def _is_moderate(series: torch.Tensor) -> bool:
    """Whether no value could leave traces in the sums of neighbouring windows."""
    return bool(series.abs().max() <= _LARGEST_VALUE)


def _pays(series: torch.Tensor, taps: torch.Tensor) -> bool:
    """Whether the way over frequencies is faster and as exact."""
    window, n_features, n_units = taps.shape
    n_windows = len(series) - window + 1
    n_points = _points(window)
    n_blocks = -(-n_windows // (n_points - window + 1))
    # Multiplications and additions, and no constant that both have.
    direct = n_windows * window * n_features * n_units
    weights = n_points * window * n_features * n_units
    products = 2 * n_points * n_blocks * n_features * n_units
    back = n_points * n_windows * n_units
    if direct < _COST_OF_FLOAT64 * (weights + products + back):
        return False
    return _is_moderate(series)


def _points(window: int) -> int:
    return max(_POINTS, 2 * window)


@functools.lru_cache(maxsize=4)
def _transforms(n_points: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The discrete Fourier transform of a real series as float64 matrices.

    Returns:
        Forward [2 * frequency, point], cosines above sines; back [point, 2 * frequency].
    """
    import torch

    angles = 2.0 * np.pi * np.outer(np.arange(n_points // 2 + 1), np.arange(n_points)) / n_points
    # Each frequency stands for its mirror image too, but for the first and, of an even number of points, the last.
    shares = np.full((len(angles), 1), 2.0 / n_points)
    shares[0] /= 2.0
    if n_points % 2 == 0:
        shares[-1] /= 2.0
    forward = np.concatenate([np.cos(angles), -np.sin(angles)])
    back = np.concatenate([shares * np.cos(angles), -shares * np.sin(angles)])
    return torch.from_numpy(forward), torch.from_numpy(np.ascontiguousarray(back.T))


def _by_frequencies(
    several: Sequence[torch.Tensor], taps: torch.Tensor, bias: torch.Tensor | None
) -> list[torch.Tensor]:
    """Each series by itself, but with weights that are taken to frequencies once."""
    import torch

    window, n_features, n_units = taps.shape
    n_points = _points(window)
    forward, back = _transforms(n_points)
    n_freq = len(forward) // 2
    blocks = [_in_blocks(series, window, n_points, forward) for series in several]
    outs = [torch.empty((len(series) - window + 1, n_units), dtype=torch.float32) for series in several]
    for unit in range(0, n_units, _UNITS):
        units = slice(unit, min(unit + _UNITS, n_units))
        chosen = taps[:, :, units].to(torch.float64).reshape(window, -1)
        weights = (
            torch.matmul(forward[:, :window], chosen)
            .view(2, n_freq, n_features, -1)
            .transpose(0, 1)
            .reshape(n_freq, 2 * n_features, -1)
        )
        for both, out in zip(blocks, outs, strict=True):
            _multiply(both, weights, back[: n_points - window + 1], out[:, units])
    return outs if bias is None else [out.add_(bias) for out in outs]


def _in_blocks(series: torch.Tensor, window: int, n_points: int, forward: torch.Tensor) -> torch.Tensor:
    """A series at frequencies, [frequency, 2, block, 2 * feature].

    Of block b at frequency f: x = re + i im; of the weights k. A correlation is x times the conjugate of k, whose real
    part is [re, im] . [k_re; k_im] and whose imaginary part [im, -re] . [k_re; k_im].
    """
    import torch

    n_features = series.shape[1]
    step = n_points - window + 1
    n_blocks = -(-(len(series) - window + 1) // step)
    n_freq = len(forward) // 2
    padded = torch.zeros((n_blocks * step + window - 1, n_features), dtype=torch.float64)
    padded[: len(series)] = series
    blocks = padded.as_strided((n_blocks, n_points, n_features), (step * n_features, n_features, 1))
    re, im = torch.matmul(forward, blocks).view(n_blocks, 2, n_freq, n_features).permute(1, 2, 0, 3)
    return torch.stack([torch.cat([re, im], 2), torch.cat([im, -re], 2)], dim=1)


def _multiply(both: torch.Tensor, weights: torch.Tensor, back: torch.Tensor, out: torch.Tensor) -> None:
    """Sums of some units for all blocks of a series, into ``out`` [window, unit]."""
    import torch

    n_freq, step = len(weights), len(back)
    for block in range(0, both.shape[2], _BLOCKS):
        some = both[:, :, block : block + _BLOCKS].flatten(1, 2)
        product = torch.bmm(some, weights).view(n_freq, 2, -1).transpose(0, 1).reshape(2 * n_freq, -1)
        sums = torch.matmul(back, product).view(step, -1, weights.shape[2]).transpose(0, 1)
        first = block * step
        rows = out[first : first + sums.shape[0] * step]
        rows.copy_(sums.reshape(-1, sums.shape[2])[: len(rows)])
