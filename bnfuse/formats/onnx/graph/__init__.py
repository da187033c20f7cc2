"""What an ONNX file says: core's graph of it, its constants, shapes, scopes and contents."""
