"""What is worth doing to a float model before it is quantized; exact in real arithmetic."""
