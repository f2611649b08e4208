"""Evaluation over the whole catalogue makes each user's list of all items, and measures what it held out there."""

from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from shardrec.data_pipeline.batch import Batch
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.reading.collate import Layout
from shardrec.models.base import Recommender
from shardrec.models.metrics.lists import ListMetrics, list_directions
from shardrec.models.metrics.metric_set import NOT_FINITE
from shardrec.models.tasks import Task
from shardrec.models.undefined import Undefined
from shardrec.sharding.tables.collective import ProcessGroupCollective
from shardrec.trainer.catalogue.held_out import HeldOut, Ragged, read_held_out
from shardrec.trainer.catalogue.items import Catalogue, check_items, item_feature, user_feature
from shardrec.trainer.catalogue.top_n import Excluded, top_n
from shardrec.trainer.catalogue.vectors import item_vectors, towers_of, user_layout
from shardrec.trainer.config.catalogue import CatalogueEvaluation
from shardrec.trainer.config.sections import Paths, RunConfig
from shardrec.trainer.launch.agreement import made_once
from shardrec.trainer.session.blueprint import Blueprint
from shardrec.trainer.session.session import Session

POPULAR, NEW = "popular_", "new_"
"""How names of metrics begin: of the list of the most frequent items, the same for all, and of lists of new items."""

POPULAR_SHOWN = ("recall", "ndcg")
"""What is told of the most frequent items: enough to see whether a model beats them."""


Counter = Callable[[str, int], Callable[[int], None]]
"""Takes what is counted and how many steps there are, and returns what hears of each finished one."""


def _uncounted(what: str, steps: int) -> Callable[[int], None]:
    return lambda step: None


def check_catalogue(blueprint: Blueprint) -> None:
    """Raises UserError where lists cannot be measured that the run file asks for, or items cannot be read."""
    config, schema = blueprint.config, blueprint.schema
    if config.data.catalogue.items is not None:
        check_items(blueprint)
    if config.trainer.evaluation.catalogue is None:
        return
    towers_of(blueprint)
    item_feature(config, schema)
    user_feature(config, schema)
    twice = of_catalogue(config).keys() & blueprint.model.task.metrics().directions.keys()
    if twice:
        raise UserError(
            f"trainer.evaluation.catalogue: {min(twice)!r} is measured by model.top_k already, among the rows of a "
            "group; leave model.top_k out, or name other k's"
        )


def directions(task: Task, config: RunConfig) -> dict[str, bool]:
    """Returns the metrics that a best step can be chosen by, and whether larger is better, the first choice first.

    That is the catalogue's, where lists of it are measured, and else the task's own.
    """
    of_task = task.metrics().directions
    return {**of_catalogue(config), **of_task}


def larger_is_better(model: Recommender, config: RunConfig, metric: str) -> bool:
    """Says whether a best step is one of a large `metric`. Raises UserError for a metric that is not measured."""
    of_lists, metrics = of_catalogue(config), model.task.metrics()
    if metric in of_lists:
        return of_lists[metric]
    name, _, length = metric.partition("@")
    could_be = f"{name}@1" in list_directions((1,)) and length.isdecimal() and model.halves() is not None
    if could_be and metric not in metrics.directions:
        settings = config.trainer.evaluation.catalogue
        lengths = ", ".join(map(str, (*(() if settings is None else settings.top_k), length)))
        raise UserError(
            f"metric {metric!r} is not measured; lists of the whole catalogue are by trainer.evaluation.catalogue: "
            f"{{top_k: [{lengths}]}}"
        )
    return metrics.larger_is_better(metric)


def of_catalogue(config: RunConfig) -> dict[str, bool]:
    """Returns the metrics of lists that a best step can be chosen by; none where they are not measured."""
    settings = config.trainer.evaluation.catalogue
    return {} if settings is None else _directions(settings)


def _directions(settings: CatalogueEvaluation) -> dict[str, bool]:
    return list_directions(settings.top_k) | (list_directions(settings.top_k, NEW) if settings.new_items else {})


