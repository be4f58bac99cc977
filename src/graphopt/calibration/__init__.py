"""Calibration: what ranges the tensors of a model take on representative data; see `graphopt.calibrate`."""
