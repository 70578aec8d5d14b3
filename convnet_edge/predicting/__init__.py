"""Label pictures and folders of them."""