class CatalogueScorer:
    """A catalogue scorer measures one session's model, as often as asked; items and held-out pairs are read once."""

    def __init__(self, session: Session, settings: CatalogueEvaluation) -> None:
        """Reads nothing yet. Raises UserError where the model's users and items share no space."""
        self._session, self._settings = session, settings
        self._towers = towers_of(session.blueprint)
        self._shares: dict[Paths, _Share] = {}
        self._of_popular: dict[Paths, dict[str, float]] = {}

    @classmethod
    def of(cls, session: Session) -> "CatalogueScorer | None":
        """Returns what the run file asks for; None where it asks for no lists. Raises UserError as the class does."""
        settings = session.config.trainer.evaluation.catalogue
        return None if settings is None else cls(session, settings)

    @cached_property
    def catalogue(self) -> Catalogue:
        """Returns the items. All ranks ask for it alike."""
        catalogue = Catalogue.of(self._session)
        if self._settings.new_items and catalogue.trained == len(catalogue):
            raise UserError(
                "trainer.evaluation.catalogue.new_items: training has all items; name others, with their features, "
                "by data.catalogue.items, or leave new_items out"
            )
        return catalogue

    def metrics(self, split: str, paths: Paths, counter: Counter = _uncounted) -> dict[str, float]:
        """Returns recall@K and so on over all users of a split, on every rank: finite, or `Undefined`.

        All ranks call it alike. Raises UserError, on all, for rows that cannot be read.
        """
        share = self._share(split, paths)
        on_batch = counter(f"making lists of {split}", share.steps)
        with self._session.scoring():
            items = item_vectors(self._session, self.catalogue)
            found = self._measured(share, items, on_batch)
        return self._session.environment.broadcast(found | self.of_popular(split, paths))

    def _measured(self, share: "_Share", items: Tensor, on_batch: Callable[[int], None]) -> dict[str, float]:
        session, settings, trained = self._session, self._settings, self.catalogue.trained
        collective = ProcessGroupCollective()
        whole = ListMetrics(settings.top_k, len(items))
        new = ListMetrics(settings.top_k, len(items) - trained) if settings.new_items else None
        finite = bool(items.isfinite().all())
        for step, (batch, held_out) in enumerate(share.batches(), start=1):
            vectors = session.forward.vectors(batch, self._towers.user, self._towers.user_inputs)[
                : len(held_out.counts)
            ]
            finite &= bool(vectors.isfinite().all())
            if finite:
                _update(whole, vectors, items, held_out, max(settings.top_k))
                if new is not None:
                    _update(new, vectors, items[trained:], held_out.since(trained), max(settings.top_k))
            on_batch(step)
        if session.environment.summed(torch.tensor([float(not finite)])).item():
            return {name: Undefined(NOT_FINITE) for name in _directions(settings)}
        return whole.compute(collective) | ({} if new is None else new.compute(collective, NEW))

    def of_popular(self, split: str, paths: Paths) -> dict[str, float]:
        """Returns the metrics of one list for all: the most frequent items of training, but each user's known ones.

        All ranks call it alike. Raises UserError as `metrics` does.
        """
        if paths not in self._of_popular:
            self._of_popular[paths] = self._measured_popular(self._share(split, paths))
        return self._of_popular[paths]

    def _measured_popular(self, share: "_Share") -> dict[str, float]:
        """Down the most frequent items no list reaches further than its length and what its user has already."""
        longest, device = max(self._settings.top_k), self._session.environment.device
        order = torch.from_numpy(self.catalogue.popularity).to(device)
        first = order[: longest + share.most_known]
        places = torch.empty_like(order)
        places[order] = torch.arange(len(order), device=device)
        scores = torch.arange(len(first), 0, -1, device=device).float().unsqueeze(1)  # whole numbers: none are equal
        metrics = ListMetrics(self._settings.top_k, len(order))
        for held_out in share.held_out():
            known = _kept(held_out.known.offsets, places[held_out.known.positions], lambda place: place < len(first))
            ones = scores.new_ones(len(held_out.counts), 1)
            _, lists = top_n(ones, scores, longest, excluded=Excluded(*known))
            metrics.update(torch.where(lists < 0, -1, first[lists]), *held_out.items, held_out.counts)
        found = metrics.compute(ProcessGroupCollective(), POPULAR)
        return {f"{POPULAR}{n}@{k}": found[f"{POPULAR}{n}@{k}"] for k in self._settings.top_k for n in POPULAR_SHOWN}

    def _share(self, split: str, paths: Paths) -> "_Share":
        """Returns this rank's users of a split, read by the leading rank once."""
        if paths not in self._shares:
            session, catalogue, layout = self._session, self.catalogue, user_layout(self._session)
            held_out = made_once(
                session.environment,
                lambda: read_held_out(session.blueprint, catalogue, paths, self._known(split, paths), layout),
            )
            self._shares[paths] = _Share(session, held_out, layout)
        return self._shares[paths]

    def _known(self, split: str, paths: Paths) -> list[Paths]:
        """Returns the splits whose pairs are not recommended again: by default those before the one that is scored."""
        blueprint, data = self._session.blueprint, self._session.config.data
        before = ("train",) if split == "validation" else ("train", "validation")
        named = before if self._settings.exclude is None else self._settings.exclude
        known = [found for name in named if (found := data.split(name)) is not None]
        scored = blueprint.data_set(paths).index.fingerprint
        return [found for found in known if blueprint.data_set(found).index.fingerprint.value != scored.value]


