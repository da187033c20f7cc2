"""What differs between the contents of two models: matching, wiring, numbers; values in, values out."""
