"""A bundle answers over HTTP: `shardrec serve`."""
