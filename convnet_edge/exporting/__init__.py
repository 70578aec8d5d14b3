"""From a checkpoint to a proved ONNX file, and proving such a file again."""
