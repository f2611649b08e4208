"""Commands on runs in an object store: they print and write what they do of the same run in a folder."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import shardrec as library
from shardrec.trainer.run_folder import synced
from tests.object_store import BUCKET, ObjectStore
from tests.trainer.command_line import refused, shardrec
from tests.trainer.small_run import run_file, write_data

SETTINGS = {"trainer": {"epochs": 1, "checkpoint": {"every_steps": 5}}, "model": {"mlp": {"hidden": [8]}}}


@pytest.fixture(scope="module")
def runs(store_server: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The same run in a store, by its URI, and in a folder."""
    folder = tmp_path_factory.mktemp("commands")
    data, uri = write_data(folder / "data", rows=1200), f"s3://{BUCKET}/{folder.name}/run"
    with store_server.seen(folder / "mirrors"):
        library.train(run_file(folder / "disk.yaml", data, **SETTINGS), quiet=True)
        library.train(run_file(folder / "store.yaml", data, run=uri, **SETTINGS), quiet=True)
    with store_server.seen(folder / "another machine"):
        synced._seen.clear()
        yield uri, folder / "disk"


def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object) -> str:
    shardrec(monkeypatch, *words)
    return capsys.readouterr().out


def test_evaluates_predicts_and_exports(
    runs: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    uri, disk = runs
    told = [printed(monkeypatch, capsys, "evaluate", run, "--quiet") for run in runs]
    assert told[0].replace(uri, "") == told[1].replace(str(disk), "") and uri in told[0]
    for name, run in (("a", uri), ("b", disk)):
        data = disk.parent / "data" / "test"
        shardrec(monkeypatch, "predict", run, "--data", data, "--out", tmp_path / name, "--quiet", "--rows", "int8")
        shardrec(monkeypatch, "export", run, "--out", tmp_path / f"bundle-{name}")
        shardrec(monkeypatch, "checkpoint", "export", run, "--table", "item", "--out", tmp_path / f"item-{name}")
    for a, b in (("a", "b"), ("item-a", "item-b")):
        assert pq.read_table(tmp_path / a).equals(pq.read_table(tmp_path / b))
    tables = [sorted((tmp_path / name / "tables").iterdir()) for name in ("bundle-a", "bundle-b")]
    assert tables[0] and [p.read_bytes() for p in tables[0]] == [p.read_bytes() for p in tables[1]]


def test_looks_into_tables_and_checkpoints(
    runs: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    uri, disk = runs
    for words in (("tables",), ("checkpoint", "show"), ("checkpoint", "show", "--step", "5")):
        told = [json.loads(printed(monkeypatch, capsys, *words, run, "--json")) for run in runs]
        assert {k: v for k, v in told[0].items() if k != "checkpoint"} == {
            k: v for k, v in told[1].items() if k != "checkpoint"
        }
    assert "equal: 5 table(s)" in printed(
        monkeypatch, capsys, "checkpoint", "diff", f"{uri}/checkpoints/step-5", disk / "checkpoints" / "step-5"
    )
    vectors = tmp_path / "vectors"
    shardrec(monkeypatch, "checkpoint", "export", disk, "--table", "item", "--out", vectors, "--step", 5)
    shardrec(monkeypatch, "checkpoint", "import", uri, "--table", "item", "--data", vectors, "--out", tmp_path / "made")
    assert library.open(tmp_path / "made").table("item").equals(library.open(uri, step=5).table("item"))


def test_python_opens_it_and_another_run_starts_from_it(runs: tuple[str, Path], tmp_path: Path) -> None:
    uri, disk = runs
    rows = pq.read_table(disk.parent / "data" / "test")
    with library.open(uri) as here, library.open(disk) as there:
        assert here.predict(rows).equals(there.predict(rows))
    made = []
    for run in (uri, str(disk)):
        path = run_file(tmp_path / f"{len(made)}.yaml", disk.parent / "data", init_from={"run": run}, **SETTINGS)
        made.append(library.train(path, quiet=True))
    assert made[0] is not None and made[1] is not None and made[0].metrics == made[1].metrics


def test_what_commands_keep_of_a_run_goes_to_the_store(
    runs: tuple[str, Path], store_server: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, _ = runs
    name = uri.removeprefix(f"s3://{BUCKET}/")
    shardrec(monkeypatch, "calibrate", uri, "--quiet")
    shardrec(monkeypatch, "report", uri, "--slices", "kind", "--quiet")
    assert {"calibration.json", "slices.json", "report.html"} <= set(store_server.names(name))
    assert b"kind" in store_server.read(f"{name}/slices.json")


@pytest.mark.long
def test_stages_and_comparisons(
    runs: tuple[str, Path],
    store_server: ObjectStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, uri = runs[1].parent / "data", f"s3://{BUCKET}/{tmp_path.name}"
    stages = [{"name": "first"}, {"name": "second", "init_from": [{"stage": "first"}]}]
    path = run_file(tmp_path / "stages.yaml", data, run=f"{uri}/stages", stages=stages, **SETTINGS)
    shardrec(monkeypatch, "train", path, "--quiet")
    assert f"of {uri}/stages/second" in printed(monkeypatch, capsys, "evaluate", f"{uri}/stages", "--quiet")
    path = run_file(tmp_path / "compared.yaml", data, run=f"{uri}/compared", **SETTINGS)
    words = ("compare", path, "--models", "lr,fm", "--seeds", 1, "--quiet")
    # an interpreter of its own: the server that a comparison forks from may have begun before the store
    command = [sys.executable, "-m", "shardrec", *map(str, words)]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    names = store_server.names(f"{tmp_path.name}/compared")
    assert {"fm/seed-0/summary.json", "lr/seed-0/summary.json", "report.html"} <= set(names)
    assert any(name.startswith("fm/seed-0/checkpoints/step-") for name in names)
    with store_server.seen(tmp_path / "third machine"):
        synced._seen.clear()
        store_server.requests.clear()
        assert printed(monkeypatch, capsys, *words) == told  # nothing is trained again
        assert not any("/tables/" in request for request in store_server.requests if request.startswith("PUT"))


def test_says_what_does_not_work_there(runs: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, disk = runs
    data = disk.parent / "data" / "test"
    assert "a URI, where a path on a disk is expected" in refused(
        monkeypatch, "predict", uri, "--data", data, "--out", f"{uri}-scores"
    )
    assert f"{uri}-none: not a run folder (no config.yaml in it)" in refused(monkeypatch, "evaluate", f"{uri}-none")
    path = run_file(tmp_path / "again.yaml", disk.parent / "data", run=uri, **SETTINGS)
    assert f"{uri}: holds a run already" in refused(monkeypatch, "train", path)
    assert f"{uri}-tune is in a store, where this command does not work" in refused(
        monkeypatch, "tune", path, "--set", "tune.trials=1", "--set", "tune.space={trainer.seed: [1, 2]}"
    )
