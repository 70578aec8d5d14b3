"""The command line: a file a verb with what it prints; `app` holds the error boundary."""
