"""Preparation: public data sets and delimited files -> `train/`, `validation/`, `test/` (Parquet) and `schema.yaml`."""
