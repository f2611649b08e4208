"""A model is one file, made of the shared pieces beside it; this is the list of both.

- `afm.py`: AFM weights the pairs of a factorization machine by attention (Xiao et al., IJCAI 2017)
- `autoint.py`: AutoInt lets fields attend to each other, AutoInt+ beside an MLP (Song et al., CIKM 2019)
- `autorec.py`: AutoRec is an autoencoder of an item's or of a user's ratings (Sedhain et al., WWW 2015)
- `base.py`: A recommender is inputs + tower + task: a plain dense module that knows no rank, device or file
- `bst.py`: BST, a transformer, lets past events and the target attend to each other (Chen et al., DLP-KDD 2019)
- `dcn.py`: DCN crosses fields explicitly, beside an MLP (Deep & Cross Network, Wang et al., ADKDD 2017)
- `dcn_v2.py`: DCN-v2 crosses fields by weight matrices, before or beside an MLP (Wang et al., WWW 2021)
- `deep_crossing.py`: Deep Crossing stacks all fields and puts them through residual units (Shan et al., KDD 2016)
- `deepfm.py`: DeepFM adds a factorization machine and an MLP over the same embeddings (Guo et al., IJCAI 2017)
- `dien.py`: DIEN finds interests by one GRU and follows those of the target by another (Zhou et al., AAAI 2019)
- `din.py`: DIN weights past events by how much they bear on the target (Zhou et al., KDD 2018)
- `dlrm.py`: DLRM puts the dot products of all pairs of vectors through an MLP (Naumov et al., arXiv 1906.00091, 2019)
- `drn.py`: DRN learns from logged transitions what showing a news item is worth (Zheng et al., WWW 2018)
- `dynamic_ids.py`: Dynamic ids say how many rows of a table unbounded ids share, which get one and which lose theirs
- `embedding_mlp.py`: Embedding + MLP is the base model that deep click models are compared with
- `ffm.py`: An FFM has factors of their own for each field that ids meet (Juan et al., RecSys 2016)
- `fields.py`: Fields are the features that a model may use, and make the tables that it declares for them
- `fm.py`: A factorization machine adds up the dot products of all pairs of fields (Rendle, ICDM 2010)
- `fnn.py`: FNN is an MLP over all that a factorization machine has of a row (Zhang, Du & Wang, ECIR 2016)
- `histories.py`: Models of behaviour share a history of events, the target it is compared with, and an MLP over both
- `history_towers.py`: History towers make a user's vector of a history of items, whose vectors are those to be found
- `inputs.py`: An input says what a model asks of the tables and the batch, and in which form its tower gets it
- `kernels/`: Kernels are compiled code for what torch operations do too slowly on CPUs
- `layers/`: A layer is one idea in one file, with its paper and equation
- `lr.py`: Logistic (or linear) regression is the baseline that every other model has to beat
- `metrics/`: Metrics measure predictions, and merge across ranks
- `mf.py`: Matrix factorization adds biases to a dot product (Koren, Bell & Volinsky, IEEE Computer 2009, eq. 4)
- `neural_cf.py`: Neural collaborative filtering has four forms, among them GMF and NeuMF (He et al., WWW 2017)
- `nfm.py`: NFM puts the sum of all pairs' products through an MLP (He & Chua, SIGIR 2017)
- `pnn.py`: Product networks put inner products, outer products or both through an MLP (Qu et al., ICDM 2016)
- `pooled_history.py`: A pooled history is what DIN is measured against: events count alike, whatever the target
- `registry.py`: A registry holds classes by name and imports each, and with it torch, only when it is asked for
- `retrieval.py`: Retrieval is learned by telling each row's own item from others: in the batch, drawn, the row's own
- `sasrec.py`: SASRec reads a history by causal self-attention, up to its last event (Kang & McAuley, ICDM 2018)
- `shared_space.py`: A shared space holds vectors of users and of items whose dot products rank items as the model does
- `simplex.py`: SimpleX blends a user's own vector with the mean of the items in the history (Mao et al., CIKM 2021)
- `table_reads.py`: Table reads say which tables inputs look up, and put other tables in their place
- `table_settings.py`: Table settings say how a table is kept: its dtype, optimizer, first values and where its rows lie
- `tables.py`: A table holds rows of embeddings; a model declares it, and where its rows lie is decided elsewhere
- `tasks.py`: A task says what is learned from a tower's output: loss terms, predictions, metrics
- `temporal_difference.py`: Temporal difference learning fits a value to the reward and the value of what follows
- `two_tower.py`: Two towers make vectors of users and of items, each computed alone, that meet in a dot product
- `undefined.py`: A metric that its rows do not define has a value of its own, which says why
- `user_item.py`: Models of user-item pairs read two features, one of the user and one of the item
- `wide_deep.py`: Wide & Deep trains a linear part and an MLP jointly (Cheng et al., DLRS 2016)
- `youtube_dnn.py`: YoutubeDNN makes a user's vector of the history's mean and features (Covington et al., RecSys 2016)
"""

