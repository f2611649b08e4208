"""All of `shardrec bench`.

- `checkpoint.py`: `shardrec bench checkpoint`: how fast checkpoints of a large table are written and read, beside the
- `checkpoint_rounds.py`: What writing and reading a table takes, beside plain writes and reads of the same bytes on
- `histories.py`: `shardrec bench histories`: history models end to end from Parquet, beside the same models written
- `id_stream.py`: A long stream of raw ids through one dynamic table, beside exact counts of all ids that occurred in
- `ids.py`: `shardrec bench ids`: a long stream of raw ids through one dynamic table, whose counters are checked in
- `padded_histories.py`: The history models as they are usually written, for `shardrec bench histories` to measure
- `reader.py`: How fast rows become batches on one core, beside how fast pyarrow alone decodes the same columns
- `sharded_tables.py`: How fast tables under a placement are looked up and updated, beside what memory and exchange
- `sharding.py`: `shardrec bench sharding`: lookup and update of tables over placements, worlds, sizes, batches
- `step.py`: `shardrec bench step`: the training step alone, on batches in memory, and end to end from Parquet, in one
"""
