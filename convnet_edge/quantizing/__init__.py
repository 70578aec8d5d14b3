"""From a float ONNX file to integers, behind a gate."""
