"""Settings are searched for: `shardrec tune`."""
