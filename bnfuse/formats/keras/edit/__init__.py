"""A patch of core's made to a Keras model, and the model written."""
