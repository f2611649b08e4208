"""Tests lie in folders as the code's do: `trainer/config/load.py` is tested in `tests/trainer/config/`.

What several tests share lies beside them:

- `conftest.py`: fixtures of all layers, and how tests run side by side
- `frozen.py`: keeps what the server of processes has imported out of its forks' collections
- `processes.py`: runs a function in several processes that form a process group, as the ranks of a run do
- `test_layering.py`: which layer and which room may import from which
- `models/cases.py`, `behaviour.py`, `reference_lookup.py`: a case of every model, and what all models must do
- `sharding/cases.py`, `reference.py`, `plain_id_map.py`: tables and batches of every kind, and plain loops beside them
- `sharding/everywhere.py`: what these do on 1 to 4 ranks, once for all tests that look at it
- `emulated_cuda/`: a GPU for machines that have none, on which devices may not mix
- `trainer/small_run.py`, `saved_runs.py`, `dynamic_runs.py`, `stage_files.py`: small data, run files
- `trainer/recorded.py`: trains in this process or in several, keeping each batch and loss; compares checkpoints
- `trainer/command_line.py`: runs a `shardrec` command in this process
- `trainer/started.py`, `torchrun.py`: run one in a process of its own, and on several ranks

`make test` runs lint, types and all tests but those that are marked `long`, which `make test-long` runs: a test is
long that takes over some 8 seconds, as one does that starts a Ray. Each behaviour has one that is not, where there
can be one. `make tests` runs the tests alone; `pytest tests/models` runs some of them, long ones too, one after
another. `make tests` uses `JOBS` processes side by side, 2 if not told otherwise (`pytest -n 2` is the same):

- A module's tests run in one process, in order, so that its fixtures are made once. `tests/sharding` counts as one
  module, since its tests share processes; so does `tests/trainer/launch`, of which most start a Ray. Those that take
  longest begin.
- Tests that measure memory are marked `alone`: they wait until no other test runs, and others wait for them.
- Tests see no GPU, also where there is one, so that a helper which names no device means the CPU. What a GPU must do is
  tested on an emulated one, and under `pytest -m gpu`, which `make gpu-check` runs, on a real one: such a test takes
  the fixture `gpu`, or is marked `gpu`.
- A test process has one torch thread (`OMP_NUM_THREADS`, unless it is set). Names of files and ports are drawn anew or
  lie in `tmp_path`, never fixed: another test may run at the same moment.
- Ranks are forked from a process that has imported everything, and so is what a command in a test's process spawns.
  Ray, `torchrun` and commands in processes of their own start others that import it all again, which takes seconds: a
  test of what ranks compute uses `processes.py`, one of a launcher launches once.
- A test that takes longer than 300 seconds fails. The 20 slowest are listed at the end.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