import importlib
import traceback
from typing import TYPE_CHECKING, get_type_hints

from shardrec.data_pipeline.declared.declaration import unknown
from shardrec.data_pipeline.errors import UserError
from shardrec.models.registry import Registry

if TYPE_CHECKING:
    from shardrec.models.base import ModelConfig, Recommender

MODELS = Registry(
    {
        "lr": "shardrec.models.lr:LR",
        "mf": "shardrec.models.mf:MF",
        "fm": "shardrec.models.fm:FM",
        "ffm": "shardrec.models.ffm:FFM",
        "deepfm": "shardrec.models.deepfm:DeepFM",
        "wide_deep": "shardrec.models.wide_deep:WideDeep",
        "fnn": "shardrec.models.fnn:FNN",
        "nfm": "shardrec.models.nfm:NFM",
        "afm": "shardrec.models.afm:AFM",
        "ipnn": "shardrec.models.pnn:IPNN",
        "opnn": "shardrec.models.pnn:OPNN",
        "pnn": "shardrec.models.pnn:PNN",
        "deep_crossing": "shardrec.models.deep_crossing:DeepCrossing",
        "dcn": "shardrec.models.dcn:DCN",
        "dcn_v2": "shardrec.models.dcn_v2:DCNv2",
        "embedding_mlp": "shardrec.models.embedding_mlp:EmbeddingMLP",
        "dlrm": "shardrec.models.dlrm:DLRM",
        "autoint": "shardrec.models.autoint:AutoInt",
        "autorec": "shardrec.models.autorec:AutoRec",
        "gmf": "shardrec.models.neural_cf:GMF",
        "ncf_mlp": "shardrec.models.neural_cf:NCFMLP",
        "neumf": "shardrec.models.neural_cf:NeuMF",
        "ncf_shared": "shardrec.models.neural_cf:NCFShared",
        "two_tower": "shardrec.models.two_tower:TwoTower",
        "simplex": "shardrec.models.simplex:SimpleX",
        "youtube_dnn": "shardrec.models.youtube_dnn:YoutubeDNN",
        "sasrec": "shardrec.models.sasrec:SASRec",
        "pooled_history": "shardrec.models.pooled_history:PooledHistory",
        "din": "shardrec.models.din:DIN",
        "dien": "shardrec.models.dien:DIEN",
        "bst": "shardrec.models.bst:BST",
        "drn": "shardrec.models.drn:DRN",
    }
)


def resolve(name: str) -> "type[Recommender]":
    """Returns the class that a run file's `model` names: a key of `MODELS`, or `package.module:Class`.

    Raises UserError for an unknown name, a module that cannot be imported, and a class that is no Recommender.
    """
    if ":" not in name:
        if name not in MODELS:
            raise UserError(unknown("model", name, list(MODELS)) + "; a model of your own is package.module:Class")
        return MODELS[name]
    from shardrec.models.base import Recommender

    module_name, _, class_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever a user's module raises while it is imported
        raise UserError(f"model {name!r}: importing {module_name!r} failed: {_one_line(error)}") from error
    model = getattr(module, class_name, None)
    if model is None:
        classes = [key for key, value in vars(module).items() if isinstance(value, type)]
        raise UserError(f"model {name!r}: {unknown('class', class_name, classes)}")
    if not (isinstance(model, type) and issubclass(model, Recommender)):
        raise UserError(f"model {name!r}: {class_name} is not a subclass of shardrec.models.base.Recommender")
    return model


def explaining() -> list[str]:
    """Returns the names of the models whose scores `shardrec predict --explain` can explain."""
    return [name for name, model in MODELS.items() if model.explain is not None]


def config_class(model: "type[Recommender]") -> "type[ModelConfig]":
    """Returns the class of a model's settings, which annotates its constructor's `config`.

    Raises UserError where that is missing or no subclass of ModelConfig.
    """
    from shardrec.models.base import ModelConfig

    try:
        annotation = get_type_hints(model.__init__).get("config")
    except NameError as error:
        annotation = f"({error})"
    if not (isinstance(annotation, type) and issubclass(annotation, ModelConfig)):
        raise UserError(
            f"model {model.__name__}: expected __init__(self, fields: Fields, config: ItsConfig) with ItsConfig a "
            f"subclass of shardrec.models.base.ModelConfig, found config: {annotation}"
        )
    return annotation


def _one_line(error: Exception) -> str:
    """Says in one line what went wrong, and in which line of which file."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if len(frames) > 1 else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"
