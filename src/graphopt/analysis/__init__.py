"""What can be known about a model without changing it."""
