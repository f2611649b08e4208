"""How a run file's model becomes a class."""

import sys
from pathlib import Path

import pytest

from shardrec.data_pipeline.errors import UserError
from shardrec.models import MODELS, config_class, resolve
from shardrec.models.base import ModelConfig
from shardrec.models.deepfm import DeepFM, DeepFMConfig
from shardrec.models.din import DINConfig
from shardrec.models.fnn import FNNConfig
from tests import ROOT

OWN_MODEL = """
from __future__ import annotations
from shardrec.models.base import PointwiseConfig
from shardrec.models.fields import Fields
from shardrec.models.lr import LR

class MyConfig(PointwiseConfig):
    depth: int = 2

class MyModel(LR):
    def __init__(self, fields: Fields, config: MyConfig) -> None:
        super().__init__(fields, config)

class Untyped(LR):
    def __init__(self, fields, config):
        super().__init__(fields, config)

class Misspelt(LR):
    def __init__(self, fields: Fields, config: MyConfg) -> None:
        super().__init__(fields, config)

NUMBER = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_models.py").write_text(OWN_MODEL)
    (tmp_path / "own_broken.py").write_text("import os\n\nraise RuntimeError('no such\\n  thing')\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    yield tmp_path
    for name in ("own_models", "own_broken"):
        sys.modules.pop(name, None)


def test_names_of_the_table_of_contents() -> None:
    assert resolve("deepfm") is DeepFM
    assert "deepfm" in MODELS and "depfm" not in MODELS and len(list(MODELS)) == len(MODELS)
    assert config_class(DeepFM) is DeepFMConfig
    for model in MODELS.values():
        assert issubclass(config_class(model), ModelConfig)


@pytest.mark.parametrize("name", MODELS)
def test_the_documentation_has_every_model_and_setting(name: str) -> None:
    pages = [(ROOT / "docs" / page).read_text() for page in ("models.md", "history-models.md", "user-item-models.md")]
    row = next(line for line in pages[0].splitlines() if line.startswith("|") and f"`{name}`" in line.split("|")[1])
    assert row.count("|") == 4
    for setting in config_class(MODELS[name]).model_fields:
        assert any(f"`{setting}`" in page for page in pages), setting


def test_a_misspelt_name_names_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown model 'depfm'; did you mean 'deepfm'"):
        resolve("depfm")


def test_a_model_of_ones_own(own: Path) -> None:
    model = resolve("own_models:MyModel")
    assert config_class(model)().depth == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("own_modles:MyModel", "importing 'own_modles' failed: ModuleNotFoundError: No module named 'own_modles'"),
        ("own_models:MyModle", "unknown class 'MyModle'; did you mean 'MyModel'"),
        ("own_models:NUMBER", "NUMBER is not a subclass"),
        ("own_models:MyConfig", "MyConfig is not a subclass"),
        ("own_broken:MyModel", r"RuntimeError: no such thing \(.*own_broken.py:3\)"),
    ],
)
def test_a_wrong_import_path_is_one_line(own: Path, name: str, line: str) -> None:
    with pytest.raises(UserError, match=line) as error:
        resolve(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["Untyped", "Misspelt"])
def test_a_constructor_without_a_config_class_is_refused(own: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"model {name}: expected __init__"):
        config_class(resolve(f"own_models:{name}"))


def test_nested_settings_that_are_left_out_are_the_models_own() -> None:
    own, given = DINConfig().attention, DINConfig.model_validate({"attention": {"activation": "prelu"}}).attention
    assert (given.hidden, given.activation) == (own.hidden, "prelu") and own.activation != "prelu"
    assert given.hidden != DINConfig().mlp.hidden
    assert FNNConfig.model_validate({"mlp": {"dropout": 0.5}}).mlp.activation == "tanh"
