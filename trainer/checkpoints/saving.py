"""A saving is a checkpoint on its way to the disk, which is complete or absent.

Every rank streams its shards of the tables into `.step-N.tmp/`, and rank 0 the tower: at once, or where they are copied
while training goes on. When all are on disk, rank 0 adds, last, `manifest.json` (which carries a checksum of itself and
of every file), and renames the folder to `step-N`. In a store, which renames nothing, they write to `step-N` itself: it
is a checkpoint once the manifest is there.
"""

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from shardrec.data_pipeline.errors import UserError
from shardrec.sharding.checkpoints.entries import Entry
from shardrec.sharding.checkpoints.id_maps import Saved, id_map_facts, id_map_files, merged_id_maps, with_files
from shardrec.sharding.checkpoints.tables import table_files
from shardrec.sharding.checkpoints.unwritten_file import CopyMemory
from shardrec.trainer.checkpoints.checkpoint import generator_state
from shardrec.trainer.checkpoints.manifest import FORMAT, MANIFEST, TOWER_FILE, write_manifest
from shardrec.trainer.checkpoints.position import Position
from shardrec.trainer.checkpoints.removal import remove_unfinished
from shardrec.trainer.checkpoints.share import Share
from shardrec.trainer.checkpoints.tower_file import UnwrittenTower
from shardrec.trainer.checkpoints.unfinished import begun, finished
from shardrec.trainer.checkpoints.unsound_values import UnsoundValuesError, unsound_in_tables, unsound_tower
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.session.session import Session


class _Written(NamedTuple):
    """What one worker tells of its share: entries of its files, the generator's state, and what went wrong."""

    tables: list[Entry]
    id_maps: Saved
    tower: Entry | None
    generator: bytes
    error: Exception | None


class Saving:
    """A saving is begun, and then completed by all workers together, who call it alike; or each of them gives it up.

    step: of the run. best_step: of the best evaluation until then. What is saved is the session as it is begun.
    """

    def __init__(
        self,
        folder: RunFolder,
        session: Session,
        position: Position,
        order: Mapping[str, Any],
        memory: CopyMemory | None = None,
    ) -> None:
        """Begins `checkpoints/step-N`, which must not be there.

        order: what decides which rows make which batch (`Loader.order_state`). memory: holds what is written later;
        None: all is written at once. Raises UnsoundValuesError, on all workers and with nothing left behind, where
        training could not go on from what would be saved, and likewise what comes of writing.
        """
        environment, distributed = session.environment, session.distributed
        self._folder, self._environment = folder, environment
        self.step, self.best_step = position.step, position.best["step"] if position.best else None
        self._temporary = begun(folder, position.step)
        if environment.leads:
            remove_unfinished(folder)
            self._temporary.mkdir(parents=True)
        environment.barrier()
        self._content = {
            "format": FORMAT,
            "world_size": environment.world_size,
            "device": environment.device.type,
            "position": asdict(position),
            "order": dict(order),
        }
        self._id_maps, self._generator = id_map_facts(distributed.id_maps), generator_state(environment.device)
        tensors = session.tower_tensors() if environment.leads else {}
        files = [
            *table_files(self._temporary, distributed.tables),
            *id_map_files(self._temporary, distributed.id_maps),
        ]
        tower = UnwrittenTower.of(tensors, self._temporary / TOWER_FILE, memory) if environment.leads else None
        if memory is not None:
            files = memory.copied(files, beside=len(tower.data) if tower and tower.is_copied else 0)
        self._share = Share([*files, tower] if tower else files)
        self._check_sound(unsound_in_tables(files, self._written().tables), unsound_tower(tensors))

    @property
    def is_written(self) -> bool:
        """Says whether this worker has written its share, or failed to: there is nothing to wait for."""
        return self._share.is_written

    def complete(self) -> None:
        """Waits until all workers have written their shares, and makes these a checkpoint.

        Raises, on all workers and with nothing left behind, what came of writing on the first that failed.
        """
        self._share.wait()
        of_ranks = self._environment.gather(self._written())
        self._check(*(written.error for written in of_ranks))
        error: Exception | None = None
        if self._environment.leads:
            try:
                self._commit(of_ranks)
            except (OSError, UserError) as found:
                error = found
        self._check(self._environment.broadcast(error))

    def give_up(self) -> None:
        """Leaves it unfinished; it is removed, unless another worker still writes. Waits for nobody else."""
        self._share.give_up()
        if self._environment.world_size == 1:  # whoever leaves others has to leave at once
            self._share.wait()
        if self._environment.leads:
            remove_unfinished(self._folder)

    def _written(self) -> _Written:
        entries = [entry for entry in self._share.entries if "table" in entry]
        tower = next((entry for entry in self._share.entries if "table" not in entry), None)
        tables, id_maps = [e for e in entries if "kind" not in e], with_files(self._id_maps, entries)
        return _Written(tables, id_maps, tower, self._generator, _sent(self._share.error))

    def _commit(self, of_ranks: Sequence[_Written]) -> None:
        content = {
            **self._content,
            "tables": [entry for written in of_ranks for entry in written.tables],
            "id_maps": merged_id_maps(written.id_maps for written in of_ranks),
            "tower": of_ranks[0].tower,
            "generators": [base64.b64encode(written.generator).decode() for written in of_ranks],
        }
        self._folder.check_owned()
        write_manifest(self._temporary / MANIFEST, content)
        finished(self._temporary, self._folder.checkpoint(self.step))

    # ------------------------------------------------------------ what keeps it from being one

    def _check_sound(self, in_tables: dict[str, int], in_tower: dict[str, int]) -> None:
        """Raises, on all workers, what came of writing until now; and UnsoundValuesError where values are."""
        of_ranks = self._environment.gather((_sent(self._share.error), in_tables, in_tower))
        self._check(*(error for error, _, _ in of_ranks))
        unsound = Counter[str]()
        for counts in (*(tables for _, tables, _ in of_ranks), *(tower for _, _, tower in of_ranks)):
            unsound.update(counts)
        if unsound:
            self._check(UnsoundValuesError(unsound))

    def _check(self, *errors: Exception | None) -> None:
        """Raises the first of all workers' errors, if there is any, on all of them, and removes what was written.

        Not so where a store is away, or another training has the folder.
        """
        error = next(filter(None, errors), None)
        if error is None:
            return
        self._share.give_up()
        self._share.wait()
        self._environment.barrier()  # nobody writes any more
        if self._environment.leads and isinstance(error, OSError | UnsoundValuesError):
            remove_unfinished(self._folder)
        self._environment.barrier()
        raise self._share.error or error


def _sent(error: Exception | None) -> Exception | None:
    """Returns an error as other workers are told of it: as it is, or, where it is no user's, in words."""
    return error if error is None or isinstance(error, OSError | UserError) else RuntimeError(repr(error))
