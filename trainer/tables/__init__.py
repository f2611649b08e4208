"""Rows of tables in and out, and how tables are used.

- `export.py`: A table of a checkpoint as Parquet: `id` and `vector`, by blocks of rows; all of it or nothing
- `ids.py`: What the rows of a table are called outside: by the values of its vocabulary where it has one, else by
- `import_rows.py`: Rows from Parquet into a copy of a run: a new run folder with one checkpoint, in which one table
- `incoming_rows.py`: Rows of a table that come from Parquet files, checked: `id` and `vector`, in any order, in blocks
- `report.py`: `shardrec tables`: how well the tables of a checkpoint are used, read front to back in constant memory
- `report_view.py`: What `shardrec tables` prints for people: a line a table, a line an id map, a histogram of each
- `row_norms.py`: Norms of a table's rows, gathered in one pass: mean, largest, and a histogram whose bins fit what
"""
