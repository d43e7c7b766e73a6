"""Synthetic transactions for journal tests: every byte follows from the position, so a reader can tell right from wrong."""

import hashlib

from telemetry.transaction import Transaction


def make_transaction(first: int, *, count: int = 10, epoch: int = 1, size: int = 400, rows: int = 50) -> Transaction:
    """Transaction of `count` entries at `first`, with about `size` bytes of entries."""
    seed = hashlib.sha256(f"{first}/{count}/{epoch}".encode()).digest()
    blob = seed * (size // 32 + 1)
    return Transaction(first, count, epoch, 1_000 + first, blob, blob[: size // 4], seed, b"{}", rows)
