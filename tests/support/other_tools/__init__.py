"""Quantized models that other tools wrote; make.py says how."""
