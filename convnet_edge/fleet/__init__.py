"""Other machines, reached by ssh."""
