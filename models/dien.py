"""DIEN finds interests by one GRU and follows those of the target by another (Zhou et al., AAAI 2019)."""

from typing import Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from shardrec.data_pipeline.batch import Batch
from shardrec.data_pipeline.declared.declaration import unknown
from shardrec.data_pipeline.errors import UserError
from shardrec.models.base import Explanation
from shardrec.models.fields import Fields
from shardrec.models.histories import NEGATIVE, History, HistoryConfig, HistoryModel, alignment
from shardrec.models.inputs import Input, Jagged, Padded, SequenceEmbeddings
from shardrec.models.layers.activation_unit import Interaction, ProjectedUnit
from shardrec.models.layers.jagged_product import jagged_product
from shardrec.models.layers.jagged_softmax import jagged_softmax
from shardrec.models.layers.mlp import MLP, MLPConfig
from shardrec.models.layers.packing import Packing, pack_steps
from shardrec.models.layers.padded import padded_product, padded_softmax
from shardrec.models.layers.recurrent import GRU, Update
from shardrec.models.metrics import MetricSet
from shardrec.models.metrics.collective import Collective
from shardrec.models.tasks import Pointwise, Task, Term

UPDATES: dict[str, Update] = {"augru": "scaled", "aigru": "learned", "agru": "attention"}


class DIENConfig(HistoryConfig):
    """`dien` has these settings of its own."""

    hidden: int | None = Field(
        default=None, gt=0, lt=2**31, description="columns of both GRUs' states; None: those of an event"
    )
    evolving: Literal["augru", "aigru", "agru"] = Field(
        default="augru", description="attention scales the update gate, scales the inputs, or is the update gate"
    )
    attention: Literal["bilinear", "activation_unit"] = Field(
        default="bilinear",
        description="what a softmax is of: h W e_a (eq. 11), or DIN's unit over h and the target",
    )
    attention_mlp: MLPConfig = Field(
        default=MLPConfig(hidden=(64, 16), activation="dice"), description="hidden layers of attention: activation_unit"
    )
    interaction: Interaction = Field(
        default="difference_product", description="of attention: activation_unit, as in `din`"
    )
    auxiliary: float | None = Field(
        default=None, ge=0, description="alpha of the auxiliary loss; None: 1 where there are negatives, else 0"
    )
    auxiliary_score: Literal["inner_product", "net"] = "inner_product"
    auxiliary_mlp: MLPConfig = Field(
        default=MLPConfig(hidden=(100, 50), activation="sigmoid"), description="of auxiliary_score: net"
    )
    auxiliary_mean: Literal["pairs", "rows"] = Field(
        default="pairs", description="over all neighbouring events, or over rows the sum of a row's (eq. 6)"
    )
    negatives: dict[str, str] = Field(
        default={},
        description="sequence -> its negatives; what is left out is called negative_ and the sequence's name",
    )

    @model_validator(mode="after")
    def _attention_settings_have_an_effect(self) -> "DIENConfig":
        for name in ("attention_mlp", "interaction"):
            if self.attention != "activation_unit" and name in self.model_fields_set:
                raise ValueError(
                    f"{name} is of attention: activation_unit, found {self.attention}; leave one of them out"
                )
        return self

    @model_validator(mode="after")
    def _auxiliary_settings_have_an_effect(self) -> "DIENConfig":
        for name in ("auxiliary_score", "auxiliary_mlp", "auxiliary_mean", "negatives"):
            if self.auxiliary == 0 and name in self.model_fields_set:
                raise ValueError(
                    f"{name} is of the auxiliary loss, which auxiliary: 0 turns off; leave one of them out"
                )
        if self.auxiliary_score != "net" and "auxiliary_mlp" in self.model_fields_set:
            raise ValueError("auxiliary_mlp is of auxiliary_score: net, found inner_product; leave one of them out")
        return self


