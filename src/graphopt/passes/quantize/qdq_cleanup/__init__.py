"""QuantizeLinear (Q) and DequantizeLinear (DQ) removed, moved and shared where that changes no number.

A grid is what Q rounds to: s * (q - z) for every integer q of a type. All of these rules are exact for every number,
infinities too. Q of NaN is any integer, as ONNX leaves it open: where a rule moves a Q to the other side of an operator
that passes NaN on, another integer may come out of a NaN. Rules that leave operators on integers behind are for ONNX
Runtime; TensorRT wants Q and DQ around them.
"""