class _OfBatch(NamedTuple):
    """The held-out items of B users lie on the rank's device, as `ListMetrics` and `top_n` take them."""

    items: tuple[Tensor, Tensor]
    counts: Tensor
    known: Excluded

    def since(self, first: int) -> "_OfBatch":
        """Returns the items from position `first` on, counted from there; those in no catalogue are none of them."""
        parts = []
        for ragged in (self.items, self.known):
            offsets, positions = _kept(*ragged, lambda position: position >= first)
            parts.append((offsets, positions - first))
        items, known = parts
        return _OfBatch(items, items[0].diff(), Excluded(*known))


class _Share:
    """A share is one rank's part of the users, in batches of which all ranks have equally many, as large.

    steps: how many batches; most_known: the most items that any of its users has already
    """

    def __init__(self, session: Session, held_out: HeldOut, layout: Layout) -> None:
        environment, data = session.environment, session.config.data
        ranks, users = environment.world_size, len(held_out)
        bounds = [users * rank // ranks for rank in range(ranks + 1)]
        start, stop = bounds[environment.rank : environment.rank + 2]
        self._device, self._layout = environment.device, layout
        self._users = held_out.users.take(np.arange(start, stop))
        self._items, self._known = held_out.items.slice(start, stop), held_out.known.slice(start, stop)
        self._counts = held_out.counts[start:stop]
        self.most_known = int(np.diff(self._known.offsets).max(initial=0))
        self._size = -(-(data.evaluation_batch_size or data.global_batch_size) // ranks)
        self.steps = max(1, -(-max(b - a for a, b in pairwise(bounds)) // self._size))  # without users too

    def batches(self) -> Iterator[tuple[Batch, _OfBatch]]:
        """Yields the users' rows, padded, with what they held out."""
        for step in range(self.steps):
            start, stop = self._bounds(step)
            parts = [self._users.slice(start, stop)] if start < stop else []
            yield self._layout.collate(parts, self._size).to(self._device), self._of_batch(start, stop)

    def held_out(self) -> Iterator[_OfBatch]:
        """Yields what the users of each batch held out."""
        for step in range(self.steps):
            yield self._of_batch(*self._bounds(step))

    def _bounds(self, step: int) -> tuple[int, int]:
        return min(step * self._size, len(self._counts)), min((step + 1) * self._size, len(self._counts))

    def _of_batch(self, start: int, stop: int) -> _OfBatch:
        known = self._on_device(self._known.slice(start, stop))
        counts = torch.from_numpy(self._counts[start:stop]).to(self._device)
        return _OfBatch(self._on_device(self._items.slice(start, stop)), counts, Excluded(*known))

    def _on_device(self, ragged: Ragged) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(ragged.offsets).to(self._device), torch.from_numpy(ragged.positions).to(self._device)


def _update(metrics: ListMetrics, users: Tensor, items: Tensor, held_out: _OfBatch, longest: int) -> None:
    """Makes the lists of some users, and adds them."""
    _, lists = top_n(users, items, longest, excluded=held_out.known)
    metrics.update(lists, *held_out.items, held_out.counts)


def _kept(offsets: Tensor, positions: Tensor, which: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Returns offsets and positions without those that are not of `which`."""
    here = which(positions)
    before = torch.cat([here.new_zeros(1, dtype=torch.int64), here.cumsum(0)])
    return before[offsets], positions[here]
