"""The most popular items of Gowalla have the scores that the literature has, where its files are here."""

from pathlib import Path

import pytest
import yaml

from shardrec.data_pipeline.prepare.importers.pairs import PairForm, prepare_pairs
from shardrec.data_pipeline.prepare.steps.preparation import Output
from shardrec.data_pipeline.prepare.steps.source import Inputs
from shardrec.trainer.catalogue.evaluation import CatalogueScorer
from shardrec.trainer.config.load import load
from shardrec.trainer.session.blueprint import Blueprint
from shardrec.trainer.session.session import Session
from tests.trainer.catalogue.conftest import ALONE

GOWALLA = Path("shared/data/gowalla")
