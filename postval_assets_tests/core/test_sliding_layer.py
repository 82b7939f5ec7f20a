"""A layer that slides over a series, against sums that are written out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from postval_assets.core import sliding_layer
from postval_assets.core.sliding_layer import several_window_sums, window_sums

Float32 = npt.NDArray[np.float32]


def written_out(series: Float32, taps: Float32, bias: Float32 | None) -> npt.NDArray[np.float64]:
    """The sum of every window, one after the other, in float64."""
    window = len(taps)
    rows = [
        np.einsum("wf,wfu->u", series[i : i + window].astype(np.float64), taps.astype(np.float64))
        for i in range(len(series) - window + 1)
    ]
    return np.array(rows) + (0.0 if bias is None else bias.astype(np.float64))


def case(
    n_bars: int, window: int, n_features: int, n_units: int, seed: int
) -> tuple[Float32, Float32, Float32]:
    rng = np.random.default_rng(seed)
    series = rng.standard_normal((n_bars, n_features)).astype(np.float32)
    taps = rng.standard_normal((window, n_features, n_units)).astype(np.float32)
    return series, taps, rng.standard_normal(n_units).astype(np.float32)


def summed(series: Float32, taps: Float32, bias: Float32 | None) -> Float32:
    out: Float32 = window_sums(
        torch.from_numpy(series), torch.from_numpy(taps), None if bias is None else torch.from_numpy(bias)
    ).numpy()
    return out


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which way was taken."""
    taken: list[str] = []
    original = sliding_layer._by_frequencies

    def by_frequencies(several: list[torch.Tensor], *others: torch.Tensor | None) -> list[torch.Tensor]:
        taken.extend(["frequencies"] * len(several))
        return original(several, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(sliding_layer, "_by_frequencies", by_frequencies)
    return taken


@given(
    n_windows=st.integers(1, 700),
    window=st.integers(1, 130),
    n_features=st.integers(1, 4),
    n_units=st.sampled_from([1, 3, 255, 256, 257]),
    seed=st.integers(0, 2**32 - 1),
    with_bias=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_frequencies_give_the_sums(
    n_windows: int, window: int, n_features: int, n_units: int, seed: int, with_bias: bool
) -> None:
    series, taps, bias = case(n_windows + window - 1, window, n_features, n_units, seed)
    given_bias = bias if with_bias else None
    [found] = sliding_layer._by_frequencies(
        [torch.from_numpy(series)],
        torch.from_numpy(taps),
        None if given_bias is None else torch.from_numpy(bias),
    )
    expected = written_out(series, taps, given_bias)
    # What the terms of a sum are together bounds what rounding may do to it.
    scale = np.abs(taps).sum() * np.abs(series).max() / n_units + np.abs(bias).max()
    found = found.numpy()
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() <= 2e-7 * max(float(scale), float(np.abs(expected).max()))


def test_a_network_s_layer_goes_over_frequencies_and_is_nearer_to_the_exact_sums(ways: list[str]) -> None:
    series, taps, bias = case(2_000, 100, 20, 64, 7)
    found = summed(series, taps, bias)
    assert ways == ["frequencies"]
    expected = written_out(series, taps, bias)
    kernel = torch.from_numpy(taps).permute(2, 1, 0)
    direct = torch.nn.functional.conv1d(torch.from_numpy(series).T[None], kernel, torch.from_numpy(bias))[
        0
    ].T.numpy()
    assert np.abs(found - expected).max() < np.abs(direct - expected).max()


@pytest.mark.parametrize(("n_bars", "window"), [(30, 5), (2_000, 1)])
def test_where_it_does_not_pay_it_is_summed_directly(ways: list[str], n_bars: int, window: int) -> None:
    series, taps, bias = case(n_bars, window, 3, 8, 1)
    np.testing.assert_allclose(
        summed(series, taps, bias), written_out(series, taps, bias), rtol=1e-4, atol=1e-4
    )
    assert ways == []


def test_a_value_out_of_all_bounds_reaches_only_the_windows_that_see_it(ways: list[str]) -> None:
    series, taps, _ = case(1_500, 100, 20, 64, 3)
    without = summed(series, taps, None)
    series[700, 5] = 1e30
    found = summed(series, taps, None)
    assert ways == ["frequencies"]
    unseen = np.r_[0:601, 701 : len(found)]
    np.testing.assert_allclose(found[unseen], without[unseen], rtol=1e-4, atol=1e-3)
    assert np.abs(found[601:701]).max() > 1e25


def test_later_bars_leave_earlier_sums_as_they_are() -> None:
    series, taps, _ = case(1_500, 100, 20, 64, 5)
    before = summed(series, taps, None)
    series[800:] = np.random.default_rng(9).standard_normal(series[800:].shape) * 100
    after = summed(series, taps, None)
    # Two ways of rounding the same number at the most.
    assert np.abs(before[:701] - after[:701]).max() <= np.spacing(np.abs(before[:701]).max())
    assert not np.array_equal(before[701:], after[701:])


def test_a_series_beside_another_is_summed_in_its_way_and_changes_nothing_of_it(ways: list[str]) -> None:
    series, taps, bias = (torch.from_numpy(a) for a in case(1_500, 100, 20, 64, 5))
    small = torch.from_numpy(case(130, 100, 20, 64, 6)[0])
    large = small * 1e7
    alone = window_sums(series, taps, bias)
    assert ways == ["frequencies"]
    first, second, third = several_window_sums([series, small, large], taps, bias)
    assert torch.equal(first, alone), "to the last bit"
    assert ways == ["frequencies"] * 3, "the small one too, but not the one that is out of bounds"
    expected = written_out(small.numpy(), taps.numpy(), bias.numpy())
    np.testing.assert_allclose(second.numpy(), expected, rtol=1e-5, atol=1e-5)
    expected = written_out(large.numpy(), taps.numpy(), bias.numpy())
    np.testing.assert_allclose(third.numpy(), expected, rtol=1e-3, atol=1e5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_the_same_on_cuda() -> None:
    series, taps, bias = case(2_000, 100, 20, 64, 7)
    found = window_sums(*(torch.from_numpy(a).to("cuda") for a in (series, taps, bias))).cpu().numpy()
    np.testing.assert_allclose(found, written_out(series, taps, bias), rtol=1e-4, atol=1e-3)
