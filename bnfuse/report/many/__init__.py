"""Many models as one report. Each form yields it piece by piece, and holds one model's report at a time."""
