"""A run of Weights & Biases, online or as files in the run folder that `wandb sync` uploads."""

import os
import shutil
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from shardrec.trainer.tracking.job import Ending, Job
from shardrec.trainer.tracking.records import Record

START_SECONDS = 30.0  # that a server may take to answer


class WandbRun:
    """A run has metrics over `step`, the resolved run file as its config, and files of the run folder."""

    def __init__(self) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        self._run: Any = None

    def open(self, job: Job, run: str | None) -> str:
        """Goes on with a run, or begins one."""
        import wandb

        settings, name = job.settings, run or uuid.uuid4().hex[:12]
        mode: Any = settings.get("mode") or os.environ.get("WANDB_MODE") or "online"
        job.place.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=settings.get("project") or os.environ.get("WANDB_PROJECT") or "shardrec",
            entity=settings.get("entity"),
            id=name,
            name=job.name,
            group=job.group,
            config={**job.config, "run_folder": job.folder},
            dir=str(job.place),
            mode=mode,
            resume="allow" if mode == "online" else None,
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                save_code=False,
                disable_job_creation=True,
                x_disable_stats=True,
                init_timeout=START_SECONDS,
            ),
        )
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")
        return name

    def send(self, records: Sequence[Record]) -> None:
        """Writes each number as `KIND/NAME`, beside its step."""
        for record in records:
            self._run.log({f"{record.kind}/{n}": v for n, v in record.values.items()} | {"step": record.step})

    def close(self, ending: Ending, summary: Mapping[str, Any], files: Iterable[Path]) -> None:
        """Adds the summary and the files, and says how the run ended."""
        kept = Path(self._run.dir) / "shardrec"  # config.yaml is a name of W&B's own
        kept.mkdir(exist_ok=True)
        for file in files:
            shutil.copyfile(file, kept / file.name)
            self._run.save(str(kept / file.name), base_path=self._run.dir, policy="now")
        self._run.summary.update({"summary": dict(summary)} if summary else {})
        self._run.finish(exit_code=0 if ending == "finished" else 1)
