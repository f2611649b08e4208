"""Policies by nets of values: what they choose by, what their major updates start from, and that they resume."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import shardrec
from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.config.load import load
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.session.blueprint import build_model
from shardrec.trainer.simulation.episode import Episode, episode_folder
from shardrec.trainer.simulation.lived_days import LivedDays
from shardrec.trainer.simulation.log_schema import ACTION_IDS, ACTION_NUMBERS, STATE_IDS, log_schema, state_numbers
from shardrec.trainer.simulation.neural import KINDS
from shardrec.trainer.simulation.run_file import SimulationConfig, load_simulation
from shardrec.trainer.simulation.value_net import ValueNet
from shardrec.trainer.simulation.world import Requests
from tests import ROOT
from tests.damaged_json import damaged
from tests.trainer.command_line import refused
from tests.trainer.recorded import assert_same_checkpoint, tower

DAYS = 3


def config(run: Path, **simulation: Any) -> SimulationConfig:
    settings = {"users": 80, "days": DAYS, "tick_minutes": 120, "minor_minutes": 120, "candidates": 8, "shown": 3}
    return SimulationConfig.model_validate(
        {
            "run": str(run),
            "simulation": settings | {"news": {"per_day": 12}, "major_log_days": 2} | simulation,
            "model": {
                "name": "drn",
                "embedding_dim": 4,
                "mlp": {"hidden": [8]},
                "rewards": {"click": 1.0, "activeness": 0.05},
            },
            "data": {"global_batch_size": 64},
            "optimizer": {"tower": {"name": "adam", "learning_rate": 0.01}},
            "trainer": {"tensorboard": False},
            "launch": {"threads": 1},
        }
    )


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an episode of `drn`."""
    run = tmp_path_factory.mktemp("lived") / "run"
    Episode(config(run), "drn", 1).run()
    return episode_folder(run, "drn", 1)


def run_of(episode: Path, day: int) -> RunFolder:
    return RunFolder.open(episode / f"policy/major-{day}")


def logged(episode: Path, day: int) -> tuple[Requests, np.ndarray]:
    """The first places of a day's lists as requests, with all their candidates; and which of these each shows."""
    rows = pq.read_table(episode / f"log/day-{day:04d}.parquet", filters=[("position", "=", 0)])
    state = {name: rows[name].to_numpy() for name in (*STATE_IDS, *state_numbers(config(episode).simulation))}
    names = {"news": "candidates"} | {n: f"candidates_{n}" for n in (*ACTION_IDS[1:], *ACTION_NUMBERS)}
    actions = {of: np.stack(rows[name].to_numpy()) for of, name in names.items()}
    place = (actions["news"] == rows["news"].to_numpy()[:, None]).argmax(1)
    return Requests(state["user"], state, actions["news"], actions, 0.0), place


