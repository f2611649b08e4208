"""Sections that do what none should: each has one figure before it ends as its name says."""
