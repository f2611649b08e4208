"""The log: transitions that fit together, read by its own schema, the same for the same seed, and good to train on."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from shardrec.data_pipeline.features.schema import Schema
from shardrec.trainer.config.load import load
from shardrec.trainer.simulation.activeness import ActivenessConfig
from shardrec.trainer.simulation.episode import Episode
from shardrec.trainer.training.train_run import train_run
from tests.trainer.simulation.small_world import SMALL, config


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log of three days."""
    episode = Episode(config(tmp_path_factory.mktemp("simulation")), "random", 7)
    episode.run()
    return episode.log.folder


def rows_of(log: Path) -> list[dict[str, Any]]:
    files = sorted(log.glob("day-*.parquet"))
    assert [file.name for file in files] == [f"day-000{day}.parquet" for day in (1, 2, 3)]
    return pa.concat_tables([pq.read_table(file) for file in files]).to_pylist()


def test_rows_are_written_once_what_followed_is_known(log: Path) -> None:
    """In order of the time at which it was; a user's next state is the one of that user's next request."""
    rows, schema = rows_of(log), Schema.load(log / "schema.yaml")
    assert set(rows[0]) == {c for f in (*schema.features, *schema.labels) for c in f.columns} | {
        "propensity",
        "time",
        "requested",
        "position",
    }
    times = [row["time"] for row in rows]
    assert times == sorted(times) and all(row["requested"] < row["time"] for row in rows)
    by_user: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        if row["position"] == 0:
            by_user.setdefault(row["user"], []).append(row)
    followed = 0
    state = schema.places("next")
    shown_next = {schema.places("next_candidate")[of]: at for of, at in schema.places("candidate").items()}
    for visits in by_user.values():
        for one, other in pairwise(visits):
            if one["terminal"]:
                continue
            followed += 1
            assert one["time"] == other["requested"]
            assert all(one[after] == other[now] for now, after in state.items())
            assert all(one[after] == other[now] for after, now in shown_next.items())
    assert followed > 100


def test_what_was_shown_was_a_candidate_with_the_same_features(log: Path) -> None:
    places = Schema.load(log / "schema.yaml").places("candidate")
    lists: dict[tuple[int, float], list[int]] = {}
    for row in rows_of(log):
        place = row["candidates"].index(row["news"])
        assert all(row[of_list][place] == row[now] for now, of_list in places.items())
        assert len(row["candidates"]) == SMALL["candidates"] - row["position"]
        assert row["propensity"] == 1 / len(row["candidates"])
        above = lists.setdefault((row["user"], row["requested"]), [])
        assert not set(above) & set(row["candidates"])
        above.append(row["news"])
    assert all(len(news) == len(set(news)) == SMALL["shown"] for news in lists.values())


def test_activeness_is_that_right_after_the_next_return(log: Path) -> None:
    """By the paper's rule, in a plain loop over each user's visits."""
    paper, value, since = ActivenessConfig(), {}, {}
    endings = 0
    for row in sorted(rows_of(log), key=lambda row: (row["requested"], row["position"])):
        user, began, ended = row["user"], row["requested"], row["time"]
        if since.get(user) != began:
            before = value.get(user, paper.start) * np.exp(-paper.hazard * (began - since.get(user, 0.0)))
            assert row["activeness_before"] == pytest.approx(before, rel=1e-6)
            value[user], since[user] = min(1.0, before + paper.gain), began
        faded = value[user] * np.exp(-paper.hazard * (ended - began))
        expected = faded if row["terminal"] else min(1.0, faded + paper.gain)
        assert row["activeness"] == pytest.approx(expected, rel=1e-6)
        endings += row["terminal"]
    assert endings


def test_users_who_stay_away_end_their_transitions(log: Path) -> None:
    ended = [row for row in rows_of(log) if row["terminal"]]
    limit = 86_400 * SMALL["returns"]["lost_days"]
    assert ended and all(row["next_candidates"] == [] for row in ended)
    assert all(row["time"] - row["requested"] >= limit and row["time"] % 86_400 == 0 for row in ended)
    assert all(row["time"] - row["requested"] < limit + 86_400 for row in rows_of(log))


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(log: Path, tmp_path: Path) -> None:
    for name, seed in (("same", 7), ("other", 8)):
        episode = Episode(config(tmp_path / name, days=3), "random", seed)
        episode.run()
        file = episode.log.folder / "day-0002.parquet"
        assert (file.read_bytes() == (log / "day-0002.parquet").read_bytes()) == (name == "same")


def test_a_model_trains_on_the_log_as_it_is(log: Path, tmp_path: Path) -> None:
    run_file = tmp_path / "run.yaml"
    content = {
        "run": str(tmp_path / "run"),
        "data": {
            "train": [str(log / "day-0001.parquet"), str(log / "day-0002.parquet")],
            "validation": str(log / "day-0003.parquet"),
            "schema": str(log / "schema.yaml"),
            "global_batch_size": 256,
        },
        "model": "lr",
        "trainer": {"max_steps": 2, "tensorboard": False},
        "launch": {"workers": 1, "device": "cpu"},
    }
    run_file.write_text(yaml.safe_dump(content))
    summary = train_run(load(run_file), quiet=True)
    assert summary is not None and 0 < summary["metrics"]["validation"]["log_loss"] < 1
