"""The history models are written here as they usually are, for `shardrec bench histories` to measure ours against.

Histories are padded to [B, L] and looked up without pooling, attention scores all L positions and masks what is none,
recurrent layers are a Python loop over time under autograd; tables are `nn.Embedding` with dense gradients, and Adam
updates everything. Two forms of that: as it usually comes (torch's default matrix precision and Adam; each time step
sliced out of its buffer and projected on its own), and `tuned`: our matrix precision, fused Adam, inputs projected in
one product, time unbound once, since slices fill buffers with zeros in backward. Reader, MLP and loss are ours in both.

The equations are those of the models' default settings, from the same weights. One difference is usual too: in training
Dice takes its moments over the padding as well.
"""

from collections.abc import Iterable
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shardrec.data_pipeline.batch import Batch
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.schema import Schema
from shardrec.data_pipeline.loading.loader import Loader
from shardrec.data_pipeline.reading.index import DataSet
from shardrec.models.base import Recommender
from shardrec.models.inputs import DenseFeatures, Input
from shardrec.models.layers.activations import Dice
from shardrec.models.layers.moments import live_rows
from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.launch.environment import Environment
from shardrec.trainer.session.blueprint import build_model
from shardrec.trainer.session.precision import settled


class Output(NamedTuple):
    """An output has logits [B] and, or None, the auxiliary losses [P] of pairs of events with the `row` [P] of each."""

    logits: Tensor
    auxiliary: Tensor | None = None
    row: Tensor | None = None


class PaddedModel(nn.Module):
    """A padded model looks up padded histories and has the MLP over [interest; target; context; dense].

    model: the one whose weights and settings are taken over. length: L. Tables begin with random rows.
    """

    def __init__(self, model: Any, schema: Schema, tuned: bool) -> None:
        super().__init__()
        self.tuned = tuned
        self.inputs: dict[str, Input] = model.inputs
        self.tables = nn.ModuleDict()
        for table in model.tables.values():
            rows = nn.Embedding(table.num_embeddings, table.embedding_dim)
            nn.init.uniform_(rows.weight, -table.init.scale, table.init.scale)
            self.tables[table.name] = rows
        self.length = max(schema[name].max_length for name in self._tables_of("history"))
        self.mlp = deepcopy(model.mlp)

    def forward(self, batch: Batch) -> Any:
        """Returns logits [B], or `Output`."""
        ids = batch.ids.to_dict()
        history = {f: ids[f] for f in self._tables_of("history")}
        lengths = next(iter(history.values())).lengths()
        live = torch.arange(self.length, device=lengths.device) < lengths.unsqueeze(1)
        events = self._events({f: its.values() for f, its in history.items()}, live)
        beside = [self._pooled("target", ids), *([self._pooled("context", ids)] if "context" in self.inputs else [])]
        dense = [batch.dense] if batch.dense.shape[1] else []
        interest = self.interest(events, beside[0], live)
        logits = self.mlp(torch.cat([interest, *beside, *dense], 1)).squeeze(1)
        return self.output(logits, events, live, {f: its.values() for f, its in ids.items()})

    def interest(self, events: Tensor, target: Tensor, live: Tensor) -> Tensor:
        """Returns interests [B, I] of events [B, L, E] and targets [B, E]; live [B, L]: which positions are events."""
        raise NotImplementedError

    def output(self, logits: Tensor, events: Tensor, live: Tensor, ids: dict[str, Tensor]) -> Any:
        """Returns what the task reads."""
        return logits

    def _tables_of(self, name: str) -> dict[str, nn.Module]:
        source = self.inputs[name]
        assert not isinstance(source, DenseFeatures)
        return {feature: self.tables[table.name] for feature, table in source.tables.items()}

    def _events(self, ids: dict[str, Tensor], live: Tensor, name: str = "history") -> Tensor:
        """Returns the vectors [B, L, E] of sequences of [T] ids each; padding looks up row 0."""
        vectors = []
        for feature, table in self._tables_of(name).items():
            padded = torch.zeros(live.shape, dtype=torch.int64, device=live.device)
            vectors.append(table(padded.masked_scatter_(live, ids[feature])))
        return torch.cat(vectors, -1)

    def _pooled(self, name: str, ids: dict[str, Any]) -> Tensor:
        """Returns the vectors [B, sum of D] of features of one id a row."""
        return torch.cat([table(ids[feature].values()) for feature, table in self._tables_of(name).items()], 1)


class PaddedPooling(PaddedModel):
    """The padded form of mean pooling averages over all L positions, under a mask."""

    def interest(self, events: Tensor, target: Tensor, live: Tensor) -> Tensor:
        """Returns the mean of a row's events."""
        return (events * live.unsqueeze(2)).sum(1) / live.sum(1, keepdim=True).clamp(min=1)


