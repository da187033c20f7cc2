"""Many models: what is meant by paths, folders and patterns, and one use case for each of what was found."""
