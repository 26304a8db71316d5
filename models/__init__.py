"""Numerics of AlphaToken on tensors; runs with torch and transformers alone.

Shape letters at the end of tensor names, one legend for the folder:
    B sequences of a batch, T positions, I inputs of a layer, O its outputs, V vocabulary, K directions.
"""
