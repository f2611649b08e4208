"""What a row is, and how Parquet rows become batches.

- `batch.py`: A batch on its way from the loader to the tower: tensors only, one object that moves between devices
- `declaration.py`: What users write in YAML: how it is read, and what is said, in one line, of what cannot be
- `errors.py`: The one exception that users see as a line instead of a traceback
- `features/`: what a column means, and how its values become ids and numbers
- `loading/`: batches, made ahead of the step that takes them
- `prepare/`: raw data to Parquet with a schema: `shardrec prepare`
- `reading/`: row ranges of Parquet files, in a pure order, as arrays
- `sampling/`: negatives drawn for training rows
- `sizes.py`: Sizes in bytes, as people read and write them
"""
