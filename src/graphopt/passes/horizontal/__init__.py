"""Horizontal fusion: operators side by side, on one input, become one."""
