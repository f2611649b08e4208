"""A planted log has known click probabilities: power-law ids, a planted logit, labels drawn from it.

Every id of every field has a hidden weight w and hidden factors v in R^2, hashes of (seed, field, id), so that no table
is needed for a billion ids. With z(.) for "standardised over the log's rows", the logit of a row is

    bias + additive z(sum_f w_f) + interaction z(sum_{f<g} <v_f, v_g>) + dense z(<a, x>) + history z(share)

an FM (Rendle, ICDM 2010, equation 1) whose factors are centred within each field: given one field's id the interaction
has mean 0, so no model without interactions learns anything of it. share is the part of the history that has the target
item's taste. The hidden numbers of the id of rank r are scaled by reach / (reach + r): an id too rare to be learned
carries little, so that a good model gets close to the best attainable scores whatever the sizes of the tables.

A row is a pure function of (settings, split, row number): each column of each block of 65,536 rows has a generator of
its own. Means, deviations and the bias come from a pilot block. Given up: correlated ids (but within histories), drift.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.feature_kinds import DenseFeature, Feature, IdFeature, SequenceFeature
from shardrec.data_pipeline.features.id_transforms import Identity
from shardrec.data_pipeline.features.schema import Schema

BLOCK_ROWS = 65_536
PILOT = "pilot"  # a split that is never written
_HIDDEN = 3  # hidden numbers of an id: a weight and two factors
_CACHED_ROWS = 16_384  # so many rows at a time keep the arithmetic in the processor's cache
_TASTES = 10
_FOCUS = 0.5  # so much of a history has the row's favourite taste; the rest is drawn from all items

Array = NDArray[Any]
ListColumn = tuple[Array, Array]  # values [T], offsets [rows + 1]
Centres = dict[str, Array]  # field -> [3]
Stream = Callable[[str], np.random.Generator]


@dataclass(frozen=True)
class Histories:
    """Histories give a row a target `item` and a `history` of items of the same table.

    Lengths are in [1, max_length] with the given mean.
    """

    items: int
    mean_length: float
    max_length: int

    def check(self) -> None:
        """Raises UserError for sizes that make no sense."""
        if not (self.items > 0 and 1 <= self.mean_length <= self.max_length):
            raise UserError(f"synthetic: {self}, expected items >= 1 and 1 <= mean_length <= max_length")

    def offsets(self, stream: Stream, rows: int) -> Array:
        """Returns [rows + 1] int64: where the history of each row begins and ends."""
        spread, fraction = stream("history/length").random(rows), stream("history/rounding").random(rows)
        room = self.max_length - 1
        power = room / (self.mean_length - 1) - 1 if self.mean_length > 1 else np.inf  # the mean of u^a is 1 / (a + 1)
        lengths = 1 + np.floor(room * spread**power + fraction).astype(np.int64)
        return np.concatenate([[0], np.cumsum(lengths)])


@dataclass(frozen=True)
class Strengths:
    """Strengths are the standard deviations of the four parts of the logit, and the mean click rate."""

    additive: float = 1.2
    interaction: float = 0.7
    dense: float = 0.5
    history: float = 1.0
    click_rate: float = 0.25


@dataclass(frozen=True)
class PowerLaw:
    """A power law makes ids 0 .. num_ids - 1 as frequent as rank^-skew (Zipf); it is continuous, to be inverted.

    P(id < k) = G(k) / G(num_ids), where G(k) is the integral of x^-skew from 1 to 1 + k.
    """

    num_ids: int
    skew: float

    def below(self, ids: Array | int) -> Array:
        """Returns P(id < ids), elementwise."""
        return self._integral(np.asarray(ids, np.float64)) / self._integral(np.float64(self.num_ids))

    def ids(self, uniform: Array) -> Array:
        """Returns int64 ids by the inverse transform of numbers in [0, 1)."""
        area = uniform * self._integral(np.float64(self.num_ids))
        power = 1.0 - self.skew
        if power == 0:
            ranks = np.exp(area)
        else:
            last = (1.0 + self.num_ids) ** power  # rounding may lead beyond it
            inside = np.maximum if power < 0 else np.minimum
            ranks = np.power(inside(1.0 + power * area, max(last, np.finfo(np.float64).tiny)), 1.0 / power)
        return np.minimum(ranks - 1.0, self.num_ids - 1.0).astype(np.int64)

    def _integral(self, k: Any) -> Any:
        power = 1.0 - self.skew
        return np.log1p(k) if power == 0 else (np.power(1.0 + k, power) - 1.0) / power


@dataclass(frozen=True)
class LogRows:
    """Log rows are held by column.

    lists: values [T] with offsets [rows + 1]
    probability: the true one
    """

    columns: dict[str, Array]
    lists: dict[str, ListColumn]
    probability: Array
    label: Array


class ClickLog(Protocol):
    """A click log has rows whose true click probabilities are known."""

    @property
    def schema(self) -> Schema:
        """Returns what the columns mean."""

    def calibrate(self) -> None:
        """Finds what depends on a pilot block now, so that copies sent to other processes need not."""

    def block(self, split: str, number: int, rows: int = BLOCK_ROWS) -> LogRows:
        """Returns the first `rows` rows of block `number` of a split: `train`, `validation` or `test`."""


@dataclass(frozen=True)
class _Calibration:
    """A calibration is what the pilot block tells: centres by field, mean and factor of each part, the bias."""

    centres: Centres
    means: dict[str, float]
    factors: dict[str, float]
    bias: float


@dataclass(frozen=True)
class PlantedLog:
    """A planted log is settings, and the rows that follow from them. Raises UserError for sizes that make no sense.

    ids: number of ids of each field; reach: rank at which an id's hidden numbers are halved
    """

    ids: Sequence[int]
    dense: int = 4
    skew: float = 1.2
    reach: float = 20.0
    histories: Histories | None = None
    strengths: Strengths = field(default_factory=Strengths)
    seed: int = 0

    def __post_init__(self) -> None:
        rate = self.strengths.click_rate
        some_ids = bool(self.ids) and min(self.ids) > 0
        checks = [
            (some_ids, f"ids={list(self.ids)}, expected one field or more, each of 1 id or more"),
            (self.dense >= 0, f"dense={self.dense}, expected 0 or more"),
            (self.skew >= 0, f"skew={self.skew}, expected 0 (uniform) or more"),
            (self.reach > 0, f"reach={self.reach}, expected more than 0"),
            (self.seed >= 0, f"seed={self.seed}, expected 0 or more"),
            (0 < rate < 1, f"click_rate={rate}, expected a number between 0 and 1"),
        ]
        check_all(checks)
        if self.histories:
            self.histories.check()

    @property
    def fields(self) -> dict[str, int]:
        """Returns the number of ids, by name, of every column of single ids."""
        names = {f"id_{i + 1}": n for i, n in enumerate(self.ids)}
        return names | ({"item": self.histories.items} if self.histories else {})

    @property
    def schema(self) -> Schema:
        """Returns what the columns mean. The true `probability` is a key: it is carried along with predictions."""
        features: list[Feature] = [IdFeature(name=name, ids=Identity(num_ids=n)) for name, n in self.fields.items()]
        if h := self.histories:
            items = Identity(num_ids=h.items)
            features.append(SequenceFeature(name="history", ids=items, table="item", max_length=h.max_length))
        features += [DenseFeature(name=f"dense_{i + 1}") for i in range(self.dense)]
        return Schema(features=tuple(features), keys=("probability",))

    def block(self, split: str, number: int, rows: int = BLOCK_ROWS) -> LogRows:
        """Returns rows of one block; see `ClickLog`."""
        stream = self._stream(split, number)
        columns, history = self._features(stream, rows)
        parts = self._parts(columns, history, self._calibration.centres)
        probability = sigmoid(self._logit(parts, self._calibration)).astype(np.float32)
        label = (stream("label").random(rows) < probability).astype(np.int8)
        return LogRows(columns, {} if history is None else {"history": history}, probability, label)

    def calibrate(self) -> None:
        """Finds what depends on a pilot block now; see `ClickLog`."""
        self._calibration

    def _stream(self, split: str, number: int) -> Stream:
        return stream_of(self.seed, split, number)

    def _features(self, stream: Stream, rows: int) -> tuple[dict[str, Array], ListColumn | None]:
        columns: dict[str, Array] = {}
        for name, num_ids in self.fields.items():
            columns[name] = PowerLaw(num_ids, self.skew).ids(stream(name).random(rows))
        for i in range(self.dense):
            columns[f"dense_{i + 1}"] = stream(f"dense_{i + 1}").standard_normal(rows, dtype=np.float32)
        return columns, self._history(stream, rows) if self.histories else None

    def _history(self, stream: Stream, rows: int) -> ListColumn:
        h = self.histories
        assert h is not None
        offsets = h.offsets(stream, rows)
        lengths = np.diff(offsets)
        items = PowerLaw(h.items, self.skew).ids(stream("history/item").random(offsets[-1]))
        favourite = np.repeat(stream("history/taste").integers(_TASTES, size=rows), lengths)
        focused = stream("history/focus").random(offsets[-1]) < _FOCUS
        return np.where(focused, self._with_taste(items, favourite, h.items), items), offsets

    def taste(self, items: Array) -> Array:
        """Returns [n] tastes of [n] ids: a run of `_TASTES` ids has each once, in order, beginning at a hashed one."""
        return (items + self._rotation(items)) % _TASTES

    def _with_taste(self, items: Array, tastes: Array, num_items: int) -> Array:
        """Returns the ids of those tastes among the `_TASTES` ones that hold `items`, where they exist."""
        wanted = items - items % _TASTES + (tastes - self._rotation(items)) % _TASTES
        return np.where(wanted < num_items, wanted, items)

    def _rotation(self, items: Array) -> Array:
        """Returns a hash of the run of `_TASTES` consecutive ids that each of [n] ids is in."""
        return (mixed(items // _TASTES, salt_of(self.seed, "taste")) >> np.uint64(33)).astype(np.int64)

    def hidden(self, name: str, ids: Array) -> Array:
        """Returns the [3, n] hidden numbers of [n] ids, in [-1, 1): weights and two factors."""
        bits = mixed(ids, salt_of(self.seed, name)).astype("<u8", copy=False).view("<i2").reshape(-1, 4)
        scale = np.float32(self.reach / 32_768) / (ids.astype(np.float32) + np.float32(self.reach))
        hidden = np.empty((_HIDDEN, len(ids)), np.float32)
        for plane, numbers in zip(hidden, bits.T, strict=False):
            np.multiply(numbers, scale, out=plane)
        return hidden

    def _parts(self, columns: dict[str, Array], history: ListColumn | None, centres: Centres) -> dict[str, Array]:
        """Returns the parts of the logit before standardisation, [rows] each."""
        row_count = len(next(iter(columns.values())))
        additive, interaction = np.empty(row_count, np.float32), np.empty(row_count, np.float32)
        for start in range(0, row_count, _CACHED_ROWS):
            some = slice(start, start + _CACHED_ROWS)
            total: Any = np.float32(0)
            squares: Any = np.float32(0)
            for name in self.fields:
                hidden = self.hidden(name, columns[name][some])
                hidden -= centres[name][:, None]
                total = total + hidden
                hidden *= hidden
                squares = squares + hidden
            additive[some] = total[0]
            interaction[some] = (total[1:] ** 2 - squares[1:]).sum(0)
        slopes = _generator(self.seed, 0, "slopes").standard_normal(self.dense)
        dense = sum((slope * columns[f"dense_{i + 1}"] for i, slope in enumerate(slopes)), np.zeros(row_count))
        parts = {"additive": additive, "interaction": interaction, "dense": dense}
        if history is not None:
            items, offsets = history
            lengths = np.diff(offsets)
            same = self.taste(items) == np.repeat(self.taste(columns["item"]), lengths)
            parts["history"] = np.add.reduceat(same.astype(np.int64), offsets[:-1]) / lengths
        return parts

    @cached_property
    def _calibration(self) -> _Calibration:
        columns, history = self._features(self._stream(PILOT, 0), BLOCK_ROWS)
        centres = {name: self.hidden(name, columns[name]).mean(1) for name in self.fields}
        parts = self._parts(columns, history, centres)
        factors = {}
        for name, part in parts.items():
            spread = float(part.std())
            factors[name] = getattr(self.strengths, name) / spread if spread > 1e-9 else 0.0
        means = {name: float(part.mean()) for name, part in parts.items()}
        fitted = _Calibration(centres, means, factors, bias=0.0)
        return replace(fitted, bias=bias_for(self._logit(parts, fitted), self.strengths.click_rate))

    def _logit(self, parts: dict[str, Array], fitted: _Calibration) -> Array:
        standard = [(part - fitted.means[name]) * fitted.factors[name] for name, part in parts.items()]
        return np.sum(standard, axis=0) + fitted.bias


def stream_of(seed: int, split: str, number: int) -> Stream:
    """Returns what gives each column its generator in a block of a split."""
    return lambda column: _generator(seed, number, f"{split}/{column}")


def check_all(checks: Iterable[tuple[bool, str]]) -> None:
    """Raises UserError for the first check that does not hold, with its description."""
    for holds, complaint in checks:
        if not holds:
            raise UserError(f"synthetic: {complaint}")


def bias_for(signal: Array, click_rate: float) -> float:
    """Returns what is to be added to the logits [n] so that their mean probability is the click rate."""
    low, high = -50.0, 50.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if sigmoid(signal + middle).mean() > click_rate else (middle, high)
    return (low + high) / 2


def sigmoid(x: Array) -> Array:
    """Returns 1 / (1 + e^-x)."""
    return 1.0 / (1.0 + np.exp(-x))


def _generator(seed: int, number: int, name: str) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(seed, spawn_key=(number, *name.encode()))))


@lru_cache
def salt_of(seed: int, name: str) -> np.uint64:
    """Returns the salt of the hashes that are called `name`."""
    return np.random.SeedSequence(seed, spawn_key=tuple(name.encode())).generate_state(1, np.uint64)[0]


def mixed(ids: Array, salt: np.uint64) -> NDArray[np.uint64]:
    """Returns SplitMix64's output (Steele, Lea, Flood, OOPSLA 2014) of the salted ids."""
    z = ids.astype(np.uint64)
    z *= np.uint64(0x9E3779B97F4A7C15)
    z += salt
    shifted = z >> np.uint64(30)
    z ^= shifted
    z *= np.uint64(0xBF58476D1CE4E5B9)
    np.right_shift(z, np.uint64(27), out=shifted)
    z ^= shifted
    z *= np.uint64(0x94D049BB133111EB)
    np.right_shift(z, np.uint64(31), out=shifted)
    z ^= shifted
    return z
