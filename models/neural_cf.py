"""Neural collaborative filtering has four forms, among them GMF and NeuMF (He et al., WWW 2017).

They are GMF, an MLP, NeuMF (the sum of both, each with tables of its own) and one layer on shared vectors. Tables and
parameters of the parts have the same names wherever they occur (`gmf/<id space>`, `gmf_output.*`; `mlp/<id space>`,
`mlp.*`, `mlp_output.*`), so that NeuMF starts from a trained GMF and MLP by names alone: all as they are, the outputs
scaled by alpha and 1 - alpha.
"""

from pydantic import Field, field_validator
from torch import Tensor, nn

from shardrec.data_pipeline.errors import UserError
from shardrec.models.base import Recommender, RetrievalConfig
from shardrec.models.fields import Fields
from shardrec.models.inputs import PooledEmbeddings
from shardrec.models.layers.activations import Activation, activation
from shardrec.models.layers.cancelled import keep_at_zero
from shardrec.models.layers.glorot import glorot
from shardrec.models.layers.logit import Logit
from shardrec.models.layers.mlp import MLP, MLPConfig
from shardrec.models.shared_space import Towers, Vectors
from shardrec.models.table_settings import TableInit
from shardrec.models.tables import EmbeddingTable
from shardrec.models.user_item import UserItemConfig, user_and_item

TABLE_INIT = TableInit(kind="normal", scale=0.01)  # section 4.1
HALVINGS = 3  # hidden layers of the tower, unless its settings name some (section 4.4)


class GMFConfig(UserItemConfig, RetrievalConfig):
    """`gmf` has these settings of its own."""

    embedding_dim: int = Field(default=8, gt=0, lt=2**31)


class GMF(Recommender):
    """y = h . (p_u * q_i) (eqs. 8, 9), with a bias beside h as in the authors' code."""

    def __init__(self, fields: Fields, config: GMFConfig) -> None:
        inputs = user_and_item(_tables(fields, config, "gmf", config.embedding_dim))
        super().__init__(inputs=inputs, task=config.build_any_task(fields.schema))
        self.gmf_output = _output(inputs["user"].width)
        if self.retrieves:
            keep_at_zero(self.gmf_output.bias)  # it is in all scores

    def forward(self, user: Tensor, item: Tensor) -> Tensor | Vectors:
        """[B, D], [B, D] -> [B]."""
        if self.retrieves:
            return self.vectors(user=user, item=item)
        return self.gmf_output(user * item).squeeze(1)

    def halves(self) -> Towers:
        """Returns p_u and h * q_i."""
        return Towers(lambda user: user, lambda item: item * self.gmf_output.weight, ("user",), ("item",))


class NCFMLPConfig(UserItemConfig):
    """`ncf_mlp` has these settings of its own."""

    embedding_dim: int = Field(default=32, gt=0, lt=2**31)
    mlp: MLPConfig = Field(default=MLPConfig(), description="without `hidden`: three layers, each half as wide")


class NCFMLP(Recommender):
    """y = h . a_L(W_L ... a_2(W_2 [p_u; q_i] + b_2) ...) + b (eq. 10). The two dims may differ."""

    def __init__(self, fields: Fields, config: NCFMLPConfig) -> None:
        mlp = PooledEmbeddings(_tables(fields, config, "mlp", config.embedding_dim), concat=True)
        super().__init__(inputs={"mlp": mlp}, task=config.build_task(fields.schema))
        self.mlp = _tower(mlp.width, config.mlp)
        self.mlp_output = _output(self.mlp.width)

    def forward(self, mlp: Tensor) -> Tensor:
        """[B, D_user + D_item] -> [B]."""
        return self.mlp_output(self.mlp(mlp)).squeeze(1)


class NeuMFConfig(UserItemConfig):
    """`neumf` has these settings of its own."""

    embedding_dim: int = Field(default=8, gt=0, lt=2**31, description="of the tables gmf/*")
    mlp_embedding_dim: int | None = Field(
        default=None,
        gt=0,
        lt=2**31,
        description="of the tables mlp/*; None: 4 times the other, so that both parts end as wide",
    )
    mlp: MLPConfig = Field(default=MLPConfig(), description="without `hidden`: three layers, each half as wide")


class NeuMF(Recommender):
    """y = h . [phi_GMF; phi_MLP] (eq. 12) with tables of their own; h in two halves, each with a bias."""

    def __init__(self, fields: Fields, config: NeuMFConfig) -> None:
        gmf = PooledEmbeddings(_tables(fields, config, "gmf", config.embedding_dim))
        mlp_dim = config.mlp_embedding_dim or 4 * config.embedding_dim
        mlp = PooledEmbeddings(_tables(fields, config, "mlp", mlp_dim), concat=True)
        super().__init__(inputs={"gmf": gmf, "mlp": mlp}, task=config.build_task(fields.schema))
        self.gmf_output = _output(gmf.width // 2)
        self.mlp = _tower(mlp.width, config.mlp)
        self.mlp_output = _output(self.mlp.width)

    def forward(self, gmf: Tensor, mlp: Tensor) -> Tensor:
        """[B, 2, D], [B, D_user + D_item] -> [B]."""
        return (self.gmf_output(gmf[:, 0] * gmf[:, 1]) + self.mlp_output(self.mlp(mlp))).squeeze(1)


class NCFSharedConfig(UserItemConfig):
    """`ncf_shared` has these settings of its own."""

    embedding_dim: int = Field(default=16, gt=0, lt=2**31)
    activation: Activation = "relu"

    @field_validator("activation")
    @classmethod
    def _keeps_width(cls, value: Activation) -> Activation:
        if value == "maxout":
            raise ValueError("maxout takes two inputs a unit, where p * q has one; choose another")
        return value


class NCFShared(Recommender):
    """y = h . a(p_u * q_i + W [p_u; q_i] + b) (eq. 11): GMF and one layer on the same vectors; a bias beside h."""

    def __init__(self, fields: Fields, config: NCFSharedConfig) -> None:
        pair = PooledEmbeddings(_tables(fields, config, "", config.embedding_dim))
        super().__init__(inputs={"pair": pair}, task=config.build_task(fields.schema))
        dim = pair.width // 2
        self.hidden = nn.Linear(2 * dim, dim)
        self.activation = activation(config.activation, dim)
        self.output = _output(dim)
        glorot(self.hidden)

    def forward(self, pair: Tensor) -> Tensor:
        """[B, 2, D] -> [B]."""
        return self.output(self.activation(pair[:, 0] * pair[:, 1] + self.hidden(pair.flatten(1)))).squeeze(1)


def _tables(fields: Fields, config: UserItemConfig, group: str, dim: int) -> dict[str, EmbeddingTable]:
    return fields.tables(embedding_dim=dim, features=config.pair(fields), group=group, init=TABLE_INIT)


def _tower(width: int, config: MLPConfig) -> MLP:
    """Makes the MLP over [p_u; q_i]; by default every layer is half as wide as the one before.

    Raises UserError where the vectors are too narrow to be halved so often.
    """
    if "hidden" not in config.model_fields_set:
        if width < 2**HALVINGS:
            raise UserError(
                f"model: vectors of {width} numbers in all cannot be halved {HALVINGS} times; give wider ones, or "
                "the layers by `mlp: {hidden: [...]}`"
            )
        config = config.model_copy(update={"hidden": tuple(width >> i for i in range(1, HALVINGS + 1))})
    tower = MLP(width, config, out=None)
    glorot(tower)
    return tower


def _output(width: int) -> Logit:
    """Makes the last layer: h and its bias."""
    layer = Logit(width, 1)
    glorot(layer)
    return layer
