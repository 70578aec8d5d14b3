"""What can be trained or brought, and the checkpoints that hold it."""

REFERENCE = "convnet"  # the tutorial's network, as --arch names it