class PaddedDIN(PaddedModel):
    """The padded form of DIN scores all L positions."""

    def __init__(self, model: Any, schema: Schema, tuned: bool) -> None:
        super().__init__(model, schema, tuned)
        assert not (model.softmax or model.attention.outer), "the yardstick has the default settings only"
        layers = (PaddedDice(x) if isinstance(x, Dice) else deepcopy(x) for x in model.attention.mlp.layers)
        self.attention = nn.Sequential(*layers)

    def interest(self, events: Tensor, target: Tensor, live: Tensor) -> Tensor:
        """Returns the sum of events, each weighted by its attention; weights need not sum to 1."""
        wanted = target.unsqueeze(1).expand_as(events)
        seen = torch.cat([events, wanted, events - wanted, events * wanted], -1)  # [B, L, 4 E]
        weights = self.attention(seen.flatten(0, 1)).view(live.shape).masked_fill(~live, 0)
        return torch.bmm(weights.unsqueeze(1), events).squeeze(1)


class PaddedDice(nn.Module):
    """Padded Dice is `Dice` by torch's batch norm."""

    def __init__(self, like: Dice) -> None:
        super().__init__()
        moments, dtype = like.moments, like.alpha.dtype
        self.norm = nn.BatchNorm1d(
            len(like.alpha), eps=moments.eps, momentum=moments.momentum, affine=False, dtype=dtype
        )
        self.norm.load_state_dict(moments.state_dict(), strict=False)
        self.alpha = deepcopy(like.alpha)

    def forward(self, s: Tensor) -> Tensor:
        """Maps s [n, C] to [n, C]."""
        p = torch.sigmoid(self.norm(s))
        return p * s + (1 - p) * self.alpha * s


class PaddedDIEN(PaddedModel):
    """The padded form of DIEN runs both recurrent layers over all L positions."""

    def __init__(self, model: Any, schema: Schema, tuned: bool) -> None:
        super().__init__(model, schema, tuned)
        is_plain = model.evolving == "augru" and isinstance(model.attention, nn.Linear) and model.auxiliary_net is None
        assert is_plain, "the yardstick has the default settings only"
        self.extractor, self.evolution = (PaddedGRU(layer, tuned) for layer in (model.extractor, model.evolution))
        self.attention = deepcopy(model.attention)
        self._negative = dict(zip(model.negated.tolist(), self._negative_names(), strict=True))
        self._states = torch.empty(0)

    def _negative_names(self) -> tuple[str, ...]:
        return tuple(self._tables_of("negatives")) if "negatives" in self.inputs else ()

    def interest(self, events: Tensor, target: Tensor, live: Tensor) -> Tensor:
        """Returns the last state of the attentional GRU over the extracted interests."""
        states = torch.stack(self.extractor(events), 1)  # [B, L, H]
        score = torch.bmm(states, self.attention(target).unsqueeze(2).to(states.dtype)).squeeze(2)
        weights = torch.softmax(score.masked_fill(~live, torch.finfo(score.dtype).min), 1) * live
        self._states = states
        return self.evolution(states, weights.to(states.dtype))[-1].to(events.dtype)  # a weight of 0 holds the state

    def output(self, logits: Tensor, events: Tensor, live: Tensor, ids: dict[str, Tensor]) -> Output:
        """Adds the auxiliary loss: the next event against its negative, by the state before them."""
        if not (self._negative and self.training):
            return Output(logits)
        names = {f: self._negative.get(i, f) for i, f in enumerate(self._tables_of("history"))}
        others = self._events({f: ids[name] for f, name in names.items()}, live)
        states, pairs = self._states[:, :-1], live[:, 1:]
        yes, no = ((states * seen[:, 1:]).sum(2) for seen in (events, others))
        loss = F.softplus(-yes) + F.softplus(no)
        return Output(logits, loss[pairs], pairs.nonzero()[:, 0])


