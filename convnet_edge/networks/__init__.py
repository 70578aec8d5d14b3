"""What can be trained or brought, and the checkpoints that hold it."""

REFERENCE = "convnet"  # the tutorial's network, as --arch names it
MAX_CHECKPOINT_BYTES = 512 << 20
# of which an unfinished run keeps three numbers each: itself, and two of its updates
MAX_PARAMETERS = MAX_CHECKPOINT_BYTES // 12