class DIEN(HistoryModel):
    """h = GRU(e_1 .. e_n); a_t = softmax over t of h_t W e_a (eq. 11); the interest is the last state of a second GRU.

    That one reads h, its update gate scaled by a_t (`augru`, eqs. 14-16) or replaced by it (`agru`), or reads a_t h_t
    (`aigru`). With `attention: activation_unit` a is the softmax of DIN's unit over h_t and the projected target, as in
    the authors' code. An empty history's interest is zero. The auxiliary loss teaches h_t to tell e_{t+1} from a
    negative. An event whose id, or number, of some sequence has no negative keeps it: the negative is the same event
    with another item.
    """

    negated: Tensor  # which of the sequences have negatives
    negated_numbers: Tensor  # which of the dense sequences

    def __init__(self, fields: Fields, config: DIENConfig) -> None:
        history = History.of(fields, config)
        sequences, numbers = history.sequences, tuple(history.numbers)
        negatives = _negatives(fields, config, sequences, numbers)
        false_numbers = _false_numbers(fields, config, numbers, negatives)
        more_inputs: dict[str, Input] = {}
        task = config.build_task(fields.schema)
        if negatives:
            more_inputs["negatives"] = SequenceEmbeddings(
                fields.tables(embedding_dim=config.embedding_dim, features=negatives.values()),
                tuple(false_numbers.values()),
                read="training",
            )
        alpha = 1.0 if config.auxiliary is None else config.auxiliary
        super().__init__(
            fields, config, more_inputs=more_inputs, task=WithAuxiliary(task, alpha, config.auxiliary_mean)
        )
        hidden = config.hidden or self.event_width
        places = torch.tensor([sequences.index(name) for name in negatives], dtype=torch.int64)
        self.register_buffer("negated", places, persistent=False)
        places = torch.tensor([numbers.index(name) for name in false_numbers], dtype=torch.int64)
        self.register_buffer("negated_numbers", places, persistent=False)
        self.extractor = GRU(self.event_width, hidden)
        self.attention: nn.Linear | ProjectedUnit
        if config.attention == "bilinear":
            self.attention = nn.Linear(self.event_width, hidden, bias=False)  # W
        else:
            self.attention = ProjectedUnit(self.event_width, hidden, config.attention_mlp, config.interaction)
        self.evolving = config.evolving
        self.evolution = GRU(hidden, hidden, UPDATES[config.evolving])
        self.mlp = self.mlp_over(hidden, config.mlp)
        self.auxiliary_net: nn.Module | None = None
        if negatives and config.auxiliary_score == "net":
            self.auxiliary_net = MLP(hidden + self.event_width, config.auxiliary_mlp, padded=False)
        elif negatives and hidden != self.event_width:
            raise UserError(
                f"dien: auxiliary_score: inner_product needs states as wide as events, found hidden {hidden} and "
                f"events of {self.event_width} columns; leave hidden out, or set auxiliary_score: net"
            )

    def forward(
        self,
        target: Tensor,
        history: Jagged,
        dense: Tensor,
        context: Tensor | None = None,
        negatives: Jagged | None = None,
    ) -> "Evolved":
        """[B, F, D], [T, F, D], [B, N], [B, sum of D], [T, F', D] -> logits [B]; in training, auxiliary losses."""
        events = self.events(history)
        row, packing, states, unpacked, weights = self._attend(events, self.target_event(target, dense), history)
        inputs = packing.pack(weights)
        if self.evolving == "aigru":
            evolved = self.evolution(states * inputs.unsqueeze(1), packing)
        else:
            evolved = self.evolution(states, packing, inputs)
        logits = self.score(packing.final(evolved, len(target)), target, dense, context)
        if negatives is None or not self.training:
            return Evolved(logits)
        return Evolved(logits, *self._auxiliary(unpacked, packing, events, self._false(history, negatives), row))

    def padded(self, target: Tensor, history: Padded, dense: Tensor, context: Tensor | None = None) -> "Evolved":
        """[B, F, D], [B, L, F, D], [B, N], [B, sum of D] -> logits [B]."""
        return Evolved(super().padded(target, history, dense, context))

    def padded_interest(self, events: Tensor, target: Tensor, live: Tensor) -> Tensor:
        """[B, L, E], [B, E], [B, L] -> [B, H]."""
        states = self.extractor.padded(events, live)
        if isinstance(self.attention, ProjectedUnit):
            score = self.attention.padded(states, target)
        else:
            score = padded_product(states, self.attention(target))
        weights = padded_softmax(score, live)
        if self.evolving == "aigru":
            evolved = self.evolution.padded(states * weights.unsqueeze(2), live)
        else:
            evolved = self.evolution.padded(states, live, weights)
        return evolved[:, -1]

    def explain(
        self,
        target: Tensor,
        history: Jagged,
        dense: Tensor,
        context: Tensor | None = None,
        negatives: Jagged | None = None,
    ) -> Explanation:
        """Returns the attention a_t to each event, 1 in sum in every row that has any."""
        attention = self._attend(self.events(history), self.target_event(target, dense), history)[-1]
        return Explanation(history._replace(values=attention), self.sequences[:1])

    def _attend(
        self, events: Tensor, target: Tensor, history: Jagged
    ) -> tuple[Tensor, Packing, Tensor, Tensor, Tensor]:
        """Returns rows of positions [T], their packing, interest states h [T, H] packed and not, and attention [T]."""
        row = history.row_of_position()
        packing = pack_steps(history.lengths, row, history.offsets, history.host_lengths)
        states = self.extractor(packing.pack(events), packing)
        unpacked = packing.unpack(states)
        if isinstance(self.attention, ProjectedUnit):
            score = self.attention(unpacked, target, row, history.offsets).to(states.dtype)
        else:
            wanted = self.attention(target).to(states.dtype)
            score = jagged_product(unpacked, wanted, row, history.offsets)
        return row, packing, states, unpacked, jagged_softmax(score, row, history.lengths, history.offsets)

    def _false(self, history: Jagged, negatives: Jagged) -> Tensor:
        """Returns [T, E]: the negative of each event."""
        values, dense = negatives.values, history.dense
        if len(self.negated) < history.values.shape[1]:
            values = history.values.index_copy(1, self.negated, values)
        if dense is not None and negatives.dense is not None:
            dense = dense.index_copy(1, self.negated_numbers, negatives.dense)
        return self.events(history._replace(values=values, dense=dense))

    def _auxiliary(
        self, states: Tensor, packing: Packing, events: Tensor, false: Tensor, row: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns -log sigma(h_t, e_{t+1}) - log(1 - sigma(h_t, e^_{t+1})) of neighbours (eq. 6), and their rows."""
        later = packing.jagged[len(packing.rows) :]  # the positions that have one before them in their row
        right, wrong = events.to(states.dtype), false.to(states.dtype)
        if self.auxiliary_net is None:  # of all neighbours, those of two rows too: slices are cheaper than copies
            yes, no = ((states[:-1] * seen[1:]).sum(1).index_select(0, later - 1) for seen in (right, wrong))
        else:
            state = states.index_select(0, later - 1)
            pairs = torch.cat([torch.cat([state, seen.index_select(0, later)], 1) for seen in (right, wrong)])
            yes, no = self.auxiliary_net(pairs).squeeze(1).chunk(2)
        return F.softplus(-yes) + F.softplus(no), row[later]


class Evolved(NamedTuple):
    """The tower of DIEN returns this.

    logits: [B]; auxiliary: [P] losses of pairs of neighbouring events, and row: [P] whose they are, or None.
    """

    logits: Tensor
    auxiliary: Tensor | None = None
    row: Tensor | None = None


class WithAuxiliary(Task):
    """This task adds the term `auxiliary` to a task on the logits: alpha times the mean auxiliary loss.

    The mean is over all pairs, or over all rows, of whose pairs the losses are added up (eq. 6). A pair, or a row,
    counts with its row's sample weight.
    """

    def __init__(self, task: Pointwise, alpha: float, mean: Literal["pairs", "rows"]) -> None:
        self.task = task
        self.alpha = alpha
        self.mean = mean

    def loss(self, output: Evolved, batch: Batch) -> dict[str, Term]:
        """Returns the task's terms, and in training `auxiliary` where there are negatives."""
        terms = self.task.loss(output.logits, batch)
        if output.auxiliary is None or output.row is None:
            return terms
        weights = torch.where(batch.live, batch.weights, 0).to(output.auxiliary.dtype)
        weight = weights[output.row]
        count = weight.sum() if self.mean == "pairs" else weights.sum()
        return terms | {"auxiliary": Term(self.alpha * (weight * output.auxiliary).sum(), count)}

    def prediction(self, output: Evolved) -> Tensor | Jagged:
        """Returns the task's prediction."""
        return self.task.prediction(output.logits)

    def metrics(self, collective: Collective | None = None, *, down_sampled: bool = False) -> MetricSet:
        """Makes the metrics of the task on the logits."""
        return self.task.metrics(collective, down_sampled=down_sampled).of(lambda output: output.logits)

    def check(self, batch: Batch) -> None:
        """Checks as the task does."""
        self.task.check(batch)

    def broken_rows(self, output: Evolved, batch: Batch) -> Tensor:
        """Returns [B] bool: rows whose loss or one of whose auxiliary losses is not finite."""
        broken = self.task.broken_rows(output.logits, batch)
        if output.auxiliary is not None and output.row is not None:
            broken = broken.index_fill(0, output.row[~output.auxiliary.isfinite()], True)
        return broken


def _negatives(
    fields: Fields, config: DIENConfig, sequences: tuple[str, ...], numbers: tuple[str, ...]
) -> dict[str, str]:
    """Maps those sequences that have negatives to them; none where the auxiliary loss is off.

    Raises UserError where the auxiliary loss is asked for without negatives, and for negatives that do not fit.
    """
    if config.auxiliary == 0:
        return {}
    for name in config.negatives:
        if name not in (*sequences, *numbers):
            raise UserError("model: negatives: " + unknown("sequence of the history", name, (*sequences, *numbers)))
    negatives = {}
    for name in sequences:
        negative = config.negatives.get(name, NEGATIVE + name)
        if negative in fields.sequences:
            negatives[name] = negative
        elif name in config.negatives:
            raise UserError("model: negatives: " + unknown("sequence feature", negative, fields.sequences))
    asked = [f"auxiliary {config.auxiliary:g}"] if config.auxiliary is not None else []
    asked += [f"auxiliary_mean: {config.auxiliary_mean}"] if "auxiliary_mean" in config.model_fields_set else []
    if not negatives and asked:
        remedy = "set auxiliary: 0" if config.auxiliary is not None else "leave it out"
        raise UserError(
            f"model: {asked[0]} needs negatives, but the schema has no sequence {NEGATIVE + sequences[0]!r}; prepare "
            f"data with them, name them by `negatives`, or {remedy}"
        )
    for name, negative in negatives.items():
        true, false = fields.schema[name], fields.schema[negative]
        if true.table_name != false.table_name or true.aligned is None or true.aligned != false.aligned:
            raise UserError(
                f"model: sequence {negative!r} (table {false.table_name!r}, {alignment(false)}) cannot hold negatives "
                f"of {name!r} (table {true.table_name!r}, {alignment(true)}); give both one `table` and one `aligned`"
            )
    return negatives


def _false_numbers(
    fields: Fields, config: DIENConfig, numbers: tuple[str, ...], negatives: dict[str, str]
) -> dict[str, str]:
    """Maps those dense sequences that have negatives to them: numbers of the negatives that `negatives` maps ids to.

    Raises UserError for numbers that do not lie beside those ids.
    """
    found = {}
    for name in numbers if negatives else ():
        false = config.negatives.get(name, NEGATIVE + name)
        if false in fields.dense_sequences:
            found[name] = false
        elif name in config.negatives:
            raise UserError("model: negatives: " + unknown("dense_sequence feature", false, fields.dense_sequences))
    for name, false in found.items():
        if fields.schema[name].aligned != fields.schema[false].aligned:
            raise UserError(
                f"model: dense_sequence {false!r} ({alignment(fields.schema[false])}) cannot hold negatives of "
                f"{name!r} ({alignment(fields.schema[name])}); give both one `aligned`"
            )
    return found
