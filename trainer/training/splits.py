"""The splits of a run are its rows, as one worker's batches; a checkpoint knows the files of all of them.

A run goes on with the same files, in the same order, or not at all.
"""

from collections.abc import Mapping
from typing import Any

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.loading.loader import Loader
from shardrec.trainer.config.sections import SPLITS, Paths
from shardrec.trainer.session.session import Session

FINGERPRINTS = "splits"
"""The key beside `Loader.order_state` under which a checkpoint has the other splits' fingerprints, by split."""

CATALOGUE = "catalogue"


class Splits:
    """A run's splits are those that it trains on, in `train`, and those that it scores. All workers use them alike.

    paths: of each split, and of the items of the catalogue where they lie in files of their own.
    scored: the batches of those that were asked for by `to_score`. not_scored: splits that have no metrics, and why.
    """

    def __init__(self, session: Session) -> None:
        data = session.config.data
        self._session = session
        self.paths: dict[str, Paths] = {name: paths for name in SPLITS if (paths := data.split(name)) is not None}
        if data.catalogue.items is not None:
            self.paths[CATALOGUE] = data.catalogue.items
        self.not_scored: dict[str, str] = {}
        self._open()

    def _open(self) -> None:
        self.train = self._session.loader(self.paths["train"], training=True)
        self.scored: dict[str, Loader | None] = {}
        self.to_score("validation")
        if self._session.config.trainer.evaluation.test:
            self.to_score("test")
        self._fingerprints = self._other_fingerprints()

    def to_score(self, name: str) -> Loader | None:
        """Returns the batches of a split; None where there is none, and where its rows have no labels."""
        if name not in self.scored:
            self.scored[name] = self._labelled(name)
        return self.scored[name]

    def _labelled(self, name: str) -> Loader | None:
        paths, blueprint = self.paths.get(name), self._session.blueprint
        if paths is None:
            return None
        blueprint.share_footers(paths, self._session.environment)
        if missing := blueprint.missing_labels(paths, self._session.environment):
            self.not_scored[name] = f"its rows have no labels: {missing}"
            return None
        return self._session.loader(paths, told_apart=True, skips_bad=True)

    # ------------------------------------------------------------ as a checkpoint has them

    def state(self) -> dict[str, Any]:
        """Returns what decides which rows make which batch, and tells the files of all splits from others."""
        return {**self.train.order_state(), FINGERPRINTS: self._fingerprints}

    def take_up(self, saved: Mapping[str, Any], *, scored: bool) -> None:
        """Takes the files of all splits in the order in which a checkpoint has them; saved: its `state`.

        scored: its run had a best evaluation, so that later ones have to be of the same rows; else rows that could not
        be scored may have been mended. Raises UserError, on all workers, where the rows would not be those of the run
        that saved it.
        """
        if self._take_up_files(saved, scored=scored):
            self._open()
        self.train.check_state(saved)

    def fingerprints(self) -> dict[str, str]:
        """Returns what tells the files of each split from others."""
        blueprint = self._session.blueprint
        return {name: blueprint.data_set(paths).index.fingerprint.value for name, paths in self.paths.items()}

    def _other_fingerprints(self) -> dict[str, str]:
        """Returns the fingerprints of the splits that are not trained on."""
        blueprint, environment = self._session.blueprint, self._session.environment
        return {
            name: blueprint.share_footers(paths, environment).fingerprint.value
            for name, paths in self.paths.items()
            if name != "train"
        }

    def _take_up_files(self, saved: Mapping[str, Any], *, scored: bool) -> bool:
        """Takes the files in the order of a checkpoint; tells whether that is another one than theirs.

        Earlier versions read files in the order of their names as plain strings, and kept a fingerprint of the training
        rows alone: the other splits are then read in that order too. A split that is new, or no longer there, is not
        compared.

        Raises UserError where the files of another split than the training rows have changed (`Loader.check_state`
        looks at those).
        """
        blueprint, environment = self._session.blueprint, self._session.environment
        others = saved.get(FINGERPRINTS)
        reordered = blueprint.take_up_files(self.paths["train"], environment, saved.get("fingerprint"))
        for name, paths in self.paths.items():
            known = others.get(name) if isinstance(others, dict) else None
            if name == "train":
                continue
            if FINGERPRINTS not in saved and reordered:
                blueprint.read_by_name(paths, environment)
            elif known is not None:
                reordered |= blueprint.take_up_files(paths, environment, known)
                index = blueprint.share_footers(paths, environment)
                if scored and not index.fingerprint.matches(known):
                    raise UserError(
                        f"the {name} rows under {index.files[0].path} are not those of the checkpoint (names, sizes "
                        "and footers count), so that scores would not compare with its best; put them back, or start "
                        "a new run from the checkpoint"
                    )
        return reordered
