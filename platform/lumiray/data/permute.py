"""Keyed permutations of [0, n), computed number by number.

A shuffled epoch over ten billion rows cannot be an array.  A small Feistel network over the bits of an index
is a bijection for any round function; indices that land outside [0, n) walk along their cycle until they are
inside, at most twice on average.  So position -> place needs no state, and any position can be asked first.
"""

from __future__ import annotations

import hashlib

import numpy as np

_ROUNDS = 8  # half rounds
_ROUNDS_SMALL = 24  # below _SMALL_BITS, where a half has so few values that eight leave a bias
_SMALL_BITS = 10
_MASK64 = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_OFFSETS = np.array([(2 * i + 1) * 0xD1342543DE82EF95 & _MASK64 for i in range(_ROUNDS_SMALL)], dtype=np.uint64)


def mix(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser: uint64 -> uint64 of the same shape, every bit depends on every bit."""
    values = (values ^ (values >> np.uint64(30))) * _FIRST
    values = (values ^ (values >> np.uint64(27))) * _SECOND
    mixed: np.ndarray = values ^ (values >> np.uint64(31))
    return mixed


def key_of(*parts: int | str) -> int:
    """A 64-bit key from seeds and names, the same on every machine (unlike `hash`)."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def numbered_keys(key: int, numbers: np.ndarray) -> np.ndarray:
    """One 64-bit key for each number under `key`: uint64, same shape."""
    return mix((np.asarray(numbers).astype(np.uint64) + np.uint64(1)) * np.uint64(_GOLDEN) + np.uint64(key))


def permute(indices: np.ndarray, n: int, key: int | np.ndarray) -> np.ndarray:
    """Where a keyed permutation of [0, n) sends each index.

    Args:
        indices: integers in [0, n), any shape.
        n: size of the domain, 1 to 2^62.
        key: 64-bit key, or an array of keys (uint64, shape of `indices`) for many permutations at once.

    Returns:
        int64 in [0, n), shape of `indices`.

    Raises:
        ValueError: an index lies outside [0, n), or n is out of range.
    """
    indices = np.asarray(indices)
    if not 1 <= n <= 1 << 62:
        raise ValueError(f"cannot permute [0, {n}): the size must be 1 to 2^62")
    if indices.size and (int(indices.min()) < 0 or int(indices.max()) >= n):
        raise ValueError(f"indices must lie in [0, {n})")
    values = indices.astype(np.uint64).ravel()
    keys = np.asarray(key & _MASK64 if isinstance(key, int) else key, dtype=np.uint64).ravel()
    keys = mix(keys)
    if keys.size not in (1, values.size):
        raise ValueError(f"{keys.size} keys for {values.size} indices")
    bits = max(2, (n - 1).bit_length())
    values = _feistel(values, bits, keys)
    outside = np.flatnonzero(values >= np.uint64(n))
    while outside.size:
        walked = _feistel(values[outside], bits, keys if keys.size == 1 else keys[outside])
        values[outside] = walked
        outside = outside[walked >= np.uint64(n)]
    return values.view(np.int64).reshape(indices.shape)


def permute_in_groups(positions: np.ndarray, n: int, group: int, key: int) -> np.ndarray:
    """Where neighbouring positions of [0, n) come to lie when each group of them is permuted in itself.

    Args:
        positions: ascending and without a gap, int64, in [0, n).
        group: size of a group, at least 1; the last one may be smaller.
        key: 64-bit key; every group has its own under it.

    Returns:
        int64 in [0, n), shape of `positions`.
    """
    groups = positions // group
    starts = groups * group
    offsets, within = positions - starts, np.empty_like(positions)
    last, last_size = divmod(n, group)
    whole = int(np.searchsorted(groups, last))
    if whole:
        first = int(groups[0])
        keys = numbered_keys(key, np.arange(first, int(groups[whole - 1]) + 1))
        within[:whole] = permute(offsets[:whole], group, keys[groups[:whole] - first])
    if whole < len(offsets):
        within[whole:] = permute(offsets[whole:], last_size, int(numbered_keys(key, np.array([last]))[0]))
    placed: np.ndarray = starts + within
    return placed


def _feistel(values: np.ndarray, bits: int, keys: np.ndarray) -> np.ndarray:
    """A bijection of [0, 2^bits): the two halves of the bits are stirred into each other in turn.

    Every round adds key bits to one half and takes the best-mixed (top) bits of two products.  Arrays are
    written in place: a batch's worth fits the processor's cache, new arrays for every operation do not.
    """
    low_bits = bits // 2
    high_bits = bits - low_bits
    high = values >> np.uint64(low_bits)
    low = values & np.uint64((1 << low_bits) - 1)
    mixed, shifted = np.empty_like(values), np.empty_like(values)
    for turn in range(_ROUNDS if bits >= _SMALL_BITS else _ROUNDS_SMALL):
        taken, stirred, width = (low, high, high_bits) if turn % 2 == 0 else (high, low, low_bits)
        np.add(taken, keys, out=mixed)
        mixed += _OFFSETS[turn]
        mixed *= _FIRST
        np.right_shift(mixed, np.uint64(32), out=shifted)
        mixed ^= shifted
        mixed *= _SECOND
        mixed >>= np.uint64(64 - width)
        stirred ^= mixed
    high <<= np.uint64(low_bits)
    high |= low
    return high
