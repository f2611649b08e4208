"""Draws whose every outcome is decided by the next bytes of a case, so that a fuzzer can change one at a time."""

import random


class DrawnBytes(random.Random):
    """Draws as `random.Random` does, from bytes; where they have come to an end, zeros follow."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0
        super().__init__(0)

    def random(self) -> float:
        """Returns a number in [0, 1), of two bytes."""
        return self.getrandbits(16) / 65536

    def getrandbits(self, k: int, /) -> int:
        """Returns `k` bits of the next whole bytes."""
        count = -(-k // 8)
        taken = self._data[self._at : self._at + count]
        self._at += count
        return int.from_bytes(taken, "little") & ((1 << k) - 1)

    def randrange(self, start: int, stop: int | None = None, step: int = 1) -> int:
        """Returns one of a range: by a remainder, since tries until one fits would not end among zeros."""
        values = range(start) if stop is None else range(start, stop, step)
        if not values:
            raise ValueError(f"empty range: {values}")
        return values[self.getrandbits(8 * ((len(values).bit_length() + 7) // 8)) % len(values)]

    def _randbelow(self, n: int) -> int:
        return self.randrange(n) if n else 0
