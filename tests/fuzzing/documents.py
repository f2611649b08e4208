"""Run files, overrides and schemas, broken at random: as values of the document, and as bytes of the file."""

import copy
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.schema import Schema
from shardrec.trainer.config.load import load
from shardrec.trainer.config.model_settings import model_settings
from shardrec.trainer.config.stages import resolve_stages
from shardrec.trainer.planning.machines import Machines
from shardrec.trainer.planning.report import planned_runs

LONGEST_LINE = 3000
"""Characters of an error line, at most."""

LONGEST_SECONDS = 60.0
"""A case takes milliseconds; one of minutes has no bound, however busy the machine is."""

PRICES = [{"kind": "log"}, {"kind": "clip", "low": 0, "high": 3}]
SCHEMA: dict[str, Any] = {
    "features": [
        {"kind": "id", "name": "user", "ids": {"kind": "identity", "num_ids": 9}, "role": "user"},
        {"kind": "id", "name": "item", "ids": {"kind": "hash", "num_ids": 90, "seed": 3}, "missing": "row"},
        {"kind": "id", "name": "hour", "ids": {"kind": "bucketize", "boundaries": [6, 12.5]}},
        {"kind": "id", "name": "both", "ids": {"kind": "cross", "columns": ["user", "item"], "num_ids": 99}},
        {"kind": "id_list", "name": "tags", "ids": {"kind": "hash", "num_ids": 9}, "weights": "w", "max_length": 4},
        {
            "kind": "id_list",
            "name": "pairs",
            "max_length": 9,
            "ids": {
                "kind": "feature_cross",
                "num_ids": 50,
                "features": [
                    {"name": "user", "ids": {"kind": "identity", "num_ids": 9}},
                    {"kind": "id_list", "name": "tags", "ids": {"kind": "hash", "num_ids": 9}, "weights": "w"},
                ],
            },
        },
        {"kind": "sequence", "name": "seen", "ids": {"kind": "hash", "num_ids": 90}, "max_length": 5, "aligned": "a"},
        {"kind": "dense", "name": "price", "transforms": PRICES},
        {"kind": "dense_sequence", "name": "paid", "transforms": [{"kind": "log"}], "max_length": 5, "aligned": "a"},
        {"kind": "dense", "name": "next_price", "place": "next", "of": "price", "transforms": PRICES},
        {
            **{"kind": "sequence", "name": "shown", "ids": {"kind": "hash", "num_ids": 90}, "missing": "row"},
            **{"table": "item", "place": "candidate", "of": "item", "max_length": 5, "aligned": "c"},
        },
        {
            **{"kind": "dense_sequence", "name": "prices", "place": "candidate", "of": "price", "missing": 0},
            **{"max_length": 5, "aligned": "c", "transforms": PRICES},
        },
    ],
    "labels": [{"name": "click", "threshold": 0.5}],
    "group": "user",
    "keys": ["row"],
    "propensity": "p",
    "time": "t",
}
OWN: dict[str, Any] = {"parameters": {"linear.*": {"name": "ftrl", "l1": 0.1}}}
RUN: dict[str, Any] = {
    "run": "RUN",
    "data": {"path": "DATA", "global_batch_size": 64, "features": ["user", "item"], "share": {}, "memory": "512MB"},
    "model": {"name": "deepfm", "embedding_dim": 4, "mlp": {"hidden": [8, 4], "dropout": 0.1}},
    "tables": {"*": {"dtype": "fp16", "optimizer": {"name": "adagrad", "learning_rate": 0.1}}, "user": {"init": {}}},
    "optimizer": {
        "tables": {"name": "sgd"},
        "tower": {"name": "adam", "betas": [0.9, 0.99], "weight_decay": 0.1, **OWN},
    },
    "trainer": {"epochs": 2, "seed": 1, "early_stopping": {"metric": "auc", "patience": 2}, "checkpoint": {"keep": 2}},
    "launch": {"workers": 1, "threads": 1, "memory": "4GB", "timeout": 60, "rates": {"latency": 1e-4}},
    "stages": [{"name": "first"}, {"name": "second", "init_from": {"stage": "first", "tables": {"user": None}}}],
    "variants": {"small": {"model": {"embedding_dim": 2}}},
}
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 2**64, 10**30, 0.5, -0.0, 1e308, float("inf"), float("nan")),
    *("", " ", "x", "x\0y", "\n", "..", "../../x", "/", "*", "a[0]", "~", "type", "字" * 80, "x" * 20_000, "1e400GB"),
    *([], {}, [[]], [None], {"": None}, {"name": None}, [1, "a"], {"kind": "hash"}, {"kind": []}, {"x": {"y": 1}}),
    *([10**9, 10**9], [0] * 5000, ["user"] * 3, {str(i): i for i in range(300)}, {1: 2}, {None: 1}),
)
TOKENS = (
    *("{", "}", "[", "]", ":", "- ", "&a ", "*a", "<<: *a\n", "!!int ", "!!python/object:os.system ", "|", ">", "%"),
    *("\t", "\n", "\r", '"', "'", "\x00", "\x7f", "\ufeff", "\u2028", "é", '"\\ud800"', '"\\0"', "? ", "---\n", "#"),
    *("[" * 3000, "{a: " * 400, "9" * 6000, "0x" + "f" * 500, "1:" * 200 + "1", "2024-99-99", "=", ".inf", "1e999"),
)


