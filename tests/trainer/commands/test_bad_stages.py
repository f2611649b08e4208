"""What is wrong with stages and with what they start from is one line, told before the first of them starts."""

from pathlib import Path

import pytest

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.config.load import load
from shardrec.trainer.training.train_run import train_run
from tests.trainer.small_run import write_data
from tests.trainer.stage_files import ALL_OF_AN_FM, FM, FNN, chain, written


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("bad_stages") / "data", rows=300)


MISTAKES = [
    ({"stage": "fmm", **ALL_OF_AN_FM}, "stage 'fnn' starts from 'fmm': unknown earlier stage 'fmm'; did you mean 'fm'"),
    ({"stage": "fnn", **ALL_OF_AN_FM}, "unknown earlier stage 'fnn'"),
    ({"stage": "fm", "tables": {"usr": {}}}, "unknown table 'usr'; did you mean 'user'"),
    (
        {"stage": "fm", "tables": {"user": {"from": "usr"}}},
        "'user' starts from is not in .*/run/fm: unknown table 'usr'",
    ),
    ({"stage": "fm", "parameters": {"linear.bia": {}}}, "unknown parameter 'linear.bia'; did you mean 'linear.bias'"),
    ({"stage": "fm", "parameters": {"mlp.*": {}}}, r"parameter 'mlp.layers.0.weight' starts from is not in .*/run/fm"),
    (
        {"stage": "fm", "tables": {"user": {"columns": [1, None]}}},
        r"table 'user' is 301 rows x 5 columns, but columns 1:5 of table 'user' in .*/run/fm are 301 rows x 4 columns",
    ),
    (
        {"stage": "fm", "tables": {"user": {"from": "item"}}},
        "ids of feature 'user' would mean other rows than those of 'item'",
    ),
    (
        {"stage": "fm", "tables": {"kind": {"from": "user"}}},
        "is 3 rows x 5 columns, but .* is 301 rows x 5 columns; tables may grow, not shrink: keep 301 ids or more",
    ),
    (
        {"stage": "fm", "tables": {"user": {"columns": [3, 8]}}},
        "columns 3:8 of table 'user' .* asked for, which is 301",
    ),
    ({"stage": "fm", "tables": {"user": {"columns": [3, 3]}}}, r"must ascend, found \[3, 3\]"),
    ({"stage": "fm", "tables": {"*": {}, "us*": {}}}, r"'user' is written twice, by '\*' from .*fm and by 'us\*' from"),
    ({"stage": "fm", "tables": {"u*": {"from": "*x*"}}}, "one `\\*` at most"),
    (
        {"stage": "fm", "tables": {"user": {"scal": 2}}},
        "init_from.0.tables.user: unknown key 'scal'; did you mean 'scale'",
    ),
    ({"tables": {"*": {}}}, "either a `run` .* or a `stage`"),
    ({"run": "nowhere", "tables": {"*": {}}}, "nowhere: not a run folder"),
]


@pytest.mark.parametrize(("source", "said"), MISTAKES, ids=lambda v: "" if isinstance(v, dict) else v[:30])
def test_what_a_stage_cannot_start_from(source: dict, said: str, data: Path, tmp_path: Path) -> None:
    """Found before the first stage starts."""
    fnn = {"name": "fnn", "model": FNN, "init_from": [source]}
    path = chain(tmp_path, "run", data, {"name": "fm", "model": FM}, fnn)
    with pytest.raises(UserError, match=said) as error:
        train_run(load(path), quiet=True)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


MOMENTUM = {"name": "sgd", "momentum": 0.9}
WHOLE: list[tuple[dict, str]] = [
    ({"data": {"features": ["user", "item", "price"]}}, "table 'kind' is in .*/run/a but not in this run"),
    (
        {"tables": {"user": {"dtype": "fp16"}}},
        r"table 'user' is fp32 under adagrad \(accumulator\) in .*/run/a, .* and fp16 under adagrad",
    ),
    (
        {"optimizer": {"tables": {"name": "sgd", "momentum": 0.5}}},
        r"\(accumulator\) in .* and fp32 under sgd \(momentum\) in this",
    ),
    ({"optimizer": {"tables": {"name": "sgd"}}}, r"and fp32 under sgd \(no state\) in this run"),
    ({"optimizer": {"tower": {"name": "adagrad"}}}, "optimizer.tower is adam in .*/run/a, .* and adagrad in this run"),
    ({"optimizer": {"tower": MOMENTUM}}, "optimizer.tower is adam in .* and sgd with momentum in this run"),
    (
        {"optimizer": {"tower": {"parameters": {"linear.*": {"name": "ftrl"}}}}},
        "parameter 'linear.bias' is updated as most are in .*/run/a, .* and updated by ftrl in this run",
    ),
    ({"model": FNN}, "parameter 'mlp.layers.0.weight' is in this run but not in .*/run/a"),
]


@pytest.mark.parametrize(("settings", "said"), WHOLE, ids=lambda v: "" if isinstance(v, dict) else v[:30])
def test_what_cannot_be_taken_whole(settings: dict, said: str, data: Path, tmp_path: Path) -> None:
    """Found before the first stage starts, and not when the second restores what the first one saved."""
    second = {"name": "b", "model": FM, "init_from": [{"stage": "a"}], **settings}
    path = chain(tmp_path, "run", data, {"name": "a", "model": FM}, second)
    with pytest.raises(UserError, match=said + ".*; name `tables` and `parameters` to take weights only$"):
        train_run(load(path), quiet=True)
    assert not (tmp_path / "run").exists()


STAGES = [
    ([{"model": "fm"}], "stages: each needs a `name` .* found None"),
    ([{"name": "a/b", "model": "fm"}], "found 'a/b'"),
    ([{"name": "fm", "model": "fm"}, {"name": "fm", "model": "fm"}], "'fm' is there twice"),
    ([{"name": "fm", "model": "fm", "run": "x"}], "'fm' has a key 'run'"),
    ([{"name": "fm", "modle": "fm"}], "stage 'fm': unknown key 'modle'; did you mean 'model'"),
    ([{"name": "fm"}], "stage 'fm': .*needs a `name`"),
    ([{"name": "fm", "model": "fm", "init_from": [{"stage": "fm"}]}], "it is the first one"),
    (None, "init_from: stage 'fm' in a run without stages"),
]


@pytest.mark.parametrize(("stages", "said"), STAGES, ids=lambda v: v if isinstance(v, str) else "")
def test_what_stages_cannot_be(stages: list | None, said: str, data: Path, tmp_path: Path) -> None:
    if stages is None:
        path = written(tmp_path, "run", data, model=FM, init_from=[{"stage": "fm", **ALL_OF_AN_FM}])
    else:
        path = chain(tmp_path, "run", data, *stages)
    with pytest.raises(UserError, match=said):
        train_run(load(path), quiet=True)
    assert not (tmp_path / "run").exists()
