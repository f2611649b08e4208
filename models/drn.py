"""DRN learns from logged transitions what showing a news item is worth (Zheng et al., WWW 2018).

Its net is a dueling one (Wang et al., ICML 2016), its target that of double Q-learning (van Hasselt, Guez & Silver,
AAAI 2016), by settings that of a plain deep Q-network (Mnih et al., Nature 2015).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from shardrec.data_pipeline.declared.declaration import listed, unknown
from shardrec.data_pipeline.declared.name_patterns import matches
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.feature_kinds import DenseFeature, IdFeature
from shardrec.data_pipeline.features.schema import Schema
from shardrec.models.base import ModelConfig, Recommender
from shardrec.models.fields import Fields
from shardrec.models.inputs import DenseFeatures, Input, Jagged, PooledEmbeddings, SequenceEmbeddings
from shardrec.models.layers.frozen_copy import frozen_copy, twins
from shardrec.models.layers.jagged_argmax import jagged_argmax
from shardrec.models.layers.mlp import MLP, MLPConfig
from shardrec.models.tables import EmbeddingTable
from shardrec.models.temporal_difference import ActionValues, Loss, TemporalDifference

ROLES = {"state": ("user", "context"), "action": ("item", "user_item")}


class TargetConfig(BaseModel):
    """The target network becomes the online one every so many steps.

    `copy` makes it equal to the online network; `swap` lets the two change places, as the paper does.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    every: int = Field(default=100, gt=0, lt=2**31)
    by: Literal["copy", "swap"] = "copy"


class DRNConfig(ModelConfig):
    """`drn` has these settings; `state` and `action` are names or patterns of features."""

    state: tuple[str, ...] | None = Field(default=None, description="None: the features of role user or context")
    action: tuple[str, ...] | None = Field(default=None, description="None: the features of role item or user_item")
    advantage: Literal["both", "action"] = Field(
        default="both", description="what A reads: state and action, or the action alone"
    )
    double: bool = Field(default=True, description="false: y takes the largest value of the target network (DQN)")
    discount: float = Field(default=0.4, ge=0, le=1, description="gamma; 0: the reward alone is learned")
    rewards: dict[str, float] = Field(default={"click": 1.0}, min_length=1, description="label -> its weight in r")
    terminal: str | None = Field(default="terminal", description="label, 1 where nothing follows; null: there is none")
    target: TargetConfig = TargetConfig()
    loss: Loss = "squared"
    embedding_dim: int = Field(default=16, gt=0, lt=2**31)
    mlp: MLPConfig = Field(default=MLPConfig(), description="hidden layers of V and of A each")


class DuelingNet(nn.Module):
    """Q(s, a) = V(s) + A(s, a), or V(s) + A(a): two MLPs, whose outputs are added as they are."""

    def __init__(self, state_width: int, action_width: int, config: DRNConfig) -> None:
        super().__init__()
        self.reads_state = config.advantage == "both"
        self.value = MLP(state_width, config.mlp)
        self.advantage = MLP(action_width + (state_width if self.reads_state else 0), config.mlp)

    def forward(self, state: Tensor, action: Tensor, row: Tensor | None = None) -> Tensor:
        """States [B, S], actions [T, A] and the state that each is taken in, [T] (None: its own, T = B) -> Q [T]."""
        value = self.value(state).squeeze(1)
        if row is not None:
            value = value.index_select(0, row)
        if self.reads_state:
            action = torch.cat([state if row is None else state.index_select(0, row), action], 1)
        return value + self.advantage(action).squeeze(1)