class PaddedGRU(nn.Module):
    """A padded GRU is `models.layers.recurrent.GRU` as a loop over time."""

    def __init__(self, like: Any, tuned: bool) -> None:
        super().__init__()
        self.project, self.recurrent = deepcopy(like.project), deepcopy(like.recurrent)
        self.tuned = tuned

    def forward(self, inputs: Tensor, attention: Tensor | None = None) -> list[Tensor]:
        """Returns L states [B, H] of inputs [B, L, I]; attention: [B, L], scales the update gate."""
        state = inputs.new_zeros(len(inputs), self.recurrent.shape[1], dtype=self.recurrent.dtype)
        scale = None if attention is None else attention.unsqueeze(2)
        states = []
        for t, x in enumerate(self._steps(inputs)):
            of_inputs, of_state = x.chunk(3, 1), F.linear(state, self.recurrent).chunk(3, 1)
            reset, update = torch.sigmoid(of_inputs[0] + of_state[0]), torch.sigmoid(of_inputs[2] + of_state[2])
            if scale is not None:
                update = update * scale[:, t]
            state = torch.lerp(state, torch.tanh(of_inputs[1] + reset * of_state[1]).to(state), update.to(state))
            states.append(state)
        return states

    def _steps(self, inputs: Tensor) -> Iterable[Tensor]:
        """Yields W i_t [B, gates] of each step."""
        if self.tuned:
            return self.project(inputs).unbind(1)
        return (self.project(inputs[:, t]) for t in range(inputs.shape[1]))


class PaddedBST(PaddedModel):
    """The padded form of BST attends over all L positions and the target, under a mask."""

    def __init__(self, model: Any, schema: Schema, tuned: bool) -> None:
        super().__init__(model, schema, tuned)
        self.heads = model.heads
        self.recency, self.layers = deepcopy(model.recency), deepcopy(model.layers)

    def interest(self, events: Tensor, target: Tensor, live: Tensor) -> Tensor:
        """Returns the target's vector after attention, and the mean of the events'."""
        from_end = live.sum(1, keepdim=True) - torch.arange(self.length + 1, device=live.device)
        from_end[:, -1] = 0  # the target
        x = torch.cat([events, target.unsqueeze(1)], 1) + self.recency(from_end.clamp(min=0))
        seen = torch.cat([live, live.new_ones(len(live), 1)], 1)[:, None, None]
        for layer in self.layers:
            x = self._layer(layer, x, seen)
        mean = (x[:, :-1] * live.unsqueeze(2)).sum(1) / live.sum(1, keepdim=True).clamp(min=1)
        return torch.cat([x[:, -1], mean], 1).to(events.dtype)

    def _layer(self, layer: Any, x: Tensor, seen: Tensor) -> Tensor:
        query, key, value = (
            project(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for project in (layer.query, layer.key, layer.value)
        )
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=seen).transpose(1, 2).flatten(2)
        x = layer.attended_norm(x + layer.dropout(layer.output(attended)))
        return layer.norm(x + layer.dropout(layer.down(F.leaky_relu(layer.up(x)))))


FORMS: dict[str, type[PaddedModel]] = {
    "pooled_history": PaddedPooling,
    "din": PaddedDIN,
    "dien": PaddedDIEN,
    "bst": PaddedBST,
}
"""The padded form of each model, by the model's name."""


def padded_form(name: str, model: Recommender, schema: Schema, *, tuned: bool = False) -> PaddedModel:
    """Returns the padded form of a model, with its weights. Raises UserError for a model, or features, without one."""
    if name not in FORMS:
        raise UserError(f"model {name} has no padded form to compare with; name one of: {', '.join(FORMS)}")
    numbers = schema.subset(model.features).dense_sequences
    if numbers:
        raise UserError(
            f"the padded forms read no dense_sequence, found {numbers[0].name!r}; leave those out by data.features"
        )
    return FORMS[name](model, schema, tuned)


class PaddedTraining:
    """Padded training trains the padded form of a run file's model, in one process, from the run's own reader.

    Unless `tuned`, the process's matrix precision becomes torch's default.
    """

    def __init__(self, config: RunConfig, environment: Environment, *, tuned: bool) -> None:
        schema, data = config.load_schema(), config.data
        model = build_model(config, schema)
        self.task = model.task
        self.device, self.precision = environment.device, settled(config, environment).trainer.precision
        self.module = padded_form(config.model["name"], model, schema, tuned=tuned).to(self.device)
        rate = config.optimizer.tower.learning_rate
        self.optimizer = torch.optim.Adam(self.module.parameters(), rate, fused=tuned or None)
        if not tuned:
            torch.set_float32_matmul_precision("highest")
        train = data.split("train")
        assert train is not None
        self.loader = Loader(
            DataSet.open(train),
            schema.subset(model.features),
            folder=data.schema_folder,
            global_batch_size=data.global_batch_size,
            seed=config.trainer.seed,
            lanes=data.lanes,
            window=data.window,
            memory=data.memory,
            prefetch=data.prefetch,
        )

    def train_step(self, batch: Batch) -> None:
        """Makes one update."""
        with live_rows(batch.live), torch.autocast(self.device.type, torch.bfloat16, self.precision == "bf16"):
            output = self.module(batch)
        terms = self.task.loss(output, batch)
        self.optimizer.zero_grad()
        torch.stack([term.total / term.count for term in terms.values()]).sum().backward()
        self.optimizer.step()
