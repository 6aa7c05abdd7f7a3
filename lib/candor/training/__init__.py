"""One recipe a file, over TRL."""