class DRN(Recommender):
    """The value of an action is fitted to y = r + gamma Q(s', argmax_a Q(s', a; W); W').

    s: the user and the context, a: the item that was shown; W: the `online` network; W': the `target` one, a copy of
    it from up to `target.every` steps ago, on the embeddings of today. A next state without candidates is worth 0.
    Raises UserError for patterns and labels that there are not, for an action whose features are not of one number or
    id each, and where the schema does not have the next state and its candidates, unless `discount` is 0.
    """

    steps: Tensor  # how many updates there were

    def __init__(self, fields: Fields, config: DRNConfig) -> None:
        sides = _sides(fields, config)
        inputs: dict[str, Input] = {
            "state_dense": DenseFeatures(sides.state.dense),
            "action": PooledEmbeddings(_tables(fields, config, sides.action.ids), concat=True),
            "action_dense": DenseFeatures(sides.action.dense),
        }
        if sides.state.ids:
            inputs["state"] = PooledEmbeddings(_tables(fields, config, sides.state.ids), concat=True)
        candidates = None
        if config.discount:
            following = _next_inputs(fields, config, sides)
            candidates = next(iter(following["next_candidates"].tables))  # type: ignore[union-attr]
            inputs |= following
        super().__init__(inputs=inputs, task=_task(fields.schema, config, candidates))
        state, action = inputs.get("state"), inputs["action"]
        assert isinstance(action, PooledEmbeddings)
        state_width = len(sides.state.dense) + (state.width if isinstance(state, PooledEmbeddings) else 0)
        self.online = DuelingNet(state_width, action.width + len(sides.action.dense), config)
        self.target = frozen_copy(self.online)
        self.is_double = config.double
        self.target_config = config.target
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(
        self,
        state_dense: Tensor,
        action: Tensor,
        action_dense: Tensor,
        state: Tensor | None = None,
        next_state: Tensor | None = None,
        next_state_dense: Tensor | None = None,
        next_candidates: Jagged | None = None,
    ) -> ActionValues:
        """[B, N_s], [B, sum of D], [B, N_a], [B, sum of D], then the same and `Jagged` [T, F, D] -> [B] each."""
        value = self.online(_beside(state, state_dense), _beside(action, action_dense))
        if next_candidates is None:
            return ActionValues(value)
        return ActionValues(value, self.next_values(next_state, next_state_dense, next_candidates))

    def candidate_values(self, state: Tensor | None, state_dense: Tensor | None, candidates: Jagged) -> Tensor:
        """Returns the online network's Q of every candidate in the state of its row: [B, ...], [T, F, D] -> [T]."""
        return self.online(_beside(state, state_dense), _actions(candidates), candidates.row_of_position())

    @torch.no_grad()
    def next_values(self, state: Tensor | None, state_dense: Tensor | None, candidates: Jagged) -> Tensor:
        """Returns what states are worth by their best candidate, [B]: 0 for one without any."""
        states, actions, row = _beside(state, state_dense), _actions(candidates), candidates.row_of_position()
        if not len(actions):
            return states.new_zeros(len(states))
        with _evaluating(self.online):
            score = (self.online if self.is_double else self.target)(states, actions, row)
        best = jagged_argmax(score, row, candidates.lengths)
        some = best.clamp(max=len(actions) - 1)
        value = self.target(states, actions.index_select(0, some)) if self.is_double else score.index_select(0, some)
        return torch.where(candidates.lengths > 0, value, 0)

    def train(self, mode: bool = True) -> "DRN":
        """Sets the online network's mode; the target one only ever evaluates."""
        super().train(mode)
        self.target.eval()
        return self

    @torch.no_grad()
    def after_step(self) -> None:
        """Counts a step, and brings the target network up to date where it is due."""
        self.steps += 1
        due = self.steps % self.target_config.every == 0
        if due.device.type == "cpu" and not bool(due):  # a GPU is not waited for
            return
        for theirs, ours in twins(self.target, self.online):
            before = theirs.clone() if self.target_config.by == "swap" else None
            theirs.copy_(torch.where(due, ours, theirs))
            if before is not None:
                ours.copy_(torch.where(due, before, ours))


class _Side(NamedTuple):
    """A side has the names of the state's or the action's features."""

    ids: tuple[str, ...]
    dense: tuple[str, ...]


class _Sides(NamedTuple):
    """The sides of a transition are its state and its action."""

    state: _Side
    action: _Side


def _sides(fields: Fields, config: DRNConfig) -> _Sides:
    """Deals the features to state and action. Raises UserError as `DRN` does."""
    chosen = {side: _chosen(fields, side, getattr(config, side)) for side in ROLES}
    if both := [name for name in chosen["state"] if name in chosen["action"]]:
        raise UserError(f"drn: feature {both[0]!r} is in both `state` and `action`; leave it in one")
    for name in chosen["action"]:
        if not isinstance(fields.schema[name], IdFeature | DenseFeature):
            raise UserError(
                f"drn: feature {name!r} of the action is {fields.schema[name].kind}; an action's features are id or "
                "dense, which a list of candidates has beside each other: leave it out by `action`"
            )
    sides = {
        side: _Side(
            tuple(n for n in names if not isinstance(fields.schema[n], DenseFeature)),
            tuple(n for n in names if isinstance(fields.schema[n], DenseFeature)),
        )
        for side, names in chosen.items()
    }
    if not sides["action"].ids:
        raise UserError(
            "drn: the action has no id feature; name one by `action` in the run file's `model`, or give one role: item "
            "in schema.yaml"
        )
    return _Sides(**sides)


