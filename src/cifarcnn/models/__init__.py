"""Saved models: written, checked and opened, described, exported.

Read ``modelfile`` first. What comes from elsewhere is opened when ``modelguard`` or ``graphguard`` passed it.
"""
