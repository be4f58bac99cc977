"""Operators written out, recognised in every spelling that exporters use; emitted as what runs fastest."""
