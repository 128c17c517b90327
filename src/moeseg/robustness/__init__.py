"""Attacks, corruptions and robust training: how a model fares on changed images."""
