"""A log of planted interests has its signal in histories: clicks follow what the target's category says.

Items have a category and a hidden opinion, +1 or -1 (times reach / (reach + rank), so that rare items, which cannot
be learned, matter little). A row's history mixes events of several categories, its interests, in short runs. With z(.)
for "standardised over the log's rows", the logit of a click on a target item is

    bias + quality z(hidden quality of the target) + interest z(sum over events of the target's category of w opinion)

Opinions about other categories say nothing, and have mean 0. So a pooled history has to carry a sum for every category
at once, which dim numbers cannot where there are more categories than those; a model that picks the events of the
target's category needs one number. w is 1, or with `order` fade^(later events of the category): the interest drifts,
and what came last counts most, which no model can tell that ignores the order (Zhou et al., AAAI 2019, section 4.4).

A row is a pure function of (settings, split, row number), as in planted.py.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from shardrec.data_pipeline.features.feature_kinds import Feature, IdFeature, SequenceFeature
from shardrec.data_pipeline.features.id_transforms import Identity
from shardrec.data_pipeline.features.schema import Schema
from shardrec.data_pipeline.prepare.generators.planted import (
    BLOCK_ROWS,
    PILOT,
    Array,
    Histories,
    LogRows,
    PowerLaw,
    Stream,
    bias_for,
    check_all,
    mixed,
    salt_of,
    sigmoid,
    stream_of,
)

_STAY = 0.5  # so often an event is of the interest of the one before it
_RELATED = 0.9  # so often a target is of one of the row's interests
_FADE = 0.25  # of what came before, each later event of the category leaves so much


class _Parts(NamedTuple):
    """These are the two parts of the logit before standardisation, [rows] each."""

    quality: Array
    interest: Array


@dataclass(frozen=True)
class InterestLog:
    """An interest log is settings, and the rows that follow from them. Raises UserError for sizes that make no sense.

    interests: categories of one history; order: whether the latest events count most
    negatives: an item beside each event, of a category that its history has not
    quality, interest: standard deviations of the two parts of the logit
    """

    histories: Histories
    categories: int = 100
    interests: int = 10
    order: bool = False
    negatives: bool = False
    skew: float = 1.2
    reach: float = 20.0
    quality: float = 0.4
    interest: float = 2.0
    click_rate: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        self.histories.check()
        enough = 2 * self.interests <= self.categories <= self.histories.items
        check_all(
            [
                (self.interests > 0, f"interests={self.interests}, expected 1 or more"),
                (enough, f"categories={self.categories}, expected from twice the interests to the number of items"),
                (self.skew >= 0, f"skew={self.skew}, expected 0 (uniform) or more"),
                (self.reach > 0, f"reach={self.reach}, expected more than 0"),
                (self.seed >= 0, f"seed={self.seed}, expected 0 or more"),
                (0 < self.click_rate < 1, f"click_rate={self.click_rate}, expected a number between 0 and 1"),
            ]
        )

    @property
    def schema(self) -> Schema:
        """Returns what the columns mean. The true `probability` is a key: it is carried along with predictions."""
        ids = {"item": Identity(num_ids=self.histories.items), "category": Identity(num_ids=self.categories)}
        features: list[Feature] = [IdFeature(name=name, role="item", ids=of) for name, of in ids.items()]
        for prefix in ("", "negative_") if self.negatives else ("",):
            for name, of in ids.items():
                features.append(
                    SequenceFeature(
                        name=f"{prefix}{name}_history",
                        role="user",
                        ids=of,
                        table=name,
                        max_length=self.histories.max_length,
                        aligned="history",
                    )
                )
        return Schema(features=tuple(features), keys=("probability",))

    def calibrate(self) -> None:
        """Finds what depends on a pilot block now; see `planted.ClickLog`."""
        self._calibration

    def block(self, split: str, number: int, rows: int = BLOCK_ROWS) -> LogRows:
        """Returns rows of one block; see `planted.ClickLog`."""
        stream = stream_of(self.seed, split, number)
        block = self._features(stream, rows)
        probability = sigmoid(self._logit(self.parts(block))).astype(np.float32)
        label = (stream("label").random(rows) < probability).astype(np.int8)
        return LogRows(block.columns, block.lists, probability, label)

    # ------------------------------------------------------------ items

    def category(self, items: Array) -> Array:
        """Returns [n] categories of [n] ids: a run of `categories` ids has each once, beginning at a hashed one."""
        return (items + self._rotation(items // self.categories)) % self.categories

    def _items(self, categories: Array, uniform: Array) -> Array:
        """Returns [n] ids of [n] categories, by the power law of their ranks; `uniform` numbers are in [0, 1)."""
        ranks = PowerLaw(self.histories.items // self.categories, self.skew).ids(uniform)
        return ranks * self.categories + (categories - self._rotation(ranks)) % self.categories

    def _rotation(self, runs: Array) -> Array:
        return (mixed(runs, salt_of(self.seed, "category")) >> np.uint64(33)).astype(np.int64)

    def opinion(self, items: Array) -> Array:
        """Returns [n] hidden opinions of [n] ids: a sign, less for rare ones."""
        return np.where(mixed(items, salt_of(self.seed, "opinion")) >> np.uint64(63), 1.0, -1.0) * self._weight(items)

    def _quality(self, items: Array) -> Array:
        uniform = (mixed(items, salt_of(self.seed, "quality")) >> np.uint64(11)) * 2.0**-53
        return (2 * uniform - 1) * self._weight(items)

    def _weight(self, items: Array) -> Array:
        return self.reach / (self.reach + items // self.categories)

    # ------------------------------------------------------------ rows

    def _features(self, stream: Stream, rows: int) -> LogRows:
        """Returns rows without probabilities and labels."""
        offsets = self.histories.offsets(stream, rows)
        lengths, total = np.diff(offsets), int(offsets[-1])
        owner = np.repeat(np.arange(rows), lengths)
        interests = stream("interests").integers(self.categories, size=(rows, self.interests))
        fresh = stream("history/stay").random(total) >= _STAY
        fresh[offsets[:-1]] = True
        began = np.maximum.accumulate(np.where(fresh, np.arange(total), 0))  # the first event of each one's run
        interest_of_event = stream("history/interest").integers(self.interests, size=total)[began]
        history = self._items(interests[owner, interest_of_event], stream("history/item").random(total))
        any_event = offsets[:-1] + (stream("target/event").random(rows) * lengths).astype(np.int64)
        related = stream("target/related").random(rows) < _RELATED
        elsewhere = stream("target/category").integers(self.categories, size=rows)
        asked = np.where(related, interests[np.arange(rows), interest_of_event[any_event]], elsewhere)
        target = self._items(asked, stream("target/item").random(rows))
        lists = {"item_history": (history, offsets), "category_history": (self.category(history), offsets)}
        if self.negatives:
            others = self._other_items(stream, interests, owner)
            lists |= {
                "negative_item_history": (others, offsets),
                "negative_category_history": (self.category(others), offsets),
            }
        columns = {"item": target, "category": self.category(target)}
        return LogRows(columns, lists, np.zeros(0, np.float32), np.zeros(0, np.int8))

    def _other_items(self, stream: Stream, interests: Array, owner: Array) -> Array:
        """Returns [T] items of categories that are none of the row's interests, drawn again until they are not."""
        categories = np.zeros(len(owner), np.int64)
        waiting = np.ones(len(owner), bool)
        attempt = 0
        while waiting.any():
            drawn = stream(f"negative/{attempt}").integers(self.categories, size=len(owner))
            categories[waiting] = drawn[waiting]
            waiting[waiting] = (interests[owner[waiting]] == categories[waiting, None]).any(1)
            attempt += 1
        return self._items(categories, stream("negative/item").random(len(owner)))

    def parts(self, block: LogRows) -> _Parts:
        """Returns both parts of each row's logit: its item's quality, and the interest that its history shows."""
        items, offsets = block.lists["item_history"]
        same = block.lists["category_history"][0] == np.repeat(block.columns["category"], np.diff(offsets))
        opinions = np.where(same, self.opinion(items), 0.0)
        if self.order:
            seen = np.cumsum(same)
            later = np.repeat(seen[offsets[1:] - 1], np.diff(offsets)) - seen
            opinions *= _FADE**later
        return _Parts(self._quality(block.columns["item"]), np.add.reduceat(opinions, offsets[:-1]))

    @cached_property
    def _calibration(self) -> tuple[_Parts, _Parts, float]:
        """Returns means and factors of the parts, and the bias, of a pilot block."""
        bare = replace(self, negatives=False)
        pilot = self.parts(bare._features(stream_of(self.seed, PILOT, 0), BLOCK_ROWS))
        means = _Parts(*(part.mean() for part in pilot))
        factors = _Parts(*(getattr(self, n) / max(p.std(), 1e-9) for n, p in zip(_Parts._fields, pilot, strict=True)))
        return means, factors, bias_for(self._signal(pilot, means, factors), self.click_rate)

    def _logit(self, parts: _Parts) -> Array:
        means, factors, bias = self._calibration
        return self._signal(parts, means, factors) + bias

    @staticmethod
    def _signal(parts: _Parts, means: _Parts, factors: _Parts) -> Array:
        standard = [(part - mean) * factor for part, mean, factor in zip(parts, means, factors, strict=True)]
        return np.sum(standard, axis=0)
