"""`shardrec ope`: what a policy would have earned, by the log of another one."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Literal

import typer

from shardrec.trainer.commands.options import AsJson, Chosen, of_a_run

Model = Annotated[Path | None, typer.Argument(metavar="[RUN_FOLDER]", help="the folder of a run whose model chooses")]
Data = Annotated[list[str] | None, typer.Option(help="files, folders, globs or URIs of the log", show_default=False)]
Policy = Annotated[
    str | None,
    typer.Option(
        help="greedy, softmax:T, epsilon-greedy:E of the model's scores; uniform; frequencies:LOG, another log's "
        "choices by position; default: greedy"
    ),
]
Reward = Annotated[str | None, typer.Option(help="the label that is earned; default: the first")]
Action = Annotated[str | None, typer.Option(help="the feature that was chosen; default: the first id of role item")]
Position = Annotated[
    str | None, typer.Option(help="the feature of where it was shown; default: `position`, if there is one")
]
Estimators = Annotated[
    str | None, typer.Option(metavar="A,B", help="of replay, ips, snips, direct, doubly_robust; default: all")
]
RewardModel = Annotated[
    Literal["means", "model"],
    typer.Option(help="of direct and doubly_robust: means by position and action, or the run's prediction"),
]
Confidence = Annotated[float, typer.Option(help="share of intervals that hold the truth")]
Resamples = Annotated[int, typer.Option(min=2, max=1_000_000, help="how often rows (or groups) are drawn")]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="of the draws")]
LogSchema = Annotated[Path | None, typer.Option(help="of the log; default: that beside it, else the run's")]
Out = Annotated[Path | None, typer.Option(help="also a CSV file, a line for each estimator")]


@of_a_run
def ope(
    chosen: Chosen,
    run_folder: Model = None,
    data: Data = None,
    policy: Policy = None,
    reward: Reward = None,
    action: Action = None,
    position: Position = None,
    estimators: Estimators = None,
    reward_model: RewardModel = "means",
    confidence: Confidence = 0.95,
    resamples: Resamples = 1000,
    seed: Seed = 0,
    schema: LogSchema = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Estimates what a policy would have earned, from a log of what another policy showed, with its propensities."""
    from shardrec.data_pipeline.declared.comma_lists import names_in
    from shardrec.data_pipeline.errors import UserError
    from shardrec.trainer.run_folder.terminal import messages

    if not data:
        raise UserError("--data: name the log, files or folders of Parquet")
    if not 0 < confidence < 1:
        raise UserError(f"--confidence: found {confidence}, expected a share between 0 and 1, such as 0.95")
    policy = policy or ("greedy" if run_folder is not None else None)
    if policy is None:
        raise UserError("--policy: name a run folder, or a policy without a model: uniform or frequencies:LOG")
    module = "shardrec.trainer.off_policy.evaluate_policy"
    with nullcontext() if run_folder is None else chosen.started_early(run_folder, module):
        from shardrec.trainer.off_policy.evaluate_policy import Question, evaluate_policy
        from shardrec.trainer.off_policy.intervals import Resampling
        from shardrec.trainer.off_policy.model_scores import Trained
        from shardrec.trainer.off_policy.report import check_writable, print_policy, write_policy

        how = Resampling(confidence, resamples, seed)
        names = tuple(names_in(estimators or ""))
        question = Question(policy, action, reward, position, names, reward_model, how)
        if out is not None:
            check_writable(out)
        model = None if run_folder is None else Trained(run_folder, **chosen.arguments)
        tell = (lambda line: None) if chosen.quiet else messages().print
        result = evaluate_policy(tuple(data), question, trained=model, schema=schema, progress=tell)
    if out is not None:
        write_policy(result, out)
    if as_json:
        typer.echo(json.dumps(result))
    else:
        print_policy(result)