def _nested(line: str, inside: str) -> str:
    """Returns a document of a few hundred bytes in which each of nine values holds nine times the one before."""
    lines = [line.format(1, inside)]
    lines += [line.format(n, ", ".join([f"*v{n - 1}"] * 9)) for n in range(2, 10)]
    return "".join(lines)


BOMBS = (
    _nested("v{0}: &v{0} [{1}]\n", "x"),
    "v0: &v0 {k: 1}\n" + _nested("v{0}: &v{0} {{<<: [{1}]}}\n", "*v0"),
    "a: &a {x: *a}\n",
    "stages: " + "[" * 5000 + "\n",
)
"""Little text that means much."""


def run_file(chance: random.Random) -> None:
    """Breaks a run file, or an override of it, and plans it. Raises for anything but a line of error."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        data.mkdir()
        (data / "schema.yaml").write_text(yaml.safe_dump(SCHEMA))
        run = {**copy.deepcopy(RUN), "run": f"{folder}/run"}
        run["data"]["path"] = str(data)
        if chance.random() < 0.5:
            del run["stages"]
        path, overrides = Path(folder, "run.yaml"), []
        if chance.random() < 0.2:
            value = yaml.safe_dump(chance.choice(VALUES), default_flow_style=True).removesuffix("...\n")
            overrides = [f"{'.'.join(map(str, chance.choice(list(_places(run)))))}={_broken_text(value, chance)}"]
            path.write_text(yaml.safe_dump(run))
        else:
            path.write_bytes(_broken(run, chance))
        _tried(lambda: _planned(path, overrides, chance.choice((None, None, "small", "fm"))))


def schema(chance: random.Random) -> None:
    """Breaks a schema, and reads it, writes it and reads it again. Raises for anything but a line of error."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "schema.yaml")
        path.write_bytes(_broken(copy.deepcopy(SCHEMA), chance))

        def read_and_written() -> None:
            read = Schema.load(path)
            read.save(path)
            assert Schema.load(path) == read
            read.raw()

        _tried(read_and_written)


def _planned(path: Path, overrides: list[str], variant: str | None) -> None:
    config = load(path, overrides, variant=variant)
    copied = path.with_name("copy.yaml")
    copied.write_text(config.dump())
    assert load(copied).dump() == config.dump()
    for stage in resolve_stages(config).values() or [config]:
        if stage.model["name"].count(":"):
            return  # a module of somebody's
        model_settings(stage)
    machines = Machines(hosts=2, devices=2, device="cpu", host_memory="64GB")
    for planned in planned_runs(config, machines):
        planned.report()


def _tried(work: Callable[[], None]) -> None:
    began = time.monotonic()
    try:
        work()
    except UserError as error:
        line = str(error)
        assert len(line) <= LONGEST_LINE and "\0" not in line, f"a line of {len(line)}: {line[:300]}"
    assert time.monotonic() - began < LONGEST_SECONDS, f"took {time.monotonic() - began:.0f} s"


def _broken(document: dict[str, Any], chance: random.Random) -> bytes:
    kind = chance.random()
    if kind < 0.55:
        for _ in range(chance.randint(1, 2)):
            _change(document, chance)
        return yaml.safe_dump(document, sort_keys=False).encode()
    text = yaml.safe_dump(document, sort_keys=False, default_flow_style=None)
    if kind < 0.6:
        return (text + chance.choice(BOMBS)).encode() if chance.random() < 0.5 else chance.choice(BOMBS).encode()
    broken = _broken_text(text, chance).encode()
    if kind > 0.9 and broken:
        at = chance.randrange(len(broken))
        broken = broken[:at] + bytes([chance.randrange(256)]) + broken[at + 1 :]
    return broken


def _broken_text(text: str, chance: random.Random) -> str:
    for _ in range(chance.randint(0, 2)):
        at = chance.randint(0, len(text))
        to = min(len(text), at + chance.choice((0, 0, 1, 3, 20, 200)))
        put = chance.choice((*TOKENS, "", text[at:to] * 2))
        text = text[:at] + put + text[to:]
    return text


def _places(document: Any, inside: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    pairs = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in list(pairs):
        yield (*inside, key)
        if isinstance(value, dict | list):
            yield from _places(value, (*inside, key))


def _change(document: dict[str, Any], chance: random.Random) -> None:
    """Replaces, removes, copies or renames one value."""
    places = list(_places(document))
    if not places:
        return
    *way, last = chance.choice(places)
    node: Any = document
    for part in way:
        node = node[part]
    what = chance.random()
    if what < 0.75:
        node[last] = copy.deepcopy(chance.choice(VALUES))
    elif what < 0.85:
        del node[last]
    elif isinstance(node, dict):
        node[chance.choice(("x", "nam", f"{last}s", "", 1, "type", "字"))] = node.pop(last)
    else:
        node.extend(copy.deepcopy(node))
