"""Preparation: public data sets and delimited files -> Parquet in `train/`, `validation/`, `test/` beside `schema.yaml`."""
