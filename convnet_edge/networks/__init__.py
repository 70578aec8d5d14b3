"""What can be trained or brought, and the checkpoints that hold it."""

REFERENCE = "convnet"  # the tutorial's network, as --arch names it
MAX_CHECKPOINT_BYTES = 512 << 20
MAX_OTHER_BYTES = 4 << 20  # of it: the header, with a line an epoch, and what is no parameter
# numbers that it holds; a run's state has three for each parameter: itself, and two of its updates
MAX_STORED = (MAX_CHECKPOINT_BYTES - MAX_OTHER_BYTES) // 4
MAX_PARAMETERS = MAX_STORED // 3
