"""A run folder is data until the user says otherwise: no code of it runs, and no cluster that it names is asked."""

import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import shardrec as library
from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.config.trust import is_foreign
from tests.trainer.command_line import refused, shardrec
from tests.trainer.small_run import run_file, write_data

MODEL = """
from pathlib import Path
from shardrec import Fields, PointwiseConfig, PooledEmbeddings, Recommender

Path(__file__).with_suffix(".ran").touch()


class Own(Recommender):
    def __init__(self, fields: Fields, config: PointwiseConfig) -> None:
        inputs = {"field": PooledEmbeddings(fields.tables(embedding_dim=4))}
        super().__init__(inputs=inputs, task=config.build_task(fields.schema))

    def forward(self, field):
        return field.sum((1, 2))
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a finished run of a model of its own, and one that is to start from it."""
    home = tmp_path_factory.mktemp("theirs")
    write_data(home / "data", rows=400)
    (home / "theirs_alone.py").write_text(MODEL)
    path = run_file(home / "run.yaml", home / "data", trainer={"max_steps": 2, "epochs": 1})
    content = yaml.safe_load(path.read_text()) | {"model": "theirs_alone:Own"}
    path.write_text(yaml.safe_dump(content))
    library.train(path, quiet=True)
    (home / "next.yaml").write_text(yaml.safe_dump(content | {"run": str(home / "next"), "init_from": content["run"]}))
    return home


@pytest.fixture
def strange(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run as somebody else has it: nothing outside of it says who trained it, and nothing of it is imported."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != str(trained)])
    monkeypatch.delitem(sys.modules, "theirs_alone", raising=False)
    (trained / "theirs_alone.ran").unlink(missing_ok=True)
    return trained / "run"


def commands(run: Path, out: Path) -> dict[str, tuple[object, ...]]:
    """Every command that opens a run folder and needs its model."""
    table = yaml.safe_load((run / "schema.yaml").read_text())["features"][0]["name"]
    pq.write_table(pa.table({"id": [0], "vector": [[0.0] * 4]}), out.parent / "rows.parquet")
    data = run.parent / "data" / "validation"
    return {
        "evaluate": ("evaluate", run, "--quiet"),
        "predict": ("predict", run, "--data", data, "--out", out, "--quiet"),
        "tables": ("tables", run, "--json"),
        "export": ("checkpoint", "export", run, "--table", table, "--out", out),
        "import": ("checkpoint", "import", run, "--table", table, "--data", out.parent / "rows.parquet", "--out", out),
        "plan": ("plan", run / "config.yaml"),
        "compare": ("compare", run / "config.yaml", "--models", "lr", "--out", out),
        "resume": ("train", run / "config.yaml", "--resume", "--quiet"),
        "init_from": ("train", run.parent / "next.yaml", "--quiet"),
    }


def test_what_this_user_trained_opens_without_a_word(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shardrec(monkeypatch, "evaluate", trained / "run", "--quiet")


@pytest.mark.parametrize("command", ["evaluate", "predict", "tables", "export", "import", "plan", "resume", "compare"])
def test_strange_code_does_not_run(
    strange: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    line = refused(monkeypatch, *commands(strange, tmp_path / "out")[command])
    assert f"would import theirs_alone:Own from {strange.parent}; give --trust" in line
    assert not (strange.parent / "theirs_alone.ran").exists()
    assert str(strange.parent) not in sys.path
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["evaluate", "predict", "tables", "export", "import", "plan"])
def test_trusted_code_does(strange: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setattr("shardrec.trainer.config.trust._said", set())
    shardrec(monkeypatch, *commands(strange, tmp_path / "out")[command], "--trust")
    assert (strange.parent / "theirs_alone.ran").exists()


def test_python_asks_as_the_commands_do(strange: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardrec.trainer.config.trust._said", set())
    for call in (library.load, library.plan, library.train):
        with pytest.raises(UserError, match="would import theirs_alone:Own"):
            call(strange / "config.yaml")
    assert not (strange.parent / "theirs_alone.ran").exists()
    with pytest.raises(UserError, match=f"{strange}: its run file would import theirs_alone:Own"):
        library.train(library.load(strange.parent / "next.yaml"), quiet=True)
    assert library.load(strange / "config.yaml", trust=True).model["name"] == "theirs_alone:Own"


def test_the_run_that_another_starts_from_is_as_strange(
    strange: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = refused(monkeypatch, *commands(strange, tmp_path / "out")["init_from"])
    assert f"{strange}: its run file would import theirs_alone:Own" in line


def test_what_needs_no_model_needs_no_trust(strange: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shardrec(monkeypatch, "checkpoint", "show", strange)
    shardrec(monkeypatch, "checkpoint", "diff", strange, strange)
    assert not (strange.parent / "theirs_alone.ran").exists()


def test_another_folder_of_the_same_name_is_not_trusted(trained: Path, tmp_path: Path) -> None:
    moved, run = tmp_path / "moved", trained / "run"
    shutil.copytree(run, moved)
    with pytest.raises(UserError, match="give --trust"):
        library.open(moved).config
    run.rename(run.with_name("kept"))
    try:
        moved.rename(run)
        with pytest.raises(UserError, match="give --trust"):
            library.open(run).config
        run.rename(moved)
    finally:
        run.with_name("kept").rename(run)
    assert library.open(run).config.model["name"] == "theirs_alone:Own"


def test_a_cluster_is_not_asked_because_a_folder_says_so(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "run", tmp_path / "run")
    content = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    content |= {"model": {"name": "lr"}, "launch": {"address": "ray://elsewhere:10001"}}
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=r"would connect to the Ray cluster ray://elsewhere:10001; give --trust"):
        library.open(tmp_path / "run").config
    assert library.open(tmp_path / "run", trust=True).config.launch.address == "ray://elsewhere:10001"


def test_our_models_need_nothing_and_import_from_nowhere(
    strange: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = yaml.safe_load((strange.parent / "run.yaml").read_text())
    content |= {"model": "lr", "run": str(tmp_path / "ours"), "import_from": str(strange.parent)}
    (tmp_path / "ours.yaml").write_text(yaml.safe_dump(content))
    shardrec(monkeypatch, "train", tmp_path / "ours.yaml", "--quiet")
    shardrec(monkeypatch, "evaluate", tmp_path / "ours", "--quiet")
    assert str(strange.parent) not in sys.path
    assert not any((tmp_path / "state").rglob("*.json"))


@pytest.mark.parametrize("beside", [("config.yaml", "schema.yaml", "checkpoints"), ("config.yaml", "metrics.jsonl")])
def test_a_run_file_that_came_with_a_run_folder_is_as_strange(
    strange: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: tuple[str, ...]
) -> None:
    """Under another name than its own, and where what makes a run folder was left out of it."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for name in beside:
        (shutil.copytree if (strange / name).is_dir() else shutil.copy)(strange / name, theirs / name)
    shutil.copy(strange / "config.yaml", theirs / "better.yaml")
    for name in ("config.yaml", "better.yaml"):
        for command in ("plan", "train"):
            assert "would import theirs_alone:Own" in refused(monkeypatch, command, theirs / name)
    assert not (strange.parent / "theirs_alone.ran").exists()


def test_the_command_line_is_no_model(strange: Path) -> None:
    assert is_foreign("shardrec.__main__:Own") and not is_foreign("shardrec.models.fm:FM")
