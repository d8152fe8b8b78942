"""Saved models: written, checked and opened, described, exported, imported.

Read ``modelfile`` first. What comes from elsewhere is opened when ``modelguard`` or the sandbox of ``litert``
passed it.
"""
