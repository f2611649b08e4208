"""Scores become probabilities that can be trusted, and orders by what a click brings."""
