"""What `IdMap` does, in lists, dicts and loops: one row, one id, one set at a time."""

from shardrec.models.dynamic_ids import BucketGeometry, DynamicConfig

WORD = (1 << 64) - 1
HALF = (1 << 32) - 1


def plain_mixed(word: int) -> int:
    """MurmurHash3's finaliser of 64 bits."""
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        word ^= word >> 33
        word = word * factor & WORD
    return word ^ word >> 33


def plain_sets(geometry: BucketGeometry, an_id: int) -> list[int]:
    """The one or two sets of an id."""
    word, sets = plain_mixed(an_id & WORD), geometry.bucket_sets
    spread = (word >> 32) * geometry.buckets
    bucket, first = spread >> 32, (word & HALF) * sets >> 32
    if sets == 1:
        return [bucket]
    second = (first + 1 + ((spread & HALF) * (sets - 1) >> 32)) % sets
    return [bucket * sets + first, bucket * sets + second]


class PlainCache:
    """rows: of each its (id, count, last use), None if free."""

    def __init__(self, geometry: BucketGeometry, evict: str, age: int | None) -> None:
        self.geometry, self.evict, self.age = geometry, evict, age
        self.rows: list[tuple[int, int, int] | None] = [None] * geometry.rows

    def row(self, an_id: int) -> int:
        held = [r for r, row in enumerate(self.rows) if row is not None and row[0] == an_id]
        assert len(held) <= 1
        return held[0] if held else -1

    def of_set(self, a_set: int) -> list[int]:
        return list(range(a_set * self.geometry.ways, (a_set + 1) * self.geometry.ways))

    def worth(self, row: int, step: int) -> tuple[int, ...] | None:
        """The least is taken first; None: not at all."""
        _, count, last_use = self.rows[row]
        aged = self.age is not None and step - last_use >= self.age
        if last_use == step or (self.evict == "age" and not aged):
            return None
        if self.evict == "lfu" and not aged:
            return (1, count, last_use)
        return (0, last_use, count)

    def place(self, wanted: dict[int, int], step: int) -> tuple[dict[int, int], dict[int, int]]:
        """{id: count} -> ({id: row}, {row: the id that lost it})."""
        got, lost = {}, {}
        waiting = sorted(wanted, key=lambda i: (-wanted[i], i))
        while waiting:
            picks: dict[int, list[int]] = {}
            for i in waiting:
                sets = plain_sets(self.geometry, i)
                free = [sum(self.rows[r] is None for r in self.of_set(s)) for s in sets]
                if max(free) > 0:
                    picks.setdefault(sets[free.index(max(free))], []).append(i)
                    continue
                worths = {r: self.worth(r, step) for s in sets for r in self.of_set(s)}
                left = [r for r in worths if worths[r] is not None]
                if left:
                    least = min(left, key=lambda r: worths[r])
                    picks.setdefault(least // self.geometry.ways, []).append(i)
            waiting = []
            for a_set, ids in picks.items():
                rows = [r for r in self.of_set(a_set) if self.rows[r] is None]
                rows = rows[: -(-len(rows) // 2)]
                if not rows:
                    left = [r for r in self.of_set(a_set) if self.worth(r, step) is not None]
                    rows = [min(left, key=lambda r: self.worth(r, step))]
                    lost[rows[0]] = self.rows[rows[0]][0]
                for i, row in zip(ids, rows, strict=False):
                    got[i], self.rows[row] = row, (i, wanted[i], step)
                waiting += ids[len(rows) :]
            waiting.sort(key=lambda i: (-wanted[i], i))
        return got, lost


class PlainMap:
    """Every id of every step is admitted at once or after `config.after` occurrences."""

    def __init__(self, config: DynamicConfig, geometry: BucketGeometry) -> None:
        self.config = config
        self.table = PlainCache(geometry, config.evict, config.age)
        self.candidates = PlainCache(geometry.scaled(config.candidates), "lfu", None)
        self.admitted = [0] * geometry.rows
        self.lost: dict[int, int] = {}
        self.fresh: dict[int, int] = {}

    def observe(self, counts: dict[int, int], step: int) -> None:
        qualified, waiting = {}, {}
        for i, n in counts.items():
            row = self.table.row(i)
            if row >= 0:
                _, count, _ = self.table.rows[row]
                self.table.rows[row] = (i, count + n, step)
                continue
            known = self.candidates.row(i)
            total = n + (self.candidates.rows[known][1] if known >= 0 else 0)
            (qualified if total >= self.config.after else waiting)[i] = total
        got, self.lost = self.table.place(qualified, step)
        self.fresh = {row: i for i, row in got.items()}
        for row in got.values():
            self.admitted[row] = step
        if self.config.after > 1:
            self._wait(waiting | {i: n for i, n in qualified.items() if i not in got}, got, step)

    def _wait(self, waiting: dict[int, int], got: dict[int, int], step: int) -> None:
        for i in got:
            if self.candidates.row(i) >= 0:
                self.candidates.rows[self.candidates.row(i)] = None
        known = {i: self.candidates.row(i) for i in waiting}
        for i, row in known.items():
            if row >= 0:
                self.candidates.rows[row] = (i, waiting[i], step)
        self.candidates.place({i: n for i, n in waiting.items() if known[i] < 0}, step)
