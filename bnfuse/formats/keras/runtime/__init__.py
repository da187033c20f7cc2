"""Keras, in a process of its own: loads, runs and times models, and looks inside them."""
