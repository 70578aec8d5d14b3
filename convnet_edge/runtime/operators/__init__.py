"""Which operators a graph may hold, and what follows from each: shapes, memory, work."""