def _chosen(fields: Fields, side: str, patterns: Sequence[str] | None) -> tuple[str, ...]:
    """Returns the names of a side's features. Raises UserError for a pattern that matches none, and where none is."""
    names = (*fields.pooled, *fields.dense)
    if patterns is None:
        chosen = tuple(name for name in names if fields.schema[name].role in ROLES[side])
    else:
        for pattern in patterns:
            if not any(matches(name, pattern) for name in names):
                raise UserError(f"drn: {side}: " + unknown("feature", pattern, names))
        chosen = tuple(name for name in names if any(matches(name, p) for p in patterns))
    if not chosen:
        roles = " or ".join(ROLES[side])
        raise UserError(
            f"drn: the {side} has no features; name some by `{side}` in the run file's `model`, or give some role: "
            f"{roles} in schema.yaml"
        )
    return chosen


def _tables(fields: Fields, config: DRNConfig, features: Sequence[str]) -> dict[str, EmbeddingTable]:
    return fields.tables(embedding_dim=config.embedding_dim, features=features)


def _next_inputs(fields: Fields, config: DRNConfig, sides: _Sides) -> dict[str, Input]:
    """Returns the inputs of the next state, from which nothing is learned. Raises UserError where the schema lacks any.

    They have the columns of `state` and `action` in the same order.
    """
    there, candidates = fields.at("next"), fields.at("next_candidate")
    for place, side, known in (("next", sides.state, there), ("next_candidate", sides.action, candidates)):
        if missing := [name for name in (*side.ids, *side.dense) if name not in known]:
            raise UserError(
                f"drn: discount {config.discount:g} needs the next state and its candidates, but the schema has no "
                f"feature with place: {place} of {listed(missing)}; declare what is missing, or set discount: 0, "
                "which learns the reward alone"
            )

    def following(names: Sequence[str], known: dict[str, str]) -> tuple[str, ...]:
        return tuple(known[name] for name in names)

    inputs: dict[str, Input] = {
        "next_state_dense": DenseFeatures(following(sides.state.dense, there), read="labelled"),
        "next_candidates": SequenceEmbeddings(
            _tables(fields, config, following(sides.action.ids, candidates)),
            dense=following(sides.action.dense, candidates),
            read="labelled",
            detached=True,
        ),
    }
    if sides.state.ids:
        tables = _tables(fields, config, following(sides.state.ids, there))
        inputs["next_state"] = PooledEmbeddings(tables, concat=True, read="labelled", detached=True)
    return inputs


def _task(schema: Schema, config: DRNConfig, candidates: str | None) -> TemporalDifference:
    """Returns the task. Raises UserError for labels that the schema does not have."""
    labels = [label.name for label in schema.labels]
    for name in config.rewards:
        if name not in labels:
            raise UserError("drn: rewards: " + unknown("label", name, labels))
    terminal = config.terminal if config.discount else None
    if terminal is not None and terminal not in labels:
        raise UserError(
            f"drn: terminal: {unknown('label', terminal, labels)} (set terminal: null where something always follows)"
        )
    return TemporalDifference(
        config.rewards, discount=config.discount, terminal=terminal, candidates=candidates, loss=config.loss
    )


def _beside(vectors: Tensor | None, dense: Tensor | None) -> Tensor:
    """Returns vectors [n, D] and numbers [n, N] side by side; None: there are none."""
    there = [part for part in (vectors, dense) if part is not None and part.shape[1]]
    return there[0] if len(there) == 1 else torch.cat(there, 1)


def _actions(candidates: Jagged) -> Tensor:
    return _beside(candidates.values.flatten(1), candidates.dense)


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Lets dropout and batch moments of a module be those of evaluation."""
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)
