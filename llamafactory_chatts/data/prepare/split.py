"""Which part of the dataset a series belongs to: decided by its content and the seed, never by its place in a file."""

import hashlib
from collections.abc import Mapping


PARTS = ("train", "validation", "test")


def part_of(key: bytes, seed: int, shares: Mapping[str, float]) -> str:
    """Return the part for a series.

    All rows with the same key are in the same part, whatever else is in the dataset; a row that is added later does
    not move the others. The shares are therefore met on average, not to the row.

    Args:
        key: identity of the source series, such as a hash of its file.
        seed: another seed gives another split.
        shares: part -> share; together 1.
    """
    digest = hashlib.blake2b(key, digest_size=8, key=seed.to_bytes(16, "big")).digest()
    drawn = int.from_bytes(digest, "big") / 2**64
    total, last = 0.0, ""
    for part in PARTS:
        if shares.get(part, 0) > 0:
            total, last = total + shares[part], part
            if drawn < total:
                return part

    return last  # the shares' sum may be a rounding error below 1
