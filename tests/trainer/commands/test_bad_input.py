"""What a user can get wrong is one line on stderr, exit status 1, and leaves no run folder behind."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.trainer.command_line import refused, shardrec
from tests.trainer.small_run import run_file, write_data


@pytest.fixture(scope="module")
def good_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("good") / "data", rows=600)


@pytest.fixture
def data(good_data: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(good_data, tmp_path / "data"))


@pytest.fixture
def path(data: Path, tmp_path: Path) -> Path:
    return run_file(tmp_path / "run.yaml", data, trainer={"max_steps": 2})


def spoil(file: Path, **columns: object) -> None:
    """Replaces or (None) drops columns of a Parquet file."""
    table = pq.read_table(file)
    for name, values in columns.items():
        at = table.column_names.index(name)
        table = table.remove_column(at)
        if values is not None:
            table = table.append_column(name, pa.array(values))
    pq.write_table(table, file, row_group_size=500)


def rows_of(file: Path) -> int:
    return pq.read_metadata(file).num_rows


RUN_FILE_MISTAKES = [
    ("trainer.epoch=2", ["unknown key 'epoch'", "'epochs'"]),
    (
        "model.mlp.hidden=[1000000000, 1000000000]",
        ["not enough memory: the tower would have 1,000,000,", "smaller layers"],
    ),
    ("model.mlp.hidden=[2147483647, 2147483647]", ["not enough memory: the tower", "smaller layers"]),
    ("model.embeding_dim=2", ["deepfm", "'embeding_dim'", "'embedding_dim'"]),
    ("model.name=deepfn", ["'deepfn'", "'deepfm'"]),
    ("model.name=nowhere.to_be:Found", ["nowhere", "import"]),
    ("data.features=[user, itm]", ["'itm'", "'item'"]),
    ("tables={usr: {dtype: fp16}}", ["'usr'", "'user'"]),
    ("optimizer.tables.name=adamm", ["adamm", "adagrad", "rowwise_adagrad", "sgd"]),
    ("tables={'*': {dtype: bf16}}", ["tables.*.dtype", "'fp32'", "'fp16'"]),
    ("optimizer.tables={name: rowwise_adagrad}", []),
    ("tables={item: {optimizer: {name: adagrad, l1: 0.1}}}", ["l1 is a setting of ftrl, not of adagrad"]),
    ("data.lanes=7", ["7", "238 or 245"]),
    ("data.global_batch_size=0", ["data.global_batch_size", "greater than 0"]),
    ("launch.memory=1KB", ["not enough memory", "bytes short"]),
    ("launch={backend: in_process, workers: 2}", ["in_process", "ray"]),
    ("trainer.early_stopping={metric: aux}", ["aux", "auc"]),
    ("init_from=nowhere", ["nowhere", "not a run folder"]),
    ("optimizer.tower={betas: [2, 3]}", ["betas", "less than 1"]),
    ("optimizer.tower.weight_decay={mpl.*: 1e-4}", ["weight_decay", "'mpl.*'", "did you mean 'mlp.*'"]),
    ("optimizer.tower.weight_decay=-1", ["weight_decay", "greater than or equal to 0"]),
    ("model.mlp.activation=rellu", ["unknown activation 'rellu'", "did you mean 'relu'"]),
    ("data.crosses=[{features: [user, itm], num_ids: 9}]", ["crosses", "'itm'", "did you mean 'item'"]),
    ("data.crosses=[{features: [user, price], num_ids: 9}]", ["crosses", "'price'", "is of kind dense"]),
    ("optimizer.tower.parameters={lnear.*: {name: ftrl}}", ["tower.parameters", "did you mean 'linear.*'"]),
    (
        "data.crosses=[{features: [user, item], num_ids: 9}, {features: [kind, item], num_ids: 9, name: user_x_item}]",
        ["data.crosses", "two crosses make a feature 'user_x_item'"],
    ),
    ("data.crosses=[{feature: [user, item], num_ids: 9}]", ["data.crosses.0", "'feature'", "did you mean 'features'"]),
    ("data={path: null, schema: SCHEMA, train: TRAIN}", []),
]


@pytest.mark.parametrize(("override", "parts"), RUN_FILE_MISTAKES, ids=lambda v: v if isinstance(v, str) else "")
def test_mistakes_in_the_run_file(
    override: str, parts: list[str], path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = []
    if "rowwise_adagrad}" in override:
        extra, parts = ["--set", "tables={'*': {placement: column_wise}}"], ["column_wise with rowwise_adagrad"]
    if "SCHEMA" in override:  # no validation rows
        data = tmp_path / "data"
        override = override.replace("SCHEMA", f"{data}/schema.yaml").replace("TRAIN", f"{data}/train")
        extra, parts = ["--set", "trainer.early_stopping={metric: auc}"], ["no validation rows", "data.validation"]
    line = refused(monkeypatch, "train", path, "--quiet", "--set", override, *extra)
    for part in parts:
        assert part in line
    assert not (tmp_path / "run").exists()


def test_absent_files(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no such run file" in refused(monkeypatch, "train", tmp_path / "absent.yaml")
    assert "no such schema" in refused(monkeypatch, "train", path, "--set", f"data.path={tmp_path}/absent")
    assert "not a run folder" in refused(monkeypatch, "evaluate", tmp_path)
    line = refused(monkeypatch, "train", path, "--set", f"data.train={tmp_path}/*.parquet")
    assert f"{tmp_path}/*.parquet" in line


def test_what_footers_show(path: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found before anything starts, with the file's name."""
    file = data / "train/0.parquet"
    for columns, parts in (
        ({"item": None}, ["item", "column"]),
        ({"user": "x"}, ["user", "string", "int"]),
        ({"tags": 0}, ["tags", "list"]),
        ({"price": "1"}, ["price", "string"]),
    ):
        for part in ("0", "1"):
            shutil.copyfile(file.parent / f"{part}.parquet", tmp_path / part)
            spoiled = file.parent / f"{part}.parquet"
            spoil(spoiled, **{k: v if v is None else [v] * rows_of(spoiled) for k, v in columns.items()})
        line = refused(monkeypatch, "train", path, "--quiet")
        assert all(part in line for part in ["0.parquet", *parts]), line
        assert not (tmp_path / "run").exists()
        for part in ("0", "1"):
            shutil.copyfile(tmp_path / part, file.parent / f"{part}.parquet")


