"""How tensors lie in memory: the rank and the order of axes for which a runtime has its fast kernels."""
