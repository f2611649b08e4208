"""Imported last by the server of processes: what it imported before is no garbage, and shared by all of its forks.

A fork would else look through all of it at each collection, and copy the pages of what it looks at.
"""

import gc

gc.collect()
gc.freeze()
