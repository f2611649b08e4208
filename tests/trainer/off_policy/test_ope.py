"""`shardrec ope` on small logs: a trained model's choices against plain loops, other policies, and bad rows."""

import json
from collections import Counter
from math import exp
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import shardrec
from shardrec.data_pipeline.features.id_transforms import Hash, Identity
from shardrec.trainer.off_policy.estimators import Weighed
from shardrec.trainer.off_policy.weight_facts import WeightFacts
from tests.trainer.command_line import refused
from tests.trainer.command_line import shardrec as command
from tests.trainer.off_policy.small_log import ITEMS, SCHEMA, WITHOUT_CANDIDATES, rows, write
from tests.trainer.small_run import run_file

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of DeepFM on a log's clicks; that log is `data/train` beside it."""
    folder = tmp_path_factory.mktemp("ope")
    write(folder / "data", rows(600, seed=1))
    (folder / "data" / "log").rename(folder / "data" / "train")
    file = run_file(folder / "run.yaml", folder / "data", data={"global_batch_size": 60}, trainer={"epochs": 4})
    return Path(shardrec.train(shardrec.load(file), quiet=True).run_folder)


@pytest.fixture(scope="module")
def judged_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("judged"), rows(300, seed=2))


def ope(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    capsys.readouterr()
    command(monkeypatch, "ope", *arguments, "--json", "--quiet", "--resamples", 50)
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def scored(run: Path, log: Rows) -> list[list[float]]:
    """The model's score of each candidate of each row, as a row of its own."""
    asked = [
        {"user": row["user"], "position": row["position"], "item": item, "age": item / 4, "fit": fit}
        for row in log
        for item, fit in zip(row["candidates"], row["candidates_fit"], strict=True)
    ]
    with shardrec.open(run) as model:
        scores = iter(model.predict(pa.Table.from_pylist(asked))["prediction"].to_pylist())
    return [[next(scores) for _ in row["candidates"]] for row in log]


def worth(log: Rows, probabilities: list[list[float]]) -> tuple[float, float]:
    """IPS and SNIPS by loops."""
    weights = [
        chances[row["candidates"].index(row["item"])] / row["propensity"]
        for row, chances in zip(log, probabilities, strict=True)
    ]
    earned = sum(w * row["click"] for w, row in zip(weights, log, strict=True))
    return earned / len(log), earned / sum(weights)


def test_a_models_choices_are_what_the_loops_say(
    trained: Path, judged_log: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = pq.read_table(judged_log).to_pylist()
    scores = scored(trained, log)
    greedy = [[float(s == max(row)) for s in row] for row in scores]
    soft = [[exp(s / 0.2) / sum(exp(other / 0.2) for other in row) for s in row] for row in scores]
    mixed = [[0.7 * best + 0.3 / len(row) for best in row] for row in greedy]
    assert all(sum(row) == 1 for row in greedy) and len({tuple(row) for row in greedy}) > 5
    for policy, expected in (("greedy", greedy), ("softmax:0.2", soft), ("epsilon-greedy:0.3", mixed)):
        result = ope(monkeypatch, capsys, trained, "--data", judged_log, "--policy", policy, "--reward-model", "model")
        found = result["estimates"]
        assert (found["ips"]["value"], found["snips"]["value"]) == pytest.approx(worth(log, expected), rel=1e-5)
        direct = sum(
            p * s for row, of_row in zip(expected, scores, strict=True) for p, s in zip(row, of_row, strict=True)
        )
        assert found["direct"]["value"] == pytest.approx(direct / len(log), rel=1e-5)
        assert found["direct"]["low"] is None and found["doubly_robust"]["low"] < found["doubly_robust"]["high"]
        assert result["left_out"]["replay"].startswith("rows have 2 to 7 candidates")
        assert result["candidates"] == [2, 7]


def test_a_better_policy_is_found_better(
    trained: Path, judged_log: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model has learned what fits whom; the log chooses at random."""
    out = judged_log.parent / "ope.csv"
    result = ope(monkeypatch, capsys, trained, "--data", judged_log, "--out", out)
    assert (
        result["policy"] == "greedy" and result["estimates"]["snips"]["value"] > result["estimates"]["logged"]["high"]
    )
    lines = out.read_text().splitlines()
    assert lines[0].startswith("policy,estimator,value,low,high") and len(lines) == 1 + len(result["estimates"])
    out.write_text("mine")
    assert "not replaced" in refused(monkeypatch, "ope", trained, "--data", judged_log, "--out", out)


def test_rows_without_candidates_choose_among_all_items(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Items' own features come from the log; what is of user and item together does not."""
    log = write(tmp_path / "log", rows(200, uniform=True), WITHOUT_CANDIDATES)
    line = refused(monkeypatch, "ope", trained, "--data", log)
    assert "feature 'fit' (column 'fit') is of user and item together" in line and "place: candidate, of: fit" in line
    write(tmp_path / "data", rows(300, seed=4), WITHOUT_CANDIDATES)
    (tmp_path / "data" / "log").rename(tmp_path / "data" / "train")
    file = run_file(tmp_path / "run.yaml", tmp_path / "data", trainer={"epochs": 1})
    without = yaml.safe_load(file.read_text())
    without["data"]["features"] = ["user", "position", "item", "age"]
    run = shardrec.train(shardrec.load(without), quiet=True).run_folder
    result = ope(monkeypatch, capsys, run, "--data", log)
    asked = [
        {"user": row["user"], "position": row["position"], "item": item, "age": item / 4}
        for row in pq.read_table(log).to_pylist()
        for item in range(ITEMS)
    ]
    with shardrec.open(run) as model:
        scores = model.predict(pa.Table.from_pylist(asked))["prediction"].to_pylist()
    made = rows(200, uniform=True)
    best = [max(range(ITEMS), key=lambda item: scores[i * ITEMS + item]) for i in range(len(made))]
    matched = [row["click"] for row, item in zip(made, best, strict=True) if row["item"] == item]
    assert result["estimates"]["replay"]["value"] == pytest.approx(sum(matched) / len(matched))
    assert result["candidates"] == [ITEMS, ITEMS] and "replay" not in result["left_out"]


def test_a_candidate_of_which_nothing_is_known_is_one_line(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = [row for row in rows(60, seed=3) if row["item"] != 5]
    at = next(i for i, row in enumerate(log) if 5 in row["candidates"])
    line = refused(monkeypatch, "ope", trained, "--data", write(tmp_path / "log", log), "--quiet")
    assert f"0.parquet, row {at}: a candidate is never shown in the log, so that its 'age' is not known" in line
    log[7]["candidates_fit"] = log[7]["candidates_fit"][1:]
    later = [row | {"time": 9000} for row in rows(60, seed=4, uniform=True)]
    every = write(tmp_path / "every", [*log, *later])
    line = refused(monkeypatch, "ope", trained, "--data", every, "--quiet")
    assert "row 7, column 'candidates_fit': found" in line and "as many as the row has candidates" in line


def test_frequencies_of_another_log(
    judged_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = rows(400, seed=9)
    path = write(tmp_path / "other", other)
    counts = Counter((row["position"], row["item"]) for row in other)
    log = pq.read_table(judged_log).to_pylist()
    seen = [[counts[row["position"], item] for item in row["candidates"]] for row in log]
    expected = worth(log, [[count / sum(row) for count in row] for row in seen])
    found = ope(monkeypatch, capsys, "--data", judged_log, "--policy", f"frequencies:{path}")["estimates"]
    assert (found["ips"]["value"], found["snips"]["value"]) == pytest.approx(expected)
    ids = Identity(num_ids=ITEMS, prepared=Hash(num_ids=ITEMS))
    features = tuple(f.model_copy(update={"ids": ids}) if "item" in (f.name, f.of) else f for f in SCHEMA.features)
    hashed = write(tmp_path / "hashed", other, SCHEMA.model_copy(update={"features": features}))
    line = refused(monkeypatch, "ope", "--data", judged_log, "--policy", f"frequencies:{hashed}")
    assert "feature 'item' has other ids than in" in line and "prepare both logs together" in line
    first = write(tmp_path / "first", [row for row in other if row["position"] == 0])
    line = refused(monkeypatch, "ope", "--data", judged_log, "--policy", f"frequencies:{first}")
    assert "shows none of a row's" in line and "at its position 1" in line


def test_the_uniform_policy_and_another_reward(
    judged_log: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clicks, minutes = (
        ope(monkeypatch, capsys, "--data", judged_log, "--policy", "uniform", *more)["estimates"]
        for more in ((), ("--reward", "minutes"))
    )
    for name in ("logged", "ips", "snips", "doubly_robust"):
        assert minutes[name]["value"] == pytest.approx(3 * clicks[name]["value"])
    log = pq.read_table(judged_log).to_pylist()
    assert clicks["ips"]["value"] == pytest.approx(worth(log, [[1 / len(r["candidates"])] * 7 for r in log])[0])


def test_a_log_of_several_paths_and_groups(
    judged_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each path is in order of time of its own; a user's rows are drawn together, here copies of each other."""
    grouped = write(tmp_path / "grouped", rows(300, seed=2), SCHEMA.model_copy(update={"group": "user"}))
    once, twice = (ope(monkeypatch, capsys, *("--data", grouped) * times, "--policy", "uniform") for times in (1, 2))
    assert (once["rows"], twice["rows"], once["groups"], twice["groups"]) == (300, 600, 20, 20)
    for name in ("logged", "ips", "snips"):
        assert list(twice["estimates"][name].values()) == pytest.approx(list(once["estimates"][name].values()))


def test_worthless_estimates_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = rows(400, uniform=True)
    for row in log:  # item 7 is never shown, and item 0 nearly always
        row["item"], row["propensity"] = (0, 0.97) if row["item"] > 0 or row["time"] % 2 else (1, 0.01)
    path = write(tmp_path / "log", log)
    command(monkeypatch, "ope", "--data", path, "--policy", "uniform", "--resamples", 50)
    printed = capsys.readouterr().out
    assert "warning: the weights are worth" in printed and "rows of 400" in printed
    assert "warning: 75.0% of the policy's choices are actions that the log never shows" in printed
    assert "replay: left out: the log is not uniform: propensities go from 0.01 to 0.97" in printed
    sound = write(tmp_path / "sound", rows(2000, uniform=True))
    assert ope(monkeypatch, capsys, "--data", sound, "--policy", "uniform")["warnings"] == []


def test_one_group_has_no_intervals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Many rows of one user are one draw: of how far chance took it they say nothing, and so do not say `nowhere`."""
    log = write(tmp_path / "one", [row | {"user": 3} for row in rows(200)], SCHEMA.model_copy(update={"group": "user"}))
    printed = json.dumps(found := ope(monkeypatch, capsys, "--data", log, "--policy", "uniform"), allow_nan=False)
    assert found["groups"] == 1 and found["estimates"]["ips"]["value"] > 0 and '"low": 0' not in printed
    assert set(list(found["estimates"]["ips"].values())[1:]) == {None}
    assert [line for line in found["warnings"] if "mean weight" in line] == []
    assert "rows are of 1 group (user)" in found["warnings"][-1]


def test_the_mean_weight_is_that_of_groups() -> None:
    """Three users of 100 rows each do not tell whether it is 1, however sure 300 rows would be."""
    ones, weight = np.ones(300), np.tile([2.8, 0.1, 0.1], 100)
    rows = Weighed(ones, ones, weight, ones, ones, ones.astype(int))
    few, many = (WeightFacts.of(rows, 0.0, group) for group in (np.arange(300) % 3, None))
    assert many.mean == pytest.approx(1) and few.mean_low < 0 < 0.7 < many.mean_low < 1 < few.mean_high


BAD_ROWS: dict[str, tuple[dict[str, Any], str]] = {
    "zero": ({"propensity": 0.0}, "column 'propensity': found 0.0, expected a probability above 0 and at most 1"),
    "negative": ({"propensity": -0.1}, "column 'propensity': found -0.1, expected a probability above 0"),
    "tiny": ({"propensity": 1e-300}, "column 'propensity': found 1e-300, expected a probability with which anything"),
    "over 1": ({"propensity": 1.01}, "column 'propensity': found 1.01, expected a probability above 0"),
    "missing": ({"propensity": None}, "column 'propensity': found null, expected a probability above 0"),
    "nan": ({"propensity": float("nan")}, "column 'propensity': found nan, expected a probability above 0"),
    "stranger": ({"candidates": [6, 7], "item": 1}, "found 2 candidates without 1, expected the row's action among"),
    "empty": ({"candidates": []}, "column 'candidates': found no candidates, expected at least the action"),
    "null": ({"candidates": None}, "column 'candidates': found no candidates, expected at least the action"),
    "out of order": (
        {"time": 5},
        "column 'time': found 5, expected 1030 or later, as the row before has; sort the log",
    ),
    "no time": ({"time": None}, "column 'time': found null, expected a time"),
    "no reward": ({"click": None}, "column 'click': found null, expected a finite number"),
    "unknown item": ({"item": 99}, "column 'item': found 99, expected an id in [0, 8)"),
}


@pytest.mark.parametrize("bad", BAD_ROWS)
def test_a_bad_row_is_one_line(bad: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, (changed, expected) = rows(40), BAD_ROWS[bad]
    log[31] |= changed
    line = refused(monkeypatch, "ope", "--data", write(tmp_path / "log", log), "--policy", "uniform", "--quiet")
    assert "0.parquet, row 31" in line and expected in line


def test_what_is_asked_for_wrongly_is_one_line(
    judged_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def line(*arguments: object, data: Path = judged_log, policy: str = "uniform") -> str:
        return refused(monkeypatch, "ope", "--data", data, "--policy", policy, "--quiet", *arguments)

    assert "--policy: found 'best', expected greedy, softmax:T" in line(policy="best")
    assert "--policy: found 'softmax:0'" in line(policy="softmax:0")
    assert "--policy: found 'epsilon-greedy:2'" in line(policy="epsilon-greedy:2")
    assert "chooses by a model's scores; name the run folder" in line(policy="greedy")
    assert "is a trained model's prediction; name the run folder" in line("--reward-model", "model")
    assert "--reward: unknown label 'clicks'" in line("--reward", "clicks")
    assert "--estimators: unknown estimator 'ipx'" in line("--estimators", "ipx")
    assert "--estimators replay: rows have" in line("--estimators", "replay")
    assert "--action candidates: is of kind sequence, expected one id a row" in line("--action", "candidates")
    assert "--position age: expected a feature of one id a row" in line("--position", "age")
    assert "--confidence: found 95.0" in line("--confidence", 95)
    assert "no such Parquet file" in line(data=tmp_path / "none", policy="uniform")
    plain = write(tmp_path / "plain", rows(5), SCHEMA.model_copy(update={"propensity": None}))
    assert "plain/schema.yaml: found no `propensity`" in line(data=plain)
    named = write(tmp_path / "named", [row | {"candidates": [str(i) for i in row["candidates"]]} for row in rows(5)])
    assert "column 'candidates' is string, but feature 'candidates' expects integers" in line(data=named)
    single = write(tmp_path / "single", [row | {"candidates": row["item"]} for row in rows(5)])
    assert "column 'candidates' is int64, but feature 'candidates' (candidates) expects lists" in line(data=single)
    assert "there is no folder" in line("--out", tmp_path / "nowhere" / "out.csv")
    words = write(tmp_path / "words", [row | {"propensity": "0.5"} for row in rows(5)])
    assert "column 'propensity' is string, but the propensity expects numbers" in line(data=words)
    (plain.parent / "schema.yaml").unlink()
    assert "no schema.yaml beside the log" in line(data=plain)
    assert "--policy: name a run folder, or a policy without a model" in refused(monkeypatch, "ope", "--data", plain)
