"""What reports show beside decisions: the graph around them, and what became of weights."""
