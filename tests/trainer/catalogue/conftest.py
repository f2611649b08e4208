"""A shop, and a model of it that was not trained, share their fixtures."""

from pathlib import Path

import pytest
import torch

from shardrec.trainer.catalogue.items import Catalogue
from shardrec.trainer.config.load import load
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.session.blueprint import Blueprint
from shardrec.trainer.session.session import Session
from tests.trainer.catalogue.small_catalogue import run_file, write_shop

ALONE = Environment(0, 1, 0, 1, torch.device("cpu"))


@pytest.fixture(scope="package")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shop(tmp_path_factory.mktemp("shop") / "data")


@pytest.fixture(scope="module")
def session(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Session:
    path = tmp_path_factory.mktemp("session") / "run.yaml"
    lists = {"evaluation": {"catalogue": {"top_k": [1, 5], "new_items": True}}}
    return Session.build(Blueprint(load(run_file(path, shop, trainer=lists))), ALONE)


@pytest.fixture(scope="module")
def catalogue(session: Session) -> Catalogue:
    return Catalogue.of(session)
