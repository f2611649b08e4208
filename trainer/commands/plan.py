"""`shardrec plan`: where tables would live, here or on machines that options describe."""

from pathlib import Path
from typing import Annotated

import typer

from shardrec.trainer.commands.options import AsJson, Overrides, RunFile, Trust, Variant


def plan(
    run_file: RunFile,
    hosts: Annotated[int | None, typer.Option(min=1, help="machines to plan for; default: this one")] = None,
    devices: Annotated[int | None, typer.Option(min=1, help="GPUs of each, or CPU workers with --device cpu")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; default: launch.device, else cuda")] = None,
    device_memory: Annotated[str | None, typer.Option(metavar="SIZE", help="of a GPU: 80GB")] = None,
    host_memory: Annotated[str | None, typer.Option(metavar="SIZE", help="of a machine: 1TB")] = None,
    reserve: Annotated[str | None, typer.Option(metavar="SIZE", help="of a rank's memory, not for tables")] = None,
    intra_bandwidth: Annotated[str | None, typer.Option(metavar="RATE", help="a rank's, in a host: 450GB/s")] = None,
    inter_bandwidth: Annotated[str | None, typer.Option(metavar="RATE", help="a rank's, between hosts: 50GB/s")] = None,
    row_bandwidth: Annotated[str | None, typer.Option(metavar="RATE", help="at which a rank reads rows: 2TB/s")] = None,
    dense_flops: Annotated[str | None, typer.Option(metavar="RATE", help="a rank's matrix products: 50TFLOP/s")] = None,
    mean_length: Annotated[float | None, typer.Option(min=0, help="ids a row of lists and sequences")] = None,
    chart: Annotated[Path | None, typer.Option(metavar="FILE.png", help="draw the memory of each rank")] = None,
    as_json: AsJson = False,
    variant: Variant = None,
    overrides: Overrides = None,
    trust: Trust = False,
) -> None:
    """Prints where each table would live, here or on machines described by options, and what a step takes there.

    Allocates no table. Machines that are not here get an estimate of the step, its bottleneck and what to change.
    """
    from shardrec.trainer.config.load import load
    from shardrec.trainer.config.trust import trust_folders

    if trust:
        trust_folders(run_file.parent)
    config = load(run_file, overrides or (), variant=variant)

    # these load torch, which an error in the run file need not wait for
    from shardrec.trainer.planning.machines import Machines
    from shardrec.trainer.planning.report import print_plans

    machines = Machines(
        hosts=hosts,
        devices=devices,
        device=device,
        device_memory=device_memory,
        host_memory=host_memory,
        reserve=reserve,
        intra_bandwidth=intra_bandwidth,
        inter_bandwidth=inter_bandwidth,
        row_bandwidth=row_bandwidth,
        dense_flops=dense_flops,
    )
    chart = chart.expanduser() if chart else None
    for printed in print_plans(config, machines, mean_length=mean_length, chart=chart, as_json=as_json):
        typer.echo(printed)
