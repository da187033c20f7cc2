"""The op table: which rules of core each ONNX operator obeys."""
