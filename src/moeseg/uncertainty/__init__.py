"""Uncertainty: scores of doubt, calibration, conditional correctness, temperatures.

How far a model's probabilities can be trusted, and whether its doubt falls on its errors.
"""
