"""Equal spellings that ONNX Runtime's own optimizations do not turn into something else.

ONNX Runtime rewrites a model when it loads it, and gets some forms wrong at its default level. These rules run last and
move such a form to an equal one that it leaves alone; the result is standard ONNX and right in any runtime.
"""
