"""What graphopt says, and leaves alone, when it is given something bad."""
