"""Rows of the training data that cannot be read are left out of steps: counted, told of, and an end where too many."""

from shardrec.trainer.config.sections import SPLITS
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.worker_lines import say
from shardrec.trainer.session.bad_rows import all_bad_groups, check_few, listed
from shardrec.trainer.session.prepared import Prepared
from shardrec.trainer.session.session import Session
from shardrec.trainer.training.splits import Splits
from shardrec.trainer.training.state import TrainingState


class LeftOut:
    """What is left out is known to all workers alike: by the plan of a step, and by how many rows it then had.

    All workers call its methods alike.
    """

    def __init__(self, folder: RunFolder, session: Session, splits: Splits, state: TrainingState) -> None:
        self._folder, self._session, self._splits, self._state = folder, session, splits, state
        self._told_of, self._files = state.position.left_out, set[str]()

    def count(self, prepared: Prepared, live: int) -> None:
        """Counts what a step lacks. live: its rows, over all workers.

        Raises UserError where more of an epoch's rows could not be read than the run file allows.
        """
        loader, state = self._splits.train, self._state
        if not loader.skips_bad or prepared.place is None:
            return
        if bad := loader.bad_rows(prepared.place, live):
            state.missed(bad)
            most = self._session.config.data.max_bad_fraction
            check_few(state.position.left_out_of_epoch, loader, self._session.environment, most)

    def of(self, split: str) -> dict[str, int]:
        """Returns what a line of metrics.jsonl says of a split, where rows of it could not be read.

        They are those of training so far, and of another split those that its last scoring lacked.
        """
        loader = self._splits.scored.get(split)
        count = self._state.position.left_out if split == "train" else loader.left_out if loader is not None else 0
        return {"left_out": count} if count else {}

    def by_split(self) -> dict[str, int]:
        """Returns how many rows of each split could not be read, where there were some."""
        return {split: count for split in SPLITS for count in self.of(split).values()}

    def tell(self) -> None:
        """Says which files have row groups that are left out, once each."""
        rows, environment = self._state.position.left_out, self._session.environment
        if rows > self._told_of:
            groups = all_bad_groups(self._splits.train, environment)
            news = {group: why for group, why in groups.items() if group[0] not in self._files}
            self._files |= {file for file, _ in groups}
            if news and environment.leads:
                why = next(iter(news.values())).partition("; ")[0]
                said = f"shardrec: rows cannot be read and are left out: {listed(news)}; the first: {why}"
                say(self._folder.logs, said)
        self._told_of = rows
