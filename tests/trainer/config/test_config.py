"""Run files: typed, overridable, and every mistake is one line that names the key."""

from pathlib import Path

import pytest

from shardrec.data_pipeline.declared.sizes import parse_bytes
from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.config.load import load
from shardrec.trainer.config.model_settings import model_settings

RUN = """
run: out
data: {path: data, global_batch_size: 512}
model: {name: deepfm, embedding_dim: 8}
tables:
  "*": {dtype: fp16}
optimizer:
  tables: {name: adagrad, learning_rate: 1e-2}
"""


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(RUN)
    return path


def test_values_and_defaults(run_file: Path) -> None:
    config = load(run_file)
    assert config.optimizer.tables.learning_rate == 0.01
    assert config.tables["*"].dtype == "fp16"
    assert config.trainer.epochs == 1
    assert config.import_from == str(run_file.parent)


@pytest.mark.parametrize(
    ("override", "where", "expected"),
    [
        ("trainer.epochs=3", "trainer.epochs", 3),
        ("optimizer.tables.learning_rate=3e-4", "optimizer.tables.learning_rate", 3e-4),
        ("data.memory=512MiB", "data.memory", 512 << 20),
        ("trainer.early_stopping={metric: auc, patience: 2}", "trainer.early_stopping.patience", 2),
        ("data.features=[a, b]", "data.features", ("a", "b")),
    ],
)
def test_overrides_are_typed(run_file: Path, override: str, where: str, expected: object) -> None:
    found: object = load(run_file, [override])
    for part in where.split("."):
        found = getattr(found, part)
    assert found == expected


def test_quoted_part_of_an_override_keeps_its_dots(run_file: Path) -> None:
    assert load(run_file, ['tables."a.b".dtype=fp32']).tables["a.b"].dtype == "fp32"


def test_model_given_as_text_takes_overrides(run_file: Path) -> None:
    run_file.write_text(RUN.replace("{name: deepfm, embedding_dim: 8}", "fm"))
    assert load(run_file, ["model.embedding_dim=4"]).model == {"name": "fm", "embedding_dim": 4}


