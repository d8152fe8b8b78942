"""Prediction of what pictures show. Read ``predict`` first."""
