"""From images and a network to a checkpoint."""
