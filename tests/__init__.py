"""Tests, in folders as the code's."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