def test_resolved_file_reads_back_equal(run_file: Path, tmp_path: Path) -> None:
    config = load(run_file, ["data.class_weights={0: 1, 1: 2.5}", "trainer.early_stopping={metric: rmse}"])
    copy = tmp_path / "config.yaml"
    copy.write_text(config.dump())
    assert load(copy) == config


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("trainer.epoch=3", ["trainer", "'epoch'", "did you mean 'epochs'"]),
        ("trainr.epochs=3", ["'trainr'", "did you mean 'trainer'"]),
        ("optimizer.tables.learning_rat=3", ["optimizer.tables", "learning_rate"]),
        ("tables.C1.dtyp=fp16", ["tables.C1", "did you mean 'dtype'"]),
        ("tables.C1.optimizer={weight_decay: 1e-5}", ["tables.C1.optimizer", "say its name"]),
        ("trainer.early_stopping.patiance=1", ["trainer.early_stopping", "did you mean 'patience'"]),
        ("trainer.epochs=0", ["trainer.epochs", "greater than 0"]),
        ("trainer.epochs=many", ["trainer.epochs", "'many'"]),
        ("data.memory=lots", ["data.memory", "512MB"]),
        ("trainer.epochs", ["--set trainer.epochs", "a.b=value"]),
        ("data.schemas=x", ["data", "did you mean 'schema'"]),
        ("data.epochs=3", ["in data: unknown key 'epochs'", "did you mean trainer.epochs"]),
        ("trainer.embedding_dim=3", ["in trainer: unknown key 'embedding_dim'; known: seed, epochs"]),
        ("tables.C1.nam=3", ["in tables.C1: unknown key 'nam'; known: embedding_dim, dtype"]),
        ("trainer={epochs: 1, epochs: 2}", ["--set trainer={epochs: 1, epochs: 2}", "'epochs' is there twice"]),
        ('run="x\\0y"', ["run: a path cannot hold a NUL character"]),
        ("run=''", ["run: ", "at least 1 character"]),
        ("run=" + "x" * 5000, ["run: ", "at most 4096 characters", "... ("]),
        ("run=\udcff", ["half of a surrogate pair"]),
        ("data.memory=1e400GB", ["data.memory: expected a size below 8 EiB"]),
        ("data.memory=.inf", ["data.memory"]),
        ("launch.timeout=.inf", ["launch.timeout", "finite"]),
        ("launch.timeout=1e30", ["launch.timeout", "less than or equal to 2592000"]),
        ("launch.threads=1000000", ["launch.threads", "less than or equal to 4096"]),
        ("launch.workers=1000000", ["launch.workers", "less than or equal to 65536"]),
        ("trainer.epochs=" + "9" * 6000, ["a number of 6,000 characters"]),
        ("trainer.epochs=" + "9" * 90, ["trainer.epochs", "less than 2147483648"]),
        ("data.global_batch_size=1e300", ["data.global_batch_size"]),
        ("optimizer.tables.learning_rate=.nan", ["optimizer.tables.learning_rate", "finite"]),
        ("tables={'*': {init: {scale: .inf}}}", ["tables.*.init.scale", "finite"]),
        ("trainer.epochs=true", ["trainer.epochs: expected a number (found True)"]),
        ("launch.workers=yes", ["launch.workers: expected a number (found True)"]),
        ("optimizer.tables.learning_rate=true", ["optimizer.tables.learning_rate: expected a number"]),
        ("optimizer.tower.betas=[0.5, false]", ["optimizer.tower.betas.1: expected a number (found False)"]),
        ("optimizer.tower.weight_decay=true", ["optimizer.tower.weight_decay: expected a number"]),
        ("data.class_weights={1: true}", ["data.class_weights.1: expected a number"]),
        ("data.memory=true", ["data.memory: expected a number"]),
        ("tables.C1.embedding_dim=true", ["tables.C1.embedding_dim: expected a number"]),
        ("model=" + "[" * 3000, ["nested deeper than 100 levels"]),
        (".".join("abcdefghijklmnopqrstuvwxyz") + "=1", ["expected a.b=value"]),
        ("x=" + "y" * 100_000, ["unknown key 'x'"]),
        ("data.features=" + "x" * 100_000, ["data.features", "expected a list", "... ("]),
        ("y" * 100_000 + "=1", ["unknown key 'yyy", "... ("]),
    ],
)
def test_mistakes_are_one_line(run_file: Path, override: str, parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load(run_file, [override])
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000
    for part in parts:
        assert part in str(caught.value)


def test_true_is_no_number_of_a_models_settings(run_file: Path) -> None:
    config = load(run_file, ["model={name: deepfm, mlp: {hidden: [8, true]}}"])
    with pytest.raises(UserError, match=r"^model deepfm: mlp\.hidden\.1: expected a number \(found True\)$"):
        model_settings(config)


def test_best_is_what_early_stopping_watches(run_file: Path) -> None:
    overrides = ["trainer.early_stopping={metric: auc}", "trainer.best_metric=log_loss"]
    with pytest.raises(
        UserError, match=r"trainer: .*best_metric 'log_loss' beside .* 'auc', expected one metric"
    ) as caught:
        load(run_file, overrides)
    assert "\n" not in str(caught.value)
    assert load(run_file, [overrides[0], "trainer.best_metric=auc"]).trainer.selection_metric == "auc"
    assert load(run_file, [overrides[1]]).trainer.selection_metric == "log_loss"
    without = "trainer.early_stopping={patience: 2}"  # the task's first metric is not always AUC
    assert load(run_file, [without]).trainer.selection_metric is None
    assert load(run_file, [without, overrides[1]]).trainer.selection_metric == "log_loss"


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("a: [", "not valid YAML"),
        ("run: a\nrun: b", "there twice, in lines 1 and 2"),
        ("- 1", "mapping"),
        ("run: x\nmodel: fm\n", "data: Field required"),
    ],
)
def test_broken_files(tmp_path: Path, content: str, part: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=part):
        load(path)


def test_absent_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such run file"):
        load(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("text", "bytes_"), [("1GiB", 1 << 30), ("1GB", 10**9), ("512MB", 512 * 10**6), ("100", 100), ("2e9", 2 * 10**9)]
)
def test_sizes(text: str, bytes_: int) -> None:
    assert parse_bytes(text) == bytes_


def test_features_share_a_table_by_name(tmp_path: Path) -> None:
    (tmp_path / "schema.yaml").write_text(
        "features:\n"
        "- {kind: id, name: item, ids: {kind: identity, num_ids: 5}}\n"
        "- {kind: id, name: last, ids: {kind: identity, num_ids: 5}}\n"
        "- {kind: id, name: user, ids: {kind: identity, num_ids: 9}}\n"
    )
    path = tmp_path / "run.yaml"
    path.write_text(f"run: out\ndata: {{path: {tmp_path}}}\nmodel: fm\n")
    schema = load(path, ["data.share={item: [item, last]}"]).load_schema()
    assert [f.table_name for f in schema.sparse] == ["item", "item", "user"]
    with pytest.raises(UserError, match=r"share table 'x' but need 5 and 9 rows"):
        load(path, ["data.share={x: [item, user]}"]).load_schema()
    with pytest.raises(UserError, match="did you mean 'item'"):
        load(path, ["data.share={x: [itme]}"]).load_schema()
