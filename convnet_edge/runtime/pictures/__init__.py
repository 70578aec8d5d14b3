"""Any picture, made the pixels that a model takes."""
