"""Sizes of axes through ONNX operators, for all sizes of the free axes at once."""
