"""Benchmarks measure this machine: all of `shardrec bench`.

- `bound.py`: the bound of a step: its matrix products alone, and its tables' rows in memory
- `bundle.py`: how fast a bundle scores rows: `shardrec bench bundle`
- `checkpoint.py`: how fast checkpoints are written and read, beside the disk: `shardrec bench checkpoint`
- `checkpoint_rounds.py`: one round of the checkpoint benchmark: a table and plain bytes, written and read by one worker
- `gpu_check/`: everything that needs a GPU, in one run whose results are one file: `shardrec bench gpu`
- `histories.py`: history models from Parquet, beside the same models on padded histories: `shardrec bench histories`
- `id_stream.py`: a stream of raw ids through one dynamic table, beside exact counts of all of them
- `ids.py`: streams of raw ids on several workers, their counters checked in the end: `shardrec bench ids`
- `padded_histories.py`: history models on padded histories, as they are usually written
- `predict.py`: rows scored from Parquet to Parquet, beside the tower's products alone: `shardrec bench predict`
- `reader.py`: Parquet to batches on one core, beside plain pyarrow: `shardrec bench reader`
- `sharded_tables.py`: one case of lookup and update under a placement, and what memory and exchange reach
- `sharding.py`: lookup and update over placements, workers, rows, pooling and skew: `shardrec bench sharding`
- `step.py`: the training step in memory, beside its bound, and end to end from Parquet: `shardrec bench step`
"""
