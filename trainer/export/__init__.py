"""A trained model leaves as a bundle, which scores without anything that trained it: `shardrec export`."""
