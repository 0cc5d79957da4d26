"""What was measured with the method: all results over several seeds, their tables and figures, and upper bounds."""
