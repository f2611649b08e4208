"""What a run file says.

- `differences.py`: In which settings two runs differ: what is there is only gone on with, or compared, as what it was
- `import_path.py`: Where a user's own models are imported from: the folder that a run file's `import_from` names
- `init_from.py`: `init_from` of a run file: which tables and tower parameters start as those of other runs, in part
- `load.py`: Run files read: YAML, with overrides and a variant laid over it, checked before anything starts
- `overrides.py`: `--set a.b=c`: a value written into the document of a run file, before it is checked
- `sections.py`: The run file: one YAML document that says everything about a run, checked before anything starts
- `stages.py`: `stages:` of a run file: runs in turn, each of which may start from the tables and towers of earlier
- `variants.py`: Variants of a run file: one document that holds several models, each as a partial run file merged
"""
