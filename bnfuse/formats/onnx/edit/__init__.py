"""A patch of core's made to an ONNX model, and the model written."""
