"""The scores of a run are those of its splits, between steps and at the end: recorded, judged, and the best kept."""

from collections.abc import Callable

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.loading.loader import Loader
from shardrec.trainer.catalogue.evaluation import CatalogueScorer, directions
from shardrec.trainer.run_folder.final_curves import keep_curves
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.reporting import Reporter
from shardrec.trainer.session.session import Session
from shardrec.trainer.training.clock import Clock
from shardrec.trainer.training.evaluation import Evaluation, evaluate
from shardrec.trainer.training.left_out import LeftOut
from shardrec.trainer.training.selection import selecting_metric
from shardrec.trainer.training.splits import Splits
from shardrec.trainer.training.state import TrainingState


class Scores:
    """Scores decide by the validation split what is best, and when to stop. All workers use them alike."""

    def __init__(
        self,
        folder: RunFolder,
        session: Session,
        splits: Splits,
        state: TrainingState,
        reporter: Reporter,
        clock: Clock,
        left_out: LeftOut,
    ) -> None:
        self._folder, self._session, self._splits, self._state = folder, session, splits, state
        self._reporter, self._clock, self._left_out = reporter, clock, left_out
        self._lists = CatalogueScorer.of(session)

    def between_steps(self) -> None:
        """Scores the validation split; keeps the best step and stops when it has not improved for long enough.

        Where the run file asks for it, the test split is scored beside it, and where tables have an L1 the share of
        their weights that are exactly 0 is counted, for the record only. Raises UserError where validation rows cannot
        be scored or selected by.
        """
        step = self._state.position.step
        if self._session.config.trainer.evaluation.test and (found := self._scored_if_possible("test")) is not None:
            self._reporter.record("test", step, found.metrics | self._left_out.of("test"))
        if (validation := self._splits.to_score("validation")) is not None:
            scored = self._scored("validation", validation)
            self._reporter.record("validation", step, scored.metrics | self._left_out.of("validation"))
            self._judge(scored.metrics)
            if self._state.best_step == step:
                self._keep_curves("validation", scored, step)
        with self._clock.paused():
            zeros = self._session.distributed.zero_shares()
        if zeros:
            self._reporter.record("zero_weights", step, {f"table/{t}": s for t, s in zeros.items()})

    def at_the_end(self, restore_best: Callable[[], None]) -> dict[str, dict[str, float]]:
        """Returns each split's metrics: the best ones of validation, and of test those of the same step."""
        metrics: dict[str, dict[str, float]] = {}
        best = self._state.best_metrics()
        if best is not None:
            metrics["validation"] = best
            restore_best()
        step = self._state.position.step if self._state.best_step is None else self._state.best_step
        for split in ("validation", "test") if best is None else ("test",):
            if (found := self._scored_if_possible(split)) is not None:
                metrics[split] = found.metrics
                self._keep_curves(split, found, step)
        return metrics

    def _judge(self, metrics: dict[str, float]) -> None:
        """Keeps or stops by the metric that decides. Raises UserError where the rows do not define it."""
        state, config = self._state, self._session.config
        larger_is_better = directions(self._session.model.task, config)
        before = state.position.best["metric"] if state.position.best else None
        name = selecting_metric(metrics, larger_is_better, wanted=config.trainer.selection_metric, before=before)
        if name is not None:
            stopping = config.trainer.early_stopping
            state.judge(metrics, name, larger_is_better=larger_is_better[name], stopping=stopping)

    def _scored_if_possible(self, split: str) -> Evaluation | None:
        """Returns a split's evaluation; None, and from then on, where there is none or its rows cannot be scored."""
        loader = self._splits.to_score(split)
        if loader is None or split in self._splits.not_scored:
            return None
        try:
            return self._scored(split, loader)
        except UserError as error:
            self._splits.not_scored[split] = str(error)
            return None

    def _scored(self, split: str, loader: Loader) -> Evaluation:
        on_batch = self._reporter.progress.counter(f"evaluating {split}", loader.steps_per_epoch)
        with self._clock.paused():
            found = evaluate(self._session, loader, on_batch)
            if self._lists is not None:
                lists = self._lists.metrics(split, self._splits.paths[split], self._reporter.progress.counter)
                found = found._replace(metrics=found.metrics | lists)
            return found

    def _keep_curves(self, split: str, scored: Evaluation, step: int) -> None:
        if self._session.environment.leads and scored.curves is not None:
            keep_curves(self._folder, split, step, scored.curves)
