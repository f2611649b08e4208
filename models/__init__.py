"""The models, and what they are made of.

- `afm.py`: Attentional factorization machine (Xiao et al., IJCAI 2017)
- `autoint.py`: AutoInt and AutoInt+ (Song et al., CIKM 2019)
- `autorec.py`: AutoRec (Sedhain et al., WWW 2015): an autoencoder of ratings
- `base.py`: A recommender is inputs + tower + task: a plain dense module that knows no rank, device or file
- `bst.py`: Behavior sequence transformer (Chen et al., DLP-KDD 2019): past events and the target attend to each other
- `dcn.py`: Deep & Cross Network (Wang et al., ADKDD 2017)
- `dcn_v2.py`: DCN-v2: a cross network with weight matrices, before or beside an MLP (Wang et al., WWW 2021)
- `deep_crossing.py`: Deep Crossing: embeddings, stacking, residual units, scoring (Shan et al., KDD 2016)
- `deepfm.py`: DeepFM (Guo et al., IJCAI 2017)
- `dien.py`: Deep interest evolution network (Zhou et al., AAAI 2019): a GRU finds interests, a second follows some
- `din.py`: Deep interest network (Zhou et al., KDD 2018): past events count by how much they bear on the target
- `dlrm.py`: DLRM (Naumov et al., arXiv 1906.00091, 2019)
- `dynamic_ids.py`: What is said of tables for unbounded ids: how many rows, which ids get one, which lose theirs
- `embedding_mlp.py`: Embedding + MLP: the base model that deep click models are compared with
- `fields.py`: The features that a model may use, and the tables that it declares for them
- `fm.py`: Factorization machine (Rendle, ICDM 2010)
- `fnn.py`: Factorization-machine supported neural network (Zhang, Du & Wang, ECIR 2016)
- `histories.py`: What models of behaviour share: a history of events, the target that it is compared with, and the
- `inputs.py`: What a model asks of the tables and the batch: its inputs, and the `Fields` from which it declares them
- `layers/`: layers: one idea a file, with its paper and equation
- `lr.py`: Logistic (or linear) regression: the baseline that every other model has to beat
- `metrics/`: metrics that merge across ranks
- `mf.py`: Matrix factorization with biases (Koren, Bell & Volinsky, IEEE Computer 2009, eq
- `neural_cf.py`: Neural collaborative filtering (He et al., WWW 2017): GMF, MLP, NeuMF, and the variant on shared
- `nfm.py`: Neural factorization machine (He & Chua, SIGIR 2017)
- `pnn.py`: Product-based neural networks: IPNN, OPNN and PNN*, both of them (Qu et al., ICDM 2016)
- `pooled_history.py`: The base model that DIN is measured against: events pooled alike, whatever the target
- `table_settings.py`: What may be said of a table: its dtype, its optimizer, its first values, where its rows lie
- `tables.py`: A table of embeddings, as a model declares it
- `tasks.py`: What is learned from a tower's output: loss terms, predictions, metrics
- `two_tower.py`: Two towers: vectors of users and of items that meet only in a dot product, so that each can be
- `user_item.py`: The two features that models of user-item pairs read
- `wide_deep.py`: Wide & Deep (Cheng et al., DLRS 2016)
"""

import importlib
import traceback
from typing import get_type_hints

from shardrec.data_pipeline.declaration import unknown
from shardrec.data_pipeline.errors import UserError
from shardrec.models.afm import AFM
from shardrec.models.autoint import AutoInt
from shardrec.models.autorec import AutoRec
from shardrec.models.base import ModelConfig, Recommender
from shardrec.models.bst import BST
from shardrec.models.dcn import DCN
from shardrec.models.dcn_v2 import DCNv2
from shardrec.models.deep_crossing import DeepCrossing
from shardrec.models.deepfm import DeepFM
from shardrec.models.dien import DIEN
from shardrec.models.din import DIN
from shardrec.models.dlrm import DLRM
from shardrec.models.embedding_mlp import EmbeddingMLP
from shardrec.models.fm import FM
from shardrec.models.fnn import FNN
from shardrec.models.lr import LR
from shardrec.models.mf import MF
from shardrec.models.neural_cf import GMF, NCFMLP, NCFShared, NeuMF
from shardrec.models.nfm import NFM
from shardrec.models.pnn import IPNN, OPNN, PNN
from shardrec.models.pooled_history import PooledHistory
from shardrec.models.two_tower import TwoTower
from shardrec.models.wide_deep import WideDeep

MODELS: dict[str, type[Recommender]] = {
    "lr": LR,
    "mf": MF,
    "fm": FM,
    "deepfm": DeepFM,
    "wide_deep": WideDeep,
    "fnn": FNN,
    "nfm": NFM,
    "afm": AFM,
    "ipnn": IPNN,
    "opnn": OPNN,
    "pnn": PNN,
    "deep_crossing": DeepCrossing,
    "dcn": DCN,
    "dcn_v2": DCNv2,
    "embedding_mlp": EmbeddingMLP,
    "dlrm": DLRM,
    "autoint": AutoInt,
    "autorec": AutoRec,
    "gmf": GMF,
    "ncf_mlp": NCFMLP,
    "neumf": NeuMF,
    "ncf_shared": NCFShared,
    "two_tower": TwoTower,
    "pooled_history": PooledHistory,
    "din": DIN,
    "dien": DIEN,
    "bst": BST,
}


def resolve(name: str) -> type[Recommender]:
    """The class that a run file's `model` names: a key of `MODELS`, or `package.module:Class`.

    Raises UserError for an unknown name, a module that cannot be imported, and a class that is no Recommender.
    """
    if ":" not in name:
        if name not in MODELS:
            raise UserError(unknown("model", name, list(MODELS)) + "; a model of your own is package.module:Class")
        return MODELS[name]
    module_name, _, class_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever a user's module raises while it is imported
        raise UserError(f"model {name!r}: importing {module_name!r} failed: {_one_line(error)}") from error
    found = getattr(module, class_name, None)
    if found is None:
        classes = [key for key, value in vars(module).items() if isinstance(value, type)]
        raise UserError(f"model {name!r}: {unknown('class', class_name, classes)}")
    if not (isinstance(found, type) and issubclass(found, Recommender)):
        raise UserError(f"model {name!r}: {class_name} is not a subclass of models.base.Recommender")
    return found


def explaining() -> list[str]:
    """Names of the models whose scores `shardrec predict --explain` can explain."""
    return [name for name, model in MODELS.items() if model.explain is not None]


def config_class(model: type[Recommender]) -> type[ModelConfig]:
    """The settings of a model: the annotation of its constructor's `config`.

    Raises UserError where that is missing or no subclass of ModelConfig.
    """
    try:
        found = get_type_hints(model.__init__).get("config")
    except NameError as error:
        found = f"({error})"
    if not (isinstance(found, type) and issubclass(found, ModelConfig)):
        raise UserError(
            f"model {model.__name__}: expected __init__(self, fields: Fields, config: ItsConfig) with ItsConfig a "
            f"subclass of models.base.ModelConfig, found config: {found}"
        )
    return found


def _one_line(error: Exception) -> str:
    """What went wrong, and in which line of which file."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if len(frames) > 1 else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"
