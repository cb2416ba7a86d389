"""Weights in 8 bits: close to the exact ones, and safe where a CPU adds products in 16 bits."""

import numpy as np
from numpy.typing import NDArray

from gitpeft.share import quantisation


def make_weights(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def test_levels_never_saturate_a_pair_of_products() -> None:
    weights = make_weights(64, 48)
    weights[:, 3] = 0
    levels, scale = quantisation.quantise_int8(weights, axis=0)
    assert levels.dtype == np.int8 and scale.shape == (48,)
    assert 2 * 255 * int(np.abs(levels).max()) < 2**15
    assert np.abs(levels * scale - weights).max() <= scale.max() / 2 + 1e-6


def test_neighbours_never_saturate_a_pair_of_products() -> None:
    weights = make_weights(64, 300)
    found, scale = quantisation.quantise_pairs(weights)
    levels = found.astype(int).reshape(32, 2, 300)
    assert 255 * np.maximum(levels, 0).sum(axis=1).max() < 2**15
    assert 255 * np.maximum(-levels, 0).sum(axis=1).max() <= 2**15
    assert (np.abs(found * scale - weights) <= scale / 2 + 1e-6).all()


def test_pairs_of_an_odd_number_of_rows_and_a_column_of_zeros() -> None:
    weights = make_weights(65, 48)
    weights[:, 3] = 0
    levels, scale = quantisation.quantise_pairs(weights)
    assert levels.dtype == np.int8 and levels.shape == weights.shape and not levels[:, 3].any()
    assert (np.abs(levels * scale - weights) <= scale / 2 + 1e-6).all()


def test_blocks_have_a_scale_each() -> None:
    rows = make_weights(48, 65)
    rows[3] = 0
    levels, scale = quantisation.quantise_blocks(rows)
    assert levels.dtype == np.uint8 and levels.shape == (48, 3, 32) and scale.shape == (48, 3)
    again = ((levels.astype(np.float32) - quantisation.BLOCK_ZERO) * scale[:, :, None]).reshape(48, 96)
    assert (np.abs(again[:, :65] - rows) <= np.repeat(scale, 32, axis=1)[:, :65] / 2 + 1e-6).all()
    assert not again[3].any() and not again[:, 65:].any()
