"""A run file is read and checked, and says everything about a run.

- `catalogue.py`: what a run file says of the catalogue: its items, and how lists of all of them are measured
- `differences.py`: in which settings two runs differ
- `import_path.py`: where a user's own models are imported from
- `init_from.py`: which tables and tower parameters start as those of other runs
- `launch.py`: where workers run
- `load.py`: how a run file is read, overridden and checked
- `model_settings.py`: a model's class and its settings, checked
- `overrides.py`: `--set a.b=c`, and one document laid over another
- `paths.py`: paths, made absolute as they come in
- `relocation.py`: a run file inside a run folder means that folder
- `resources.py`: what each worker asks Ray for
- `section.py`: what all sections have in common
- `sections.py`: the sections and keys of the run file
- `stages.py`: `stages:`, runs in turn that start from each other
- `tracking.py`: which experiment trackers a run has
- `trust.py`: what a run folder that may be anybody's is allowed to do
- `tuning.py`: `tune:`, which keys are searched for, and how
- `variants.py`: `variants:`, several models in one run file
- `worker_counts.py`: how many workers, or between which numbers
"""
