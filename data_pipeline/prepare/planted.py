"""A click log whose true click probabilities are known: power-law ids, a planted logit, labels drawn from it.

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

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.errors import UserError
from data_pipeline.schema import DenseFeature, Feature, Identity, IdFeature, Schema, SequenceFeature

BLOCK_ROWS = 65_536
_PILOT = "pilot"  # a split that is never written
_HIDDEN = 3  # hidden numbers of an id: a weight and two factors
_CACHED_ROWS = 16_384  # so many rows at a time keep the arithmetic in the processor's cache
_TASTES = 10
_FOCUS = 0.5  # so much of a history has the row's favourite taste; the rest is drawn from all items

Array = NDArray[Any]
Ragged = tuple[Array, Array]  # values [T], offsets [rows + 1]
Centres = dict[str, Array]  # field -> [3]
Stream = Callable[[str], np.random.Generator]


@dataclass(frozen=True)
class Histories:
    """A target `item` and a `history` of items of the same table; lengths in [1, max_length] with the given mean."""

    items: int
    mean_length: float
    max_length: int


@dataclass(frozen=True)
class Strengths:
    """Standard deviations of the four parts of the logit, and the mean click rate."""

    additive: float = 1.2
    interaction: float = 0.7
    dense: float = 0.5
    history: float = 1.0
    click_rate: float = 0.25


@dataclass(frozen=True)
class PowerLaw:
    """Ids 0 .. num_ids - 1 with probability falling as rank^-skew (Zipf), made continuous so that it can be inverted.

    P(id < k) = G(k) / G(num_ids), where G(k) is the integral of x^-skew from 1 to 1 + k.
    """

    num_ids: int
    skew: float

    def below(self, ids: Array | int) -> Array:
        """P(id < ids), elementwise."""
        return self._integral(np.asarray(ids, np.float64)) / self._integral(np.float64(self.num_ids))

    def ids(self, uniform: Array) -> Array:
        """Inverse transform of numbers in [0, 1) -> int64."""
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
class Block:
    """Rows of a log, by column. history: values [T] with offsets [rows + 1], or None. probability is the true one."""

    columns: dict[str, Array]
    history: Ragged | None
    probability: Array
    label: Array


@dataclass(frozen=True)
class _Calibration:
    """What the pilot block tells: centres of hidden numbers by field, mean and factor of each part, the bias."""

    centres: Centres
    means: dict[str, float]
    factors: dict[str, float]
    bias: float


@dataclass(frozen=True)
class PlantedLog:
    """Settings of a log, and its rows. Raises UserError for sizes that make no sense.

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
        h, rate = self.histories, self.strengths.click_rate
        some_ids = bool(self.ids) and min(self.ids) > 0
        checks = [
            (some_ids, f"ids={list(self.ids)}, expected one field or more, each of 1 id or more"),
            (self.dense >= 0, f"dense={self.dense}, expected 0 or more"),
            (self.skew >= 0, f"skew={self.skew}, expected 0 (uniform) or more"),
            (self.reach > 0, f"reach={self.reach}, expected more than 0"),
            (self.seed >= 0, f"seed={self.seed}, expected 0 or more"),
            (0 < rate < 1, f"click_rate={rate}, expected a number between 0 and 1"),
        ]
        if h:
            sound = h.items > 0 and 1 <= h.mean_length <= h.max_length
            checks.append((sound, f"{h}, expected items >= 1 and 1 <= mean_length <= max_length"))
        for holds, found in checks:
            if not holds:
                raise UserError(f"synthetic: {found}")

    @property
    def fields(self) -> dict[str, int]:
        """Name -> number of ids, for every column of single ids."""
        names = {f"id_{i + 1}": n for i, n in enumerate(self.ids)}
        return names | ({"item": self.histories.items} if self.histories else {})

    @property
    def schema(self) -> Schema:
        """What the columns mean. The true `probability` is a key: it is carried along with predictions."""
        features: list[Feature] = [IdFeature(name=name, ids=Identity(num_ids=n)) for name, n in self.fields.items()]
        if h := self.histories:
            items = Identity(num_ids=h.items)
            features.append(SequenceFeature(name="history", ids=items, table="item", max_length=h.max_length))
        features += [DenseFeature(name=f"dense_{i + 1}") for i in range(self.dense)]
        return Schema(features=tuple(features), keys=("probability",))

    def block(self, split: str, number: int, rows: int = BLOCK_ROWS) -> Block:
        """The first `rows` rows of block `number` of a split: `train`, `validation` or `test`."""
        stream = self._stream(split, number)
        columns, history = self._features(stream, rows)
        parts = self._parts(columns, history, self._calibration.centres)
        probability = _sigmoid(self._logit(parts, self._calibration)).astype(np.float32)
        label = (stream("label").random(rows) < probability).astype(np.int8)
        return Block(columns, history, probability, label)

    def calibrate(self) -> None:
        """Draws the pilot block now, so that copies of this object sent to other processes need not."""
        self._calibration

    def _stream(self, split: str, number: int) -> Stream:
        """Column name -> its generator in that block."""
        return lambda column: _generator(self.seed, number, f"{split}/{column}")

    def _features(self, stream: Stream, rows: int) -> tuple[dict[str, Array], Ragged | None]:
        columns: dict[str, Array] = {}
        for name, num_ids in self.fields.items():
            columns[name] = PowerLaw(num_ids, self.skew).ids(stream(name).random(rows))
        for i in range(self.dense):
            columns[f"dense_{i + 1}"] = stream(f"dense_{i + 1}").standard_normal(rows, dtype=np.float32)
        return columns, self._history(stream, rows) if self.histories else None

    def _history(self, stream: Stream, rows: int) -> Ragged:
        h = self.histories
        assert h is not None
        spread, fraction = stream("history/length").random(rows), stream("history/rounding").random(rows)
        room = h.max_length - 1
        power = room / (h.mean_length - 1) - 1 if h.mean_length > 1 else np.inf  # the mean of u^a is 1 / (a + 1)
        lengths = 1 + np.floor(room * spread**power + fraction).astype(np.int64)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        items = PowerLaw(h.items, self.skew).ids(stream("history/item").random(offsets[-1]))
        favourite = np.repeat(stream("history/taste").integers(_TASTES, size=rows), lengths)
        focused = stream("history/focus").random(offsets[-1]) < _FOCUS
        return np.where(focused, self._with_taste(items, favourite, h.items), items), offsets

    def taste(self, items: Array) -> Array:
        """[n] ids -> tastes: a run of `_TASTES` ids has all tastes once, in order, beginning at a hashed one."""
        return (items + self._rotation(items)) % _TASTES

    def _with_taste(self, items: Array, tastes: Array, num_items: int) -> Array:
        """The ids of those tastes among the `_TASTES` consecutive ones that hold `items`, where they exist."""
        wanted = items - items % _TASTES + (tastes - self._rotation(items)) % _TASTES
        return np.where(wanted < num_items, wanted, items)

    def _rotation(self, items: Array) -> Array:
        """[n] ids -> a hash of their run of `_TASTES` consecutive ids."""
        return (_mix(items // _TASTES, _salt(self.seed, "taste")) >> np.uint64(33)).astype(np.int64)

    def hidden(self, name: str, ids: Array) -> Array:
        """[n] ids -> [3, n] in [-1, 1): weights and two factors."""
        bits = _mix(ids, _salt(self.seed, name)).astype("<u8", copy=False).view("<i2").reshape(-1, 4)
        scale = np.float32(self.reach / 32_768) / (ids.astype(np.float32) + np.float32(self.reach))
        hidden = np.empty((_HIDDEN, len(ids)), np.float32)
        for plane, numbers in zip(hidden, bits.T, strict=False):
            np.multiply(numbers, scale, out=plane)
        return hidden

    def _parts(self, columns: dict[str, Array], history: Ragged | None, centres: Centres) -> dict[str, Array]:
        """The parts of the logit before standardisation, [rows] each."""
        rows = len(next(iter(columns.values())))
        additive, interaction = np.empty(rows, np.float32), np.empty(rows, np.float32)
        for start in range(0, rows, _CACHED_ROWS):
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
        dense = sum((slope * columns[f"dense_{i + 1}"] for i, slope in enumerate(slopes)), np.zeros(rows))
        parts = {"additive": additive, "interaction": interaction, "dense": dense}
        if history is not None:
            items, offsets = history
            lengths = np.diff(offsets)
            same = self.taste(items) == np.repeat(self.taste(columns["item"]), lengths)
            parts["history"] = np.add.reduceat(same.astype(np.int64), offsets[:-1]) / lengths
        return parts

    @cached_property
    def _calibration(self) -> _Calibration:
        columns, history = self._features(self._stream(_PILOT, 0), BLOCK_ROWS)
        centres = {name: self.hidden(name, columns[name]).mean(1) for name in self.fields}
        parts = self._parts(columns, history, centres)
        factors = {}
        for name, part in parts.items():
            spread = float(part.std())
            factors[name] = getattr(self.strengths, name) / spread if spread > 1e-9 else 0.0
        means = {name: float(part.mean()) for name, part in parts.items()}
        fitted = _Calibration(centres, means, factors, bias=0.0)
        signal, low, high = self._logit(parts, fitted), -50.0, 50.0
        for _ in range(40):
            middle = (low + high) / 2
            too_many = _sigmoid(signal + middle).mean() > self.strengths.click_rate
            low, high = (low, middle) if too_many else (middle, high)
        return _Calibration(centres, means, factors, bias=(low + high) / 2)

    def _logit(self, parts: dict[str, Array], fitted: _Calibration) -> Array:
        standard = [(part - fitted.means[name]) * fitted.factors[name] for name, part in parts.items()]
        return np.sum(standard, axis=0) + fitted.bias


def _sigmoid(x: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-x))


def _generator(seed: int, number: int, name: str) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(seed, spawn_key=(number, *name.encode()))))


@lru_cache
def _salt(seed: int, name: str) -> np.uint64:
    return np.random.SeedSequence(seed, spawn_key=tuple(name.encode())).generate_state(1, np.uint64)[0]


def _mix(ids: Array, salt: np.uint64) -> NDArray[np.uint64]:
    """SplitMix64's output function (Steele, Lea, Flood, OOPSLA 2014) of the salted ids."""
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
