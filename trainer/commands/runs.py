"""`shardrec train`, `evaluate` and `predict`: one run, from its run file or its folder."""

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.commands.options import Chosen, Overrides, Quiet, RunFile, RunPath, Trust, Variant, of_a_run
from shardrec.trainer.launch.torchrun import leads


class TrainCommand(TyperCommand):
    """The command takes `--resume` alone or with `auto` behind it, and never the run file for its value."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Writes the value to its option before options are told from arguments."""
        spelled: list[str] = []
        for argument in args:
            if argument == "auto" and spelled and spelled[-1] == "--resume=newest":
                spelled[-1] = "--resume=auto"
            else:
                spelled.append("--resume=newest" if argument == "--resume" else argument)
        return super().parse_args(ctx, spelled)


def train(
    context: typer.Context,
    run_file: RunFile,
    variant: Variant = None,
    overrides: Overrides = None,
    resume: Annotated[
        Literal["newest", "auto"] | None,
        typer.Option(metavar="[auto]", help="go on with the run that is there; auto: or start it where none is"),
    ] = None,
    step: Annotated[
        int | None, typer.Option(help="which checkpoint to go on from; default: the newest that is whole")
    ] = None,
    trust: Trust = False,
    quiet: Quiet = False,
) -> None:
    """Trains a model as a run file says."""
    from shardrec.trainer.config.load import load
    from shardrec.trainer.config.model_settings import check_models
    from shardrec.trainer.config.stages import resolve_stages
    from shardrec.trainer.config.trust import trust_folders
    from shardrec.trainer.launch.early_start import started_early
    from shardrec.trainer.reports.after_training import reported
    from shardrec.trainer.run_folder.folder import RunFolder
    from shardrec.trainer.run_folder.interruption import telling_how_to_go_on
    from shardrec.trainer.run_folder.summaries import print_summary
    from shardrec.trainer.training.resuming import resumes

    if trust:
        trust_folders(run_file.parent)
    config = load(run_file, overrides or (), variant=variant)
    stages = resolve_stages(config)
    if trust:
        trust_folders(*(source.run for run in (config, *stages.values()) for source in run.init_from))
    goes_on = resume is not None
    if leads():  # torchrun's other ranks would find what the first one has made by now
        goes_on = resumes(config, "auto" if resume == "auto" else goes_on, step)
    runs = list(stages.values()) or [config]
    check = partial(check_models, runs)
    folder = RunFolder(config.run_folder)
    with (
        telling_how_to_go_on(folder.path, folder.config_file, folder.stages_file) if leads() else nullcontext(),
        started_early([run.launch for run in runs], "shardrec.trainer.training.train_run", check),
    ):
        from shardrec.trainer.training.train_run import train_run  # loads torch: only now that the run file is in order

        with reported(config) as report:
            summary = train_run(config, resume=goes_on, step=step, quiet=quiet, began=context.obj, at_end=report)
    if summary:
        for name, stage in stages.items():
            typer.echo(f"stage {name}")
            print_summary(stage, summary["stages"][name])
        if not stages:
            print_summary(config, summary)


@of_a_run
def evaluate(
    run_folder: RunPath,
    chosen: Chosen,
    data: Annotated[
        list[str] | None, typer.Option(help="files, folders, globs or URIs; default: its own splits")
    ] = None,
    curves: Annotated[
        Path | None, typer.Option(help="a new folder for ROC, precision-recall and calibration curves")
    ] = None,
) -> None:
    """Scores a trained model on its validation and test rows, or on other data."""
    with chosen.started_early(run_folder, "shardrec.trainer.scoring.evaluate"):
        from shardrec.trainer.scoring.evaluate import evaluate_run

        result = evaluate_run(run_folder, tuple(data or ()), curves=curves, **chosen.arguments)
    if result:
        from shardrec.trainer.run_folder.folder import RunFolder
        from shardrec.trainer.run_folder.summaries import print_metrics

        print_metrics(RunFolder.open(run_folder), result)
        if curves:
            typer.echo(f"curves: {curves}")
        if failed := result.get("failed"):
            raise UserError(f"{failed[0]}: {result['not_scored'][failed[0]]}")


@of_a_run
def predict(
    run_folder: RunPath,
    chosen: Chosen,
    data: Annotated[list[str], typer.Option(help="files, folders, globs or URIs to score", show_default=False)],
    out: Annotated[Path, typer.Option(help="folder for the scores, as Parquet", show_default=False)],
    keys: Annotated[list[str] | None, typer.Option(help="columns to keep; default: the schema's keys")] = None,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="also the weights of what a score came from (models afm, din, dien, bst)"),
    ] = False,
    calibrated: Annotated[
        bool,
        typer.Option("--calibrated", help="map scores as `shardrec calibrate` found; default: as the model has them"),
    ] = False,
) -> None:
    """Writes a score for every row, beside its key columns, as Parquet."""
    with chosen.started_early(run_folder, "shardrec.trainer.scoring.predict"):
        from shardrec.trainer.scoring.predict import predict_rows

        given = (run_folder, tuple(data), out, tuple(keys or ()))
        result = predict_rows(*given, explain=explain, calibrated=calibrated, **chosen.arguments)
    if result:
        typer.echo(f"{result['rows']} rows scored with step {result['step']} -> {out}")
