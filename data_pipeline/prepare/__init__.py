"""Raw data becomes Parquet with a schema: `shardrec prepare`.

- `behaviour/`: histories of events, and candidates beside held-out items
- `commands.py`: `shardrec prepare ...`: one command per data set, and one for any delimited file
- `generators/`: made-up data whose best scores are known
- `history_commands.py`: the commands that make rows with behaviour sequences
- `importers/`: one file a public data set or format: add yours here
- `options.py`: the options that the commands share
- `steps/`: what importers are made of: sources, splits, fitting, writing
"""