def test_settings_that_make_no_net_are_one_line_before_the_first_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They cannot be mended by --resume, which takes no other settings: so days must not be lived through first."""
    (path := tmp_path / "run.yaml").write_text(config(tmp_path / "run", policies=["random", "ddqn"]).dump())

    def line(*settings: str) -> str:
        return refused(monkeypatch, "simulate", path, *(part for s in settings for part in ("--set", s)))

    assert "drn: rewards: unknown label 'clck'; did you mean 'click'?" in line("model.rewards={clck: 1}")
    assert "unknown feature 'agee'" in line("model.action=[news, agee]")
    assert "ddqn learns from all of model.rewards but activeness" in line("model.rewards={activeness: 1}")
    assert not (tmp_path / "run").exists()


def test_days_on_which_nobody_came_back_are_not_trained_on(tmp_path: Path) -> None:
    """Three users come once in days: there is nothing to learn from at first, and nothing new on the last day."""
    rare = {"hazard": 6e-6, "lost_days": 100}
    Episode(config(tmp_path / "run", users=3, major_log_days=None, returns=rare), "drn", 1).run()
    folder = episode_folder(tmp_path / "run", "drn", 1)
    rows = [pq.read_metadata(folder / f"log/day-{day:04d}.parquet").num_rows for day in (1, 2, 3)]
    assert rows[0] == rows[2] == 0 < rows[1] and not (folder / "policy/major-1").exists()
    assert [Path(file).name for file in run_of(folder, 3).config().data.train] == ["day-0002.parquet"]


def test_values_are_the_models_predictions(lived: Path) -> None:
    """The value of a logged action among the candidates of its request, beside what `predict` says of the row."""
    requests, place = logged(lived, 3)
    folder = run_of(lived, 2)
    net = ValueNet(folder, folder.steps()[0])
    (values,) = net.values(requests)
    with shardrec.open(folder.path, folder.steps()[0]) as model:
        rows = pq.read_table(lived / "log/day-0003.parquet")
        predicted = model.predict(rows)["prediction"].to_numpy()[rows["position"].to_numpy() == 0]
    assert len(predicted) > 30 and predicted.std() > 1e-3
    assert values[np.arange(len(place)), place] == pytest.approx(predicted, abs=1e-5)
    doubled = {name: 2 * weight.detach() for name, weight in net.parameters.items()}
    again, others = net.values(requests, doubled)
    assert (again == values).all() and abs(others - values).max() > 1e-3


def test_lists_are_drawn_before_the_first_major_update_and_interleaved_after_it(lived: Path) -> None:
    first, later = (pq.read_table(lived / f"log/day-000{day}.parquet") for day in (1, 3))
    left = 8 - first["position"].to_numpy()
    assert first["propensity"].to_numpy() == pytest.approx(1 / left)
    asked_later = later["requested"].to_numpy() >= 86_400
    assert set(later["propensity"].to_numpy()[asked_later]) == {0.5, 1.0}


def test_a_major_update_goes_on_from_the_last_one_as_duels_have_moved_it(lived: Path) -> None:
    before, after = run_of(lived, 2), run_of(lived, 3)
    trained, moved = (tower(before.checkpoint(step)) for step in before.steps())
    changed = {name for name in trained if not torch.equal(trained[name], moved[name])}
    assert changed == {name for name in trained if name.startswith("tower/model.online.")}
    assert load(after.config_file, vouched=False).init_from[0].run == str(before.path)
    paths = [Path(str(path)).name for path in load(after.config_file, vouched=False).data.split("train") or ()]
    assert paths == ["day-0002.parquet", "day-0003.parquet"]


def test_an_episode_that_was_broken_off_ends_as_one_that_was_not(lived: Path, tmp_path: Path) -> None:
    class StoppedError(Exception):
        pass

    def stop(days: int) -> None:
        if days == 2:
            raise StoppedError

    broken = config(tmp_path / "run")
    with pytest.raises(StoppedError):
        Episode(broken, "drn", 1).run(stop)
    episode = episode_folder(broken.run, "drn", 1)
    for name in ("net.safetensors", "state.json"):  # a damaged one is said to be, in a line
        kept = (file := episode / "state/day-0002/policy" / name).read_bytes()
        file.write_bytes(kept[:5])
        with pytest.raises(UserError, match=r"day-0002: not what a day .* to begin it anew$"):
            Episode(broken, "drn", 1)
        file.write_bytes(kept)
    state, days = (episode / "state/day-0002" / name for name in ("policy/state.json", "episode.json"))
    kept = state.read_text()
    for _, content in damaged(json.loads(kept)):
        state.write_text(json.dumps(content))
        with suppress(UserError):  # some are what another day leaves
            Episode(broken, "drn", 1)
    state.write_text(kept)
    for done, content in damaged(json.loads(days.read_text())):
        if not done.endswith(" -1") and done not in ("rows.0 gone", "rows.1 gone"):
            with pytest.raises(ValueError, match=r"^(rows|cpu_seconds)[^\n]*$"):
                LivedDays.of(content)
    Episode(broken, "drn", 1).run()
    for day in range(1, DAYS + 1):
        there, here = (pq.read_table(of / f"log/day-{day:04d}.parquet") for of in (lived, episode))
        assert there.equals(here), day
    one, other = run_of(lived, 3), run_of(episode, 3)
    assert one.steps() == other.steps()
    assert_same_checkpoint(one.checkpoint(max(one.steps())), other.checkpoint(max(one.steps())))


def test_the_ready_run_file_names_what_the_log_has() -> None:
    """Its model is made of the log's schema; a pattern that matches nothing is an error."""
    ready = load_simulation(ROOT / "trainer/runs/simulate_news.yaml")
    model = build_model(ready, log_schema(ready.simulation))
    assert set(KINDS) <= set(ready.simulation.policies)
    assert "news" in model.tables and "user" not in model.tables


@pytest.mark.parametrize("name", KINDS)
def test_kinds_differ_in_target_reward_and_exploration(name: str) -> None:
    settings = KINDS[name].settings({"rewards": {"click": 1.0, "activeness": 0.05}})
    assert settings["double"] == (name != "dqn")
    assert ("activeness" in settings["rewards"]) == (name in ("drn", "drn_no_dbgd", "drn_epsilon"))
    duels = name in ("drn", "drn_no_activeness")
    assert KINDS[name].explores == ("duel" if duels else "never" if name == "drn_no_dbgd" else "epsilon")
