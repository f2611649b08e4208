"""`shardrec ope` says what a policy would have earned, from a log that another one made.

The log is read twice: its rows first, and then, chunk by chunk, their candidates with the probability of each. Where a
trained model chooses, rows with each candidate are written to a scratch folder between the two and scored as by
`shardrec predict`, on the run's own workers.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from shardrec.data_pipeline.declared.declaration import unknown
from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.schema import Schema
from shardrec.data_pipeline.reading.finding import find_files
from shardrec.trainer.config.paths import absolute
from shardrec.trainer.off_policy.choices import Candidates, each_choice, places_of
from shardrec.trainer.off_policy.estimators import ESTIMATORS, LOGGED, Weighed, ratios, why_no_replay
from shardrec.trainer.off_policy.intervals import Resampling, estimates
from shardrec.trainer.off_policy.log_fields import LogFields, check_same_ids, schema_beside
from shardrec.trainer.off_policy.logged import Catalogue, Logged, read_log
from shardrec.trainer.off_policy.model_scores import ScoringModel, Trained
from shardrec.trainer.off_policy.report import known
from shardrec.trainer.off_policy.reward_models import MeanRewards, folds
from shardrec.trainer.off_policy.target_policies import (
    FREQUENCIES,
    Asked,
    Frequencies,
    ScoredPolicy,
    TargetPolicy,
    parse_policy,
    uniform,
)
from shardrec.trainer.off_policy.weight_facts import FEW_GROUPS, WeightFacts
from shardrec.trainer.run_folder.folder import RunFolder

RewardModelName = Literal["means", "model"]


@dataclass(frozen=True)
class Question:
    """A question names what of a log is read as what, and how its answer is made.

    action, reward, position: features and label; None: as `LogFields` finds them
    reward_model: of direct and doubly_robust: `means` of the log's other folds, or the trained `model`'s own prediction
    """

    policy: str
    action: str | None = None
    reward: str | None = None
    position: str | None = None
    estimators: tuple[str, ...] = ()
    reward_model: RewardModelName = "means"
    how: Resampling = field(default_factory=Resampling)


def evaluate_policy(
    data: Sequence[str],
    question: Question,
    *,
    trained: Trained | None = None,
    schema: Path | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Returns what `print_policy` prints: estimates with intervals, facts of the weights, warnings.

    schema: the log's; None: that beside it, else the run's. Raises UserError for what is asked for wrongly, and for a
    log with any row that cannot be judged.
    """
    asked = _checked(question, trained)
    paths = absolute(tuple(data))
    fields = _fields(paths, question, schema, trained)
    chosen = ScoringModel.of(trained, fields) if trained is not None and _scores(asked, question) else None
    if chosen is not None and question.reward_model == "model":
        chosen.check_predicts(fields.reward.name)
    progress("reading the log")
    catalogue = Catalogue(() if chosen is None else chosen.rows.carried)
    logged = read_log(paths, fields, catalogue)
    candidates = Candidates(fields, catalogue.actions)
    policy = _policy(asked, fields, question)
    with tempfile.TemporaryDirectory(prefix="shardrec-ope-") as scratch:
        scores = None
        if chosen is not None:
            progress("writing rows with each candidate")
            scores = chosen.scored(paths, candidates, catalogue, Path(scratch))
        progress("weighing rows")
        weighed, unseen = _weigh(paths, logged, candidates, policy, scores, question.reward_model)
    return _answer(question, fields, logged, weighed, unseen)


def _scores(asked: Asked, question: Question) -> bool:
    return asked.needs_model or question.reward_model == "model"


def _checked(question: Question, trained: Trained | None) -> Asked:
    """Returns what policy is asked for. Raises UserError for what the question cannot be answered with."""
    asked = parse_policy(question.policy)
    for name in question.estimators:
        if name not in ESTIMATORS:
            raise UserError(f"--estimators: {unknown('estimator', name, ESTIMATORS)}")
    if trained is None and asked.needs_model:
        raise UserError(
            f"--policy {question.policy}: chooses by a model's scores; name the run folder, or judge uniform or "
            f"{FREQUENCIES}:LOG"
        )
    if trained is None and question.reward_model == "model":
        raise UserError("--reward-model model: is a trained model's prediction; name the run folder")
    return asked


def _fields(paths: Sequence[str], question: Question, schema: Path | None, trained: Trained | None) -> LogFields:
    """Returns the fields of the log by its schema. Raises UserError where there is no log, or no schema."""
    find_files(paths)
    found_schema = str(schema) if schema is not None else str(schema_beside(paths) or "")
    if not found_schema and trained is not None:
        found_schema = RunFolder.open(trained.run_folder).config().data.schema_file
    if not found_schema:
        raise UserError(f"{paths[0]}: no schema.yaml beside the log, or in the folder above; name it by --schema")
    folder = found_schema.rpartition("/")[0] or "."
    names = {"action": question.action, "reward": question.reward, "position": question.position}
    return LogFields.of(Schema.load(found_schema), folder, **names)


