"""Many results on one page; two models side by side."""
