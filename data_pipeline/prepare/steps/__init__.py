"""What importers are made of: sources, splits, fitting, writing.

- `fitting.py`: The first pass: vocabularies, means and deviations of the training rows that will be written
- `lines.py`: Text files read as blocks of whole lines, plain or gzip, in bounded memory
- `parallel.py`: The same function over several input files: in this process, or on local Ray workers with the same
- `preparation.py`: Raw files -> prepared data in two passes: fit on training rows, then write every row as table rows
- `recipe.py`: What preparation makes of raw columns: a schema whose vocabularies, means and deviations are still to
- `rewriter.py`: Raw record batches -> prepared ones: ids become table rows, everything else is checked and kept
- `selection.py`: Which of a file's rows are written, and to which split: the same in both passes, for any number of
- `source.py`: What preparation reads: one input file as a stream of record batches
- `splits.py`: Which split a row goes to: by hash, by time, by a column, or as its file says
- `table_rows.py`: Codes of values -> rows of a table: the vocabulary of a feature whose values are in memory
- `text.py`: Delimited text, plain or gzip, as typed record batches: parsed by pyarrow's CSV reader, streamed, errors
- `writer.py`: Writing prepared data: folders that appear complete or not at all, and Parquet files of bounded size
"""
