"""What is run, in which order, and what is shown of it."""
