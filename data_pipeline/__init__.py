"""The data pipeline says what a row is, and makes batches of Parquet rows.

- `batch.py`: a batch on its way from the loader to the tower
- `declared/`: what users write in YAML and in options, read within bounds
- `errors.py`: the exception that users see as a line instead of a traceback
- `features/`: what a column means, and how its values become ids and numbers
- `files/`: what files are called, who wrote them, whether they are whole
- `local_ray.py`: a Ray on this machine that nobody else may use
- `loading/`: batches, made ahead of the step that takes them
- `prepare/`: raw data, made into Parquet with a schema: `shardrec prepare`
- `reading/`: row ranges of Parquet files, as arrays, in an order computed from data and seed alone
- `sampling/`: negatives drawn for training rows
- `stores/`: object stores, spoken to with patience
"""
