"""What a proof is made of: running the reference, measuring how far the outputs are apart, judging."""
