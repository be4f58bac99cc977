"""The contract of passes, checked on all of them."""
