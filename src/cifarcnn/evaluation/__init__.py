"""Measuring models on labelled images, and comparing them. Read ``evaluation`` first."""
