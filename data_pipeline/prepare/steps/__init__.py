"""Importers are made of these steps, which go over raw files twice: to fit, then to write.

- `fitting.py`: the first pass: vocabularies, means and deviations of the training rows
- `json_objects.py`: a large JSON object, entry by entry
- `lines.py`: text files read as blocks of whole lines or records
- `option_values.py`: what options of importers may be, and their defaults
- `parallel.py`: one function over several input files, in this process or on local Ray workers
- `preparation.py`: the two passes: fit on training rows, then write every row
- `progress.py`: how far a preparation is, told one line at a time
- `quoting.py`: where quotes of fields open and close
- `recipe.py`: what raw columns become, with vocabularies and means still to be fitted
- `recipe_features.py`: what one feature of a recipe says, by its kind
- `rewriter.py`: raw record batches become prepared ones
- `selection.py`: which of a file's rows are written, and to which split
- `source.py`: one input file as a stream of record batches
- `splits.py`: which split a row goes to: by hash, by time, by a column
- `streams.py`: files as streams of bytes or text, decompressed and decoded
- `table_rows.py`: codes of values in memory become rows of a table with a vocabulary
- `text.py`: delimited text as typed record batches
- `writer.py`: folders that appear complete or not at all, and Parquet files of bounded size
- `word_lines.py`: lines of words, `user item item ...`, become pairs
"""