def test_files_that_are_no_good(path: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = data / "train/1.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert "1.parquet" in refused(monkeypatch, "train", path, "--quiet")
    file.write_bytes(whole)
    spoil(file, price=None)
    line = refused(monkeypatch, "train", path, "--quiet")
    assert "1.parquet" in line and "price" in line
    for name in ("0", "1"):
        pq.write_table(pq.read_table(data / "test/0.parquet").slice(0, 0), data / f"train/{name}.parquet")
    assert "no rows" in refused(monkeypatch, "train", path, "--quiet")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("columns", "parts"),
    [
        ({"item": 97}, ["item", "97"]),
        ({"item": -1}, ["item", "-1"]),
        ({"label": None}, ["label", "null"]),
        ({"label": 2.0}, ["label", "2", "threshold"]),
        ({"price": float("nan")}, ["price", "nan"]),
        ({"price": None}, ["price", "null"]),
        ({"weight": -1.0}, ["weight", "-1"]),
    ],
    ids=str,
)
def test_values_that_are_not_allowed(
    columns: dict, parts: list[str], path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found when the row is read: file, column, row and value are named."""
    ((name, value),) = columns.items()
    for file in sorted(data.glob("train/*.parquet")):
        values = pq.read_table(file).column(name).to_pylist()
        values[7] = value
        spoil(file, **{name: values})
    line = refused(monkeypatch, "train", path, "--quiet", "--set", "trainer.max_steps=null")
    assert all(part in line for part in ["row 7", *parts]), line
    assert ".parquet" in line or "threshold" in parts  # the task sees rows, not files
    assert not (path.parent / "run").exists()


def test_damaged_pages(path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The footer is fine, the rows are not."""
    for file in data.glob("train/*.parquet"):
        content = bytearray(file.read_bytes())
        content[100:1100] = bytes(1000)
        file.write_bytes(content)
    line = refused(monkeypatch, "train", path, "--quiet")
    assert ".parquet" in line


def test_a_loss_that_is_not_finite(path: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in sorted(data.glob("train/*.parquet")):
        values = np.zeros(rows_of(file), np.float32)
        values[11] = 1e30  # its square is infinite
        spoil(file, label=values)
    settings = ("--set", "model.task=regression", "--set", "trainer.max_steps=null")
    line = refused(monkeypatch, "train", path, "--quiet", *settings)
    assert "the loss is not finite" in line and "step 1:" in line and "nothing was updated" in line
    assert "from 240 rows" not in line
    for file in data.glob("train/*.parquet"):
        spoil(file, label=np.full(rows_of(file), 8e18, np.float32))  # finite squares of an infinite sum
    assert "from 240 rows" in refused(monkeypatch, "train", path, "--quiet", *settings)


def test_a_run_folder_that_is_taken(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shardrec(monkeypatch, "train", path, "--quiet")
    before = (tmp_path / "run/summary.json").read_bytes()
    assert "holds a run already" in refused(monkeypatch, "train", path, "--quiet")
    line = refused(monkeypatch, "train", path, "--quiet", "--resume", "--set", "model={name: lr}")
    assert "another model" in line
    more = ("--resume", "--quiet", "--set", "trainer.max_steps=4")
    line = refused(monkeypatch, "train", path, *more, "--set", "optimizer.tables={name: sgd}")
    assert "adagrad" in line and "sgd" in line
    shardrec(monkeypatch, "evaluate", tmp_path / "run", "--quiet")  # what was refused has left no trace
    assert "of step 7; there is: 2" in refused(monkeypatch, "evaluate", tmp_path / "run", "--step", 7)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/x").touch()
    predict = ("predict", tmp_path / "run", "--data", path.parent / "data/test")
    assert "not empty" in refused(monkeypatch, *predict, "--out", tmp_path / "out")
    assert "'usr'" in refused(monkeypatch, *predict, "--out", tmp_path / "new", "--keys", "usr")
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "run/summary.json").read_bytes() == before


def test_a_checkpoint_that_cannot_be_loaded(
    path: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a table with other rows than there are ids today, cut short, or with a file missing; it is left as it is."""
    shardrec(monkeypatch, "train", path, "--quiet")
    schema = yaml.safe_load((data / "schema.yaml").read_text())
    today = ("--set", f"data.schema={tmp_path}/today.yaml", "--set", "trainer.max_steps=4")
    schema["features"][0]["ids"]["num_ids"] = 401
    (tmp_path / "today.yaml").write_text(yaml.safe_dump(schema))
    line = refused(monkeypatch, "train", path, "--resume", "--quiet", *today)
    assert "step-2" in line and "'user' has num_embeddings 301 there and 401 here; use the model and tables it" in line
    schema["features"][0]["ids"]["num_ids"] = 201
    (tmp_path / "today.yaml").write_text(yaml.safe_dump(schema))
    again = ("--set", f"init_from={tmp_path}/run", "--set", f"run={tmp_path}/again")
    line = refused(monkeypatch, "train", path, "--quiet", *today, *again)
    assert "'user' is 201 rows x 5 columns, but table 'user' in" in line and "301 rows x 5 columns; tables may" in line
    (shard,) = (tmp_path / "run/checkpoints/step-2/tables").glob("user.r*")
    whole = shard.read_bytes()
    for command in (("train", path, "--resume", "--set", "trainer.max_steps=4"), ("evaluate", tmp_path / "run")):
        shard.write_bytes(whole[:-1])
        line = refused(monkeypatch, *command, "--quiet")
        assert f"{shard}: cut short: {len(whole) - 1} bytes found, {len(whole)} expected; restore the file" in line
        shard.unlink()
        line = refused(monkeypatch, *command, "--quiet")
        assert f"{shard}: missing, though the checkpoint's manifest names it; restore the file from a copy" in line
    shard.write_bytes(whole)
    shardrec(monkeypatch, "evaluate", tmp_path / "run", "--quiet")


def test_schema_mistakes(path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    schema = yaml.safe_load((data / "schema.yaml").read_text())
    schema["features"][0]["ids"]["num_id"] = 3
    (data / "schema.yaml").write_text(yaml.safe_dump(schema))
    line = refused(monkeypatch, "train", path)
    assert "schema.yaml" in line and "num_id" in line


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        (("prepare", "pairs", "", "out"), "the argument after 'pairs'"),
        (("prepare", "libfm", "log.libfm", ""), "the argument after 'log.libfm'"),
        (("prepare", "criteo", "train.txt", "out", "--test", ""), "--test"),
        (("predict", "run", "--data=", "--out", "scores"), "--data"),
        (("rank", "run", "--data", "rows", "--out", "order", "--group", ""), "--group"),
        (("train", ""), "the argument after 'train'"),
    ],
)
def test_an_empty_argument_is_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], where: str
) -> None:
    """As a path it would be the folder where the command runs, and all that lies in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.txt").write_text("1 2 3\n")
    line = refused(monkeypatch, *arguments)
    assert line == f"shardrec: error: {where}: found nothing in it, expected a value; give one, or leave it out"
    assert [path.name for path in tmp_path.iterdir()] == ["rows.txt"]