def _policy(asked: Asked, fields: LogFields, question: Question) -> TargetPolicy:
    """Returns the policy that is judged; reads the log of frequencies. Raises UserError where that is another's."""
    if asked.kind == "uniform":
        return uniform
    if asked.kind != FREQUENCIES:
        return ScoredPolicy(asked.kind, asked.number)  # type: ignore[arg-type]
    paths = absolute((asked.log,))
    other = _fields(paths, question, None, None)
    for feature in (other.action, other.position):
        if feature is not None:
            check_same_ids(fields, feature, other.folder, f"--policy {question.policy}")
    rows = read_log(paths, other)
    return Frequencies.of(asked.log, rows.position, rows.action)


# ---------------------------------------------------------------- weights


def _weigh(
    paths: Sequence[str],
    logged: Logged,
    candidates: Candidates,
    policy: TargetPolicy,
    scores: NDArray[np.float32] | None,
    reward_model: RewardModelName,
) -> tuple[Weighed, float]:
    """Returns the rows under the policy, and its mean probability of actions that the log never shows."""
    actions = candidates.actions
    position = np.unique(logged.position, return_inverse=True)[1]
    fold = folds(logged.group, len(logged.reward))
    means = MeanRewards.fit(logged.reward, position, np.searchsorted(actions, logged.action), fold)
    parts: list[tuple[Any, ...]] = []
    unseen, row, choice = 0.0, 0, 0
    for _, choices, shown in each_choice(paths, candidates):
        rows, here = slice(row, row + len(shown.action)), slice(choice, choice + len(choices.actions))
        row, choice = rows.stop, here.stop
        scored = None if scores is None else scores[here].astype(np.float64)
        choices = choices._replace(positions=shown.position, scores=scored)
        probability = policy(choices)
        code, seen = places_of(actions, choices.actions)
        unseen += float(probability[~seen].sum())
        if reward_model == "model":
            assert scored is not None
            predicted = scored
        else:
            owner = np.repeat(np.arange(rows.start, rows.stop), choices.lengths)
            predicted = means(fold[owner], position[owner], np.where(seen, code, -1))
        was_shown = choices.actions == np.repeat(shown.action, choices.lengths)
        times = choices.sums(was_shown.astype(np.float64))  # an action may be among candidates more than once
        parts.append(
            (
                choices.sums(probability * was_shown),
                choices.sums(predicted * was_shown) / times,
                choices.sums(probability * predicted),
                choices.lengths,
            )
        )
    of_shown, predicted_shown, expected, lengths = (np.concatenate(column) for column in zip(*parts, strict=True))
    weighed = Weighed(logged.reward, logged.propensity, of_shown, predicted_shown, expected, lengths)
    return weighed, unseen / row


# ---------------------------------------------------------------- the answer


def _answer(question: Question, fields: LogFields, logged: Logged, rows: Weighed, unseen: float) -> dict[str, Any]:
    names = tuple(question.estimators) or ESTIMATORS
    left_out = {}
    if "replay" in names and (why := why_no_replay(rows)):
        if question.estimators:
            raise UserError(f"--estimators replay: {why}; leave it out")
        left_out["replay"] = why
    asked = {name: ratio for name, ratio in ratios(rows).items() if name in (LOGGED, *names) and name not in left_out}
    facts = WeightFacts.of(rows, unseen, logged.group)
    warnings = facts.warnings()
    groups = None if logged.group is None else int(logged.group.max()) + 1
    if groups is not None and groups < FEW_GROUPS:
        warnings.append(
            f"rows are of {groups:,} {'groups' if groups > 1 else 'group'} ({fields.schema.group}): intervals of fewer "
            f"than {FEW_GROUPS} are too narrow, and of one there is none; take a log of more"
        )
    if fields.schema.negative_rate < 1:
        warnings.append(
            f"the schema's negative_rate is {fields.schema.negative_rate:g}: training rows lack negatives, so that "
            "their rewards are too high; judge by validation or test rows"
        )
    return {
        "policy": question.policy,
        "reward": fields.reward.name,
        "action": fields.action.name,
        "rows": len(rows.reward),
        "candidates": [int(rows.candidates.min()), int(rows.candidates.max())],
        "groups": groups,
        "confidence": question.how.confidence,
        "resamples": question.how.resamples,
        "reward_model": question.reward_model,
        "estimates": {name: known(name, value) for name, value in estimates(asked, logged.group, question.how).items()},
        "left_out": left_out,
        "weights": facts.as_json(),
        "warnings": warnings,
    }
