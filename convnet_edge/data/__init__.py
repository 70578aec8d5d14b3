"""Images with labels, wherever they come from."""
