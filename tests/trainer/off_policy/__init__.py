"""Off-policy evaluation: `python -m tests.trainer.off_policy` judges 1,000 simulated logs and prints what it finds."""
