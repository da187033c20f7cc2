"""The bytes of an ONNX file: protobuf wire format, stored tensors where they lie, streams on writing."""
