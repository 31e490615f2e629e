"""The cube root that MADGRAD divides by, over all numbers that are not negative."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.helpers.internals import cube_root


@pytest.mark.parametrize(("dtype", "unsigned"), [(np.float32, np.uint32), (np.float64, np.uint64)])
def test_within_two_units(dtype: Any, unsigned: Any) -> None:
    """Of the last place, for numbers of any bits, subnormal ones among them."""
    info, rng = np.finfo(dtype), np.random.default_rng(0)
    if np.finfo(np.longdouble).nmant <= info.nmant:
        pytest.skip("nothing here is more exact")
    largest = np.array(info.max).view(unsigned)
    x = rng.integers(0, largest, 500_000, unsigned, endpoint=True).view(dtype)
    edges = np.array([info.smallest_subnormal, info.tiny, info.max, 1, np.nextafter(dtype(1), dtype(0))])
    x = np.concatenate([x, rng.random(100_000).astype(dtype) * info.tiny, edges.astype(dtype)])
    x = x[x > 0]
    exact = np.cbrt(x.astype(np.longdouble))
    units = np.abs(cube_root(x) - exact) / np.spacing(exact.astype(dtype))
    assert units.max() < 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_has_no_digits(dtype: Any) -> None:
    with np.errstate(all="ignore"):
        zero, infinity, nan = cube_root(np.array([0, np.inf, np.nan], dtype))
    assert zero == 0
    assert infinity == np.inf
    assert np.isnan(nan)
