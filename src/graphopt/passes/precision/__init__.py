"""Element types and opsets: lower precision, narrower integers, newer operator sets."""
