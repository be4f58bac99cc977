"""Sizes as expressions in the symbols of a model's inputs: of dims, and of the integer tensors that are made of them.

`shapes_of(model)` of `graphopt.analysis.shapes` is how rules ask. `poly` holds the arithmetic, `terms` what is no
polynomial (quotients, minima), `lists` what integer tensors hold, `dims` what dims operators make, `facts` what was
found out of one model, `prove` the questions that arithmetic alone does not answer.
"""
