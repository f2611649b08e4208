"""What a training finds in the folder of a run that it goes on with is put back where nothing comes of it."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from shardrec.data_pipeline.files.whole_files import whole_file
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.run_folder.synced import forget

_WRITTEN_ANEW = ("config.yaml", "schema.yaml", "plan.txt", "plan.json", "metrics.jsonl", "summary.json", "curves.json")
"""What a training writes before its first checkpoint, or takes away."""


@dataclass(frozen=True)
class AsFound:
    """A run's small files and the step that is marked as its best, as they were before a training took the run up."""

    folder: RunFolder
    contents: Mapping[Path, bytes]
    best: int | None

    @classmethod
    def of(cls, folder: RunFolder) -> "AsFound":
        """Reads them."""
        contents = dict[Path, bytes]()
        for path in (folder.path / name for name in _WRITTEN_ANEW):
            with suppress(FileNotFoundError, IsADirectoryError):
                contents[path] = path.read_bytes()
        return cls(folder, contents, folder.best_step())

    def put_back(self) -> None:
        """Makes the files and the mark what they were; for a folder that has the checkpoints that it had."""
        for path in (self.folder.path / name for name in _WRITTEN_ANEW):
            if (before := self.contents.get(path)) is None:
                forget(path)
            elif not path.is_file() or path.read_bytes() != before:
                with whole_file(path) as temporary:
                    temporary.write_bytes(before)
        if self.best is not None and self.folder.best_step() != self.best:
            self.folder.mark_best(self.best)
