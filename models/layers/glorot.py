"""Glorot's initialisation (Glorot & Bengio, AISTATS 2010) is for papers that start from it."""

from torch import nn


def glorot(module: nn.Module) -> None:
    """Makes weights of all linear layers inside `module` uniform on +- sqrt(6 / (inputs + outputs)), and biases 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
