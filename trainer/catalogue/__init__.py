"""The catalogue is all items that a model could recommend, each with its vector."""
