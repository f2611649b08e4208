"""Items are found for users, and items like an item, out of a whole catalogue: `shardrec retrieve`."""
