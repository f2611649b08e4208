"""The data pipeline says what a row is, and makes batches of Parquet rows.

- `batch.py`: a batch on its way from the loader to the tower
- `comma_lists.py`: lists written as one word with commas
- `declaration.py`: what users write in YAML, how it is read, and the one line that says what is wrong with it
- `documents.py`: YAML, read and written by one door
- `errors.py`: the exception that users see as a line instead of a traceback
- `file_errors.py`: errors of the operating system, which say which file they were about
- `file_names.py`: what a table's name becomes in the names of files
- `features/`: what a column means, and how its values become ids and numbers
- `local_ray.py`: a Ray on this machine that nobody else may use
- `loading/`: batches, made ahead of the step that takes them
- `name_patterns.py`: which names a pattern of a run file means
- `natural_order.py`: names in the order of the numbers in them
- `prepare/`: raw data, made into Parquet with a schema: `shardrec prepare`
- `owned_files.py`: what the program can prove that it wrote, all that it may remove
- `reading/`: row ranges of Parquet files, as arrays, in an order computed from data and seed alone
- `relative_names.py`: names of files that stay inside their folder
- `sampling/`: negatives drawn for training rows
- `sealed_parquet.py`: Parquet files that notice flipped bytes
- `sizes.py`: sizes in bytes, as people read and write them
- `whole_files.py`: files and folders that appear complete or not at all
"""
