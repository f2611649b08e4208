"""Raw data to Parquet with a schema: `shardrec prepare`.

- `behaviour/`: histories of events, and candidates beside them
- `commands.py`: `shardrec prepare ...`: one command per data set, and one for any delimited file
- `generators/`: made-up data whose best scores are known
- `history_commands.py`: `shardrec prepare histories | amazon | movielens-histories | synthetic-histories`: rows with
- `importers/`: one file a public data set or format: add yours here
- `options.py`: What the commands of `shardrec prepare` share: their options, how shares are written, what is printed
- `steps/`: what importers are made of: sources, splits, fitting, writing
"""
