"""The loop trains, and calls all that is here.

- `brake.py`: halts updates on a GPU before the host has read the loss that was not fit to be trained on
- `clock.py`: training speed, without the time that evaluations, checkpoints and the first steps take
- `divergence.py`: when a loss has left all proportion, and what that says of checkpoints
- `evaluation.py`: scores rows with the tables as they are, between steps and before them
- `feed.py`: batches handed to steps, the next ones prepared meanwhile
- `hooks.py`: what happens between steps, and when it is due
- `inspection.py`: finds what is wrong with a run before anything is started or written
- `left_out.py`: rows that cannot be read, left out of steps
- `pace.py`: which worker the others wait for
- `refusal.py`: the line that a run that diverges ends with, and what it leaves to go on from
- `resuming.py`: whether a training starts a run or goes on with one
- `run_checkpoints.py`: the newest whole checkpoint taken up, new ones written, old ones pruned
- `scores.py`: a run's splits scored, between steps and at the end, recorded and judged
- `selection.py`: which metric of an evaluation decides what the best step is
- `splits.py`: the rows that are trained on and scored, and their files as a checkpoint knows them
- `state.py`: where a run stands: what hooks decide by and checkpoints keep
- `train_run.py`: a whole run, or a chain of stages: inspected, launched, summed up in its run folder
- `stepping.py`: one step after another, and their losses
- `taking_up.py`: a run's folder, made or taken up where it stopped
- `train_worker.py`: what each worker of a training does
- `trainer.py`: the loop: build, restore, step after step, finish
- `unread_losses.py`: losses of steps on their way to the host
- `warm_start.py`: what a run starts from: tables and tower parameters of other runs, named by `init_from`
- `watch.py`: a step's loss and gradients looked at, and a run ended by them
"""
