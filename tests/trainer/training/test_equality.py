"""One process and 2 to 4 gloo processes do the same thing, under every placement; Ray, too: `test_on_ray.py`."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml

from tests.trainer.recorded import train, train_in_processes, whole_tables
from tests.trainer.small_run import run_file, write_data

STEPS = 24
ROWS = 1200
PLACEMENTS = ("data_parallel", "table_wise", "row_wise", "column_wise")
OF_HOSTS = ("table_row_wise", "grid", "row_wise", "table_row_wise")  # in their place on two hosts of two
# smooth: at a ReLU's kink a rounding error would be as large as a gradient
PLAIN = {
    "model": {"mlp": {"hidden": [16, 8], "activation": "tanh"}},
    "trainer": {"epochs": 8, "max_steps": STEPS, "matmul_precision": "highest", "evaluation": {"every_epochs": None}},
}
FTRL = "{name: ftrl, learning_rate: 0.1, l1: 0.1}"
# every table under every placement on two ranks, every placement and optimizer on more
CASES = {
    2: [("sgd", 0), ("adagrad", 1), ("sgd", 2), ("adagrad", 3)],
    3: [("sgd", 0), ("adagrad", 1)],
    4: [("sgd", 2), ("adagrad", 3)],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("equality") / "data", rows=ROWS)


def overrides(folder: Path, optimizer: str, turn: int = 0, placements: tuple[str, ...] = PLACEMENTS) -> tuple[str, ...]:
    """One run; each table has another placement, and each turn gives every table the next one. FTRL has one of them,
    and the linear part: what it multiplies gradients by is the same on all ranks. One decays by counts of all ranks'
    rows.
    """
    rate, eps = (0.5, "") if optimizer == "sgd" else (0.05, ", eps: 1e-3")
    placed = {table: placements[(i + turn) % 4] for i, table in enumerate(("user", "item", "kind", "tags", "shelves"))}
    settings = {name: f"placement: {p}" for name, p in placed.items()}
    settings["user"] += ", dynamic: {rows: 120, after: 2}"  # of 301 users
    settings["item"] += f", optimizer: {FTRL}"
    settings["tags"] += (
        f", optimizer: {{name: {optimizer}, learning_rate: {rate}{eps}, weight_decay: 1, decay: frequency}}"
    )
    return (
        f"run={folder}/{optimizer}-{turn}",
        "tables={" + ", ".join(f"{name}: {{{said}}}" for name, said in settings.items()) + "}",
        f"optimizer.tables={{name: {optimizer}, learning_rate: {rate}{eps}}}",
        f"optimizer.tower={{name: {optimizer}, learning_rate: 0.05, eps: 1e-3, parameters: {{linear.*: {FTRL}}}}}",
    )


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("alone")
    path = run_file(folder / "run.yaml", data, **PLAIN)
    found = {}
    for optimizer in ("sgd", "adagrad"):
        result = train(path, overrides(folder, optimizer))
        found[optimizer] = result, whole_tables(folder / f"{optimizer}-0/checkpoints/step-{STEPS}")
    return found


@pytest.fixture(scope="module")
def spawned(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], tuple[Path, list[dict]]]:
    """world size -> a folder and what so many processes made of `CASES` there."""

    @cache
    def trained(world_size: int) -> tuple[Path, list[dict]]:
        folder = tmp_path_factory.mktemp(f"on_{world_size}")
        placements = OF_HOSTS if world_size == 4 else PLACEMENTS
        runs = [overrides(folder, *case, placements) for case in CASES[world_size]]
        return folder, train_in_processes(world_size, run_file(folder / "run.yaml", data, **PLAIN), *runs)

    return trained


@pytest.mark.parametrize("world_size", [2, pytest.param(3, marks=pytest.mark.long), 4])
def test_every_placement_and_world_size_trains_alike(world_size: int, spawned: Callable, alone: dict) -> None:
    folder, results = spawned(world_size)
    cases = CASES[world_size]
    for (optimizer, turn), result in zip(cases, results[: len(cases)], strict=True):
        expected, tables = alone[optimizer]
        assert result["batches"] == expected["batches"]
        assert result["losses"] == pytest.approx(expected["losses"], abs=1e-5), (optimizer, turn)
        found = whole_tables(folder / f"{optimizer}-{turn}/checkpoints/step-{STEPS}")
        for name, tensors in tables.items():
            wrong = (found[name]["weight"] - tensors["weight"]).abs().max().item()
            assert wrong < 1e-5, (optimizer, turn, name)
        assert torch.equal(found["tags"]["samples"], tables["tags"]["samples"])


def test_an_epoch_holds_every_row_once(alone: dict) -> None:
    batches = alone["sgd"][0]["batches"]
    rows = ROWS + 1  # two files of rows // 2 and one more
    steps = -(-rows // 240)
    for start in range(0, 3 * steps, steps):
        assert sorted(row for batch in batches[start : start + steps] for row in batch) == list(range(rows))


def test_weights_matter(data: Path, tmp_path: Path) -> None:
    """The weights in the data reach the loss: without them training differs."""
    schema = yaml.safe_load((data / "schema.yaml").read_text())
    del schema["weight"]
    (tmp_path / "schema.yaml").write_text(yaml.safe_dump(schema))
    short = {"trainer": {"epochs": 1, "max_steps": 2}}
    weighted = train(run_file(tmp_path / "a.yaml", data, **short))
    plain = train(run_file(tmp_path / "b.yaml", data, **short, data={"schema": str(tmp_path / "schema.yaml")}))
    assert weighted["batches"] == plain["batches"]
    assert not torch.tensor(weighted["losses"]).allclose(torch.tensor(plain["losses"]))
