"""What makes a graph a proved file: reference outputs, tolerance, golden vectors."""
