"""Evaluation of models on labelled images, and their comparison. Read ``evaluate`` first."""
