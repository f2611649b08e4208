"""Variants of a run file: merged over the rest, a model taking over the settings that it knows."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.config.load import load
from shardrec.trainer.config.stages import resolve_stages

BASE: dict[str, Any] = {
    "run": "runs/x",
    "data": {"path": "data", "global_batch_size": 512},
    "model": {"name": "deepfm", "embedding_dim": 8, "label": "click", "mlp": {"hidden": [5], "dropout": 0.3}},
    "tables": {"*": {"init": {"scale": 0.5}}},
    "optimizer": {"tables": {"name": "adagrad", "learning_rate": 0.2, "eps": 0.1}},
    "variants": {
        "same": {},
        "small": {"model": {"embedding_dim": 4, "mlp": {"hidden": []}}},
        "fm": {"model": {"name": "fm", "dropout": 0.1}, "tables": {"item": {"dtype": "fp16"}}},
        "plain": {"model": "lr", "optimizer": {"tables": {"learning_rate": 0.7}}},
        "slow": {"optimizer": {"tables": {"name": "sgd", "learning_rate": 0.01}}},
        "wrong": {"model": {"name": "fm", "dropouts": 0.1}},
        "chain": {"stages": [{"name": "first", "model": "fm"}, {"name": "second", "init_from": {"stage": "first"}}]},
    },
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(BASE))
    return path


def test_without_a_variant_the_file_is_as_if_there_were_none(path: Path) -> None:
    config = load(path)
    assert config.model == BASE["model"]
    assert list(config.variants) == sorted(BASE["variants"])
    assert "variants" not in config.dump()


@pytest.mark.parametrize(
    ("variant", "model"),
    [
        ("same", BASE["model"]),
        ("small", {"name": "deepfm", "embedding_dim": 4, "label": "click", "mlp": {"hidden": [], "dropout": 0.3}}),
        ("fm", {"name": "fm", "embedding_dim": 8, "label": "click", "dropout": 0.1}),
        ("plain", {"name": "lr", "label": "click"}),
        ("wide_deep", BASE["model"] | {"name": "wide_deep"}),
        ("wrong", {"name": "fm", "embedding_dim": 8, "label": "click", "dropouts": 0.1}),
    ],
)
def test_a_model_takes_over_what_it_knows(path: Path, variant: str, model: dict[str, Any]) -> None:
    config = load(path, variant=variant)
    assert config.model == model
    assert config.run == str(Path("runs/x").resolve() / variant)
    assert config.data.global_batch_size == 512


def test_mappings_are_merged_and_another_optimizer_starts_afresh(path: Path) -> None:
    fm, plain, slow = (load(path, variant=name) for name in ("fm", "plain", "slow"))
    assert list(fm.tables) == ["*", "item"]
    assert (fm.tables["*"].init.scale, fm.tables["item"].dtype) == (0.5, "fp16")
    tables = plain.optimizer.tables
    assert (tables.name, tables.learning_rate, tables.eps) == ("adagrad", 0.7, 0.1)
    tables = slow.optimizer.tables
    assert (tables.name, tables.learning_rate, tables.eps) == ("sgd", 0.01, 1e-8)


def test_overrides_come_last(path: Path) -> None:
    config = load(path, ["model.embedding_dim=3", "run=elsewhere"], variant="small")
    assert (config.model["embedding_dim"], config.run) == (3, str(Path("elsewhere/small").resolve()))


def test_a_variant_may_be_of_stages(path: Path) -> None:
    stages = resolve_stages(load(path, variant="chain"))
    assert [(name, Path(stage.run).name, stage.model["name"]) for name, stage in stages.items()] == [
        ("first", "first", "fm"),
        ("second", "second", "deepfm"),
    ]
    assert stages["second"].init_from[0].run == stages["first"].run


def test_a_model_from_elsewhere_is_found_beside_the_run_file(path: Path, tmp_path: Path) -> None:
    (tmp_path / "taller_models.py").write_text(
        "from shardrec.models.lr import LR, LRConfig\n\n\n"
        "class TallConfig(LRConfig):\n    embedding_dim: int = 3\n\n\n"
        "class Tall(LR):\n    def __init__(self, fields, config: TallConfig) -> None:\n"
        "        super().__init__(fields, config)\n"
    )
    path.write_text(yaml.safe_dump(BASE | {"variants": {"tall": {"model": "taller_models:Tall"}}}))
    expected = {"name": "taller_models:Tall", "embedding_dim": 8, "label": "click"}
    assert load(path, variant="tall").model == expected


@pytest.mark.parametrize(
    ("variants", "variant", "line"),
    [
        (BASE["variants"], "smal", "did you mean 'small'"),
        (BASE["variants"], "../x", "a name that a folder can have"),
        ({"a": 3}, "a", r"variants\.a: expected a partial run file"),
        ([1], "fm", "variants: expected a mapping"),
        ({"a": {"trainer": {"epoch": 2}}}, "a", "'epoch'; did you mean 'epochs'"),
        ({"a": {"model": "deepfn"}}, "a", "did you mean 'deepfm'"),
    ],
)
def test_mistakes_are_one_line(path: Path, variants: Any, variant: str, line: str) -> None:
    path.write_text(yaml.safe_dump(BASE | {"variants": variants}))
    with pytest.raises(UserError, match=line) as caught:
        load(path, variant=variant)
    assert "\n" not in str(caught.value)
