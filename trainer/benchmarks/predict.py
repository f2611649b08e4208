"""`shardrec bench predict` measures scoring from Parquet to Parquet, beside the tower's matrix products alone.

The products are a bound: no run scores faster than its matrix products of the same shapes, threads and precision.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.loading.loader import Loader
from shardrec.models.layers.logit import Logit
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.scoring.predict import scored_batches, written
from shardrec.trainer.session.blueprint import Blueprint
from shardrec.trainer.session.session import Session

Product = tuple[Tensor, Tensor, Tensor | None]
"""A product has an input, weights and a bias, as `torch.nn.functional.linear` takes them."""

PRODUCT_SECONDS = 1.0
"""How long products are measured in a round, at least, in each way of sharing threads out."""


def predict_worker(config: RunConfig, folder: RunFolder, environment: Environment, *, rounds: int) -> dict[str, Any]:
    """Returns rows/s of scoring the training rows into a file, and of the tower's products alone, taken in turns.

    The model has its first values, which score as fast as others. Raises UserError on several workers, and on a GPU.
    """
    if environment.world_size > 1 or environment.device.type != "cpu":
        raise UserError("bench predict measures one worker on CPU; set launch.workers=1 and launch.device=cpu")
    session = Session.build(Blueprint(config, folder.schema()), environment)
    paths = config.data.split("train")
    assert paths is not None

    def loader() -> Loader:
        return session.loader(paths, labelled=False)

    products, size = _products(session, loader())
    scored, bound = [], []
    for turn in range(rounds + 1):  # the first warms up
        pair = (_multiplied(products, size), _multiplied(products, size, side_by_side=True))
        of_turn = _scored(session, loader(), folder.path / "scores.parquet")
        if turn:
            bound.append(max(pair, key=lambda measured: measured.rate))
            scored.append(of_turn)
    return {
        "model": config.model["name"],
        "threads": torch.get_num_threads(),
        "precision": session.config.trainer.precision,
        "matmul_precision": torch.get_float32_matmul_precision(),
        "rows": scored[0].rows,
        "batch_rows": size,
        "rows_per_second": round(_median(scored, lambda measured: measured.rate)),
        "products_rows_per_second": round(_median(bound, lambda measured: measured.rate)),
        "share_of_products": round(statistics.median(a.rate / b.rate for a, b in zip(scored, bound, strict=True)), 3),
        "cores_used": round(_median(scored, lambda measured: measured.used / measured.seconds), 2),
        "core_microseconds_a_row": round(_median(scored, lambda measured: measured.core_microseconds), 2),
        "products_core_microseconds_a_row": round(_median(bound, lambda measured: measured.core_microseconds), 2),
        "reading_rows_per_second": round(_reading(loader())),
    }


class _Measured(NamedTuple):
    """So many rows took so long, and so many seconds of all cores together."""

    rows: int
    seconds: float
    used: float

    @property
    def rate(self) -> float:
        """Returns rows/s."""
        return self.rows / self.seconds

    @property
    def core_microseconds(self) -> float:
        """Returns what a row took of a core, which others on the machine change little."""
        return 1e6 * self.used / self.rows


def _median(measured: Sequence[_Measured], of: Callable[[_Measured], float]) -> float:
    return statistics.median(map(of, measured))


def _scored(session: Session, loader: Loader, part: Path) -> _Measured:
    """Scores all rows into a file."""
    began, used = time.perf_counter(), time.process_time()
    rows = written(scored_batches(session, loader), str(part), use_dictionary=[])  # as a prediction without keys
    return _Measured(rows, time.perf_counter() - began, time.process_time() - used)


def _reading(loader: Loader) -> float:
    """Returns rows/s of making the batches alone, by the thread that makes them."""
    began = time.perf_counter()
    rows = sum(batch.size for batch in loader.epoch(0))
    return rows / (time.perf_counter() - began)


@torch.no_grad()
def _products(session: Session, loader: Loader) -> tuple[list[Product], int]:
    """Returns the matrix products of the tower on a batch, in the precision of each, and the batch's rows."""
    batch = next(islice(loader.epoch(0), 1))
    found: list[Product] = []

    def watch(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(layer, nn.Linear)
        reduced = session.config.trainer.precision == "bf16" and not isinstance(layer, Logit)
        dtype = torch.bfloat16 if reduced else layer.weight.dtype
        bias = None if layer.bias is None else layer.bias.to(dtype)
        found.append((inputs[0].to(dtype), layer.weight.to(dtype), bias))

    layers = [layer for layer in session.model.modules() if isinstance(layer, nn.Linear)]
    watching = [layer.register_forward_hook(watch) for layer in layers]
    with session.scoring():
        session.forward(batch)
    for handle in watching:
        handle.remove()
    if not found:
        raise UserError(f"model {session.config.model['name']} has no matrix products to measure scoring beside")
    return found, batch.size


def _multiplied(products: list[Product], size: int, *, side_by_side: bool = False) -> _Measured:
    """Makes the products alone, again and again: all threads on each, or each thread on batches of its own."""

    @torch.no_grad()
    def multiply() -> None:
        for product in products:
            F.linear(*product)

    with _repeated(torch.get_num_threads() if side_by_side else 1) as repeated:
        repeated(multiply, 1)
        count, began, used = 0, time.perf_counter(), time.process_time()
        while (seconds := time.perf_counter() - began) < PRODUCT_SECONDS:
            count += repeated(multiply, 4)
        return _Measured(count * size, seconds, time.process_time() - used)


@contextmanager
def _repeated(threads: int) -> Iterator[Callable[[Callable[[], None], int], int]]:
    """Yields what does something some times in each of so many threads of one core, and returns how often it did.

    One thread has all cores.
    """
    all_threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(all_threads // threads,)) as pool:

        def repeated(work: Callable[[], None], times: int) -> int:
            list(pool.map(lambda _: work(), range(threads * times)))
            return threads * times

        yield repeated
    torch.set_num_threads(all_threads)
