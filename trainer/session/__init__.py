"""A session is a model with its tables, ready to step.

- `agreed_batches.py`: batches to be scored, of which ranks stop together
- `bad_rows.py`: rows that cannot be read any more, which may be few
- `blueprint.py`: a run before its tables exist: schema, model, plan and footers, each made once
- `expected_workers.py`: the workers that a run is to have, and their memory and rates
- `forward.py`: one forward pass: lookup, then tower; what its loss is over all ranks
- `loaders.py`: how a run's files become batches
- `parameter_optimizers.py`: each tower parameter's optimizer: the tower's, or its own; FTRL as tables have it
- `pipeline.py`: how far batches are prepared ahead of steps, and how late losses are read
- `precision.py`: what `trainer.precision: auto` comes to
- `prepared.py`: a batch on its way to the device, and what all ranks count of it
- `scoring_pass.py`: rows read, looked up and scored at once, in order
- `session.py`: one worker's share of a run: tables, tower, batches
- `stopwatch.py`: seconds added up of what happens again and again
- `tower.py`: the tower's optimizers, and the learning-rate schedule that tables share with it
- `tower_size.py`: a tower's size, found before its memory is taken
"""
