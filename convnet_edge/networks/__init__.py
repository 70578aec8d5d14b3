"""What can be trained, and the checkpoints that hold it."""
