"""Rows of tables go in and out, and reports say how tables are used.

- `export.py`: a table of a checkpoint as Parquet, by blocks of rows: `shardrec checkpoint export`
- `ids.py`: what the rows of a table are called outside: values of a vocabulary, raw ids or row numbers
- `import_rows.py`: rows from Parquet into a copy of a run: `shardrec checkpoint import`
- `incoming_rows.py`: Parquet files of rows to import, checked and read in blocks
- `report.py`: how well the tables of a checkpoint are used: `shardrec tables`
- `report_view.py`: what `shardrec tables` prints for people
- `row_norms.py`: norms of a table's rows, gathered in one pass
"""
