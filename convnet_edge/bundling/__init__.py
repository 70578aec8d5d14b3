"""What is handed over: one file for a device, a page for a browser, ONNX's own test layout."""
